//! The schemas are current, say of each file what its parser says, and know the parsers' bounds and defaults.

use std::fs;
use std::path::{Path, PathBuf};

use boon::{Compiler, SchemaIndex, Schemas};
use netd::config::Config;
use serde_json::Value;

use super::all;

/// The least that netd.toml says.
const LEAST: &str = "[device]\nkind = \"vfio\"\nfunction = \"0000:00:04.0\"\n";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

/// A published schema, compiled.
struct Validator {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Validator {
    fn of(name: &str) -> Validator {
        let schema: Value = serde_json::from_str(&read(&format!("schemas/{name}.schema.json"))).unwrap();
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.enable_format_assertions();
        compiler.add_resource(name, schema).unwrap();
        let index = compiler.compile(name, &mut schemas).unwrap();
        Validator { schemas, index }
    }

    /// What is wrong with a text, if anything is.
    fn complaint(&self, text: &str) -> Option<String> {
        let file: toml::Table = toml::from_str(text).unwrap();
        let file = serde_json::to_value(file).unwrap();
        self.schemas.validate(&file, self.index).err().map(|error| error.to_string())
    }
}

fn schema(name: &str) -> Value {
    serde_json::from_str(&read(&format!("schemas/{name}.schema.json"))).unwrap()
}

#[test]
fn published_schemas_are_those_of_the_types() {
    for schema in all() {
        let published = fs::read_to_string(&schema.path).unwrap_or_default();
        assert!(published == schema.text, "{}: run `cargo xtask schema`", schema.path.display());
    }
}

/// Its name is in each file, for editors.
#[test]
fn shipped_file_names_its_schema_and_satisfies_it() {
    let mut checked = 0;
    for directory in ["configs", "configs/example.policy.d"] {
        for entry in fs::read_dir(repository().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let first = text.lines().next().unwrap();
            let named =
                first.strip_prefix("#:schema ").unwrap_or_else(|| panic!("{}: {first}", path.display()));
            let named = path.parent().unwrap().join(named).canonicalize().unwrap();
            let name = named.file_name().unwrap().to_str().unwrap().strip_suffix(".schema.json").unwrap();
            assert_eq!(Validator::of(name).complaint(&text), None, "{}", path.display());
            checked += 1;
        }
    }
    assert!(checked >= 7, "{checked}");
}

/// Those of rules. What begins otherwise is for other readers.
#[test]
fn example_of_the_documentation_satisfies_its_schema() {
    let (rules, mut checked) = (Validator::of("policy"), 0);
    for page in fs::read_dir(repository().join("docs")).unwrap() {
        let text = fs::read_to_string(page.unwrap().path()).unwrap();
        for example in text.split("```toml\n").skip(1) {
            let example = example.split("```").next().unwrap();
            if ["[[grant]]", "[[deny]]", "[[quota]]"].iter().any(|table| example.starts_with(table)) {
                assert_eq!(rules.complaint(example), None, "{example}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 4, "{checked}");
}

#[test]
fn wrong_file_is_refused_by_the_schema_as_by_the_parser() {
    let rule = "[[grant]]\nsubject = \"any\"\nallow = [\"net.icmp.ping\"]\n";
    let (netd, rules) = (Validator::of("network"), Validator::of("policy"));
    for right in [LEAST.to_owned(), format!("{LEAST}{rule}")] {
        assert!(Config::parse(Path::new("netd.toml"), &right).is_ok());
        assert_eq!(netd.complaint(&right), None);
    }
    for wrong in [
        "",
        "[device]\nkind = \"vfio\"\n",
        "[device]\nkind = \"vhost-user\"\n",
        "[device]\nkind = \"software\"\n",
        "[device]\nkind = \"usb\"\n",
        "[device]\nkind = \"vfio\"\nfunction = \"0000:00:04.0\"\nfeatures.colour = true\n",
    ] {
        assert!(Config::parse(Path::new("netd.toml"), wrong).is_err(), "{wrong}");
        assert!(netd.complaint(wrong).is_some(), "{wrong}");
    }
    for wrong in [
        "colour = 1\n",
        "[network.devnet]\nenabled = \"yes\"\n",
        "[network]\ndevnet = true\n",
        "[dns]\nmdns = \"ipv5\"\n",
        "[dns]\nservers = [\"nine\"]\n",
        "[address]\ngateway = \"fe80::1\"\n",
        "[clock]\ntrust = \"me\"\n",
        "[clock]\ntolerance_seconds = 3601\n",
        "[ipc]\nmode = \"rw\"\n",
        "[limits.client]\ncolours = 3\n",
        "[ipv6]\naddresses = []\nmode = \"static\"\n",
        "[address]\nhostname = \"a.b\"\n",
        "[services]\nuser = true\n",
    ] {
        let wrong = format!("{wrong}{LEAST}");
        assert!(Config::parse(Path::new("netd.toml"), &wrong).is_err(), "{wrong}");
        assert!(netd.complaint(&wrong).is_some(), "{wrong}");
    }
    for wrong in [
        "[[grant]]\nsubject = \"any\"\n",
        "[[grant]]\nsubject = \"alice\"\nallow = [\"net.icmp.ping\"]\n",
        "[[grant]]\nsubject = \"any\"\nallow = [\"net.everything\"]\n",
        "[[grant]]\nsubject = \"any\"\ndeny = [\"net.icmp.ping\"]\n",
        "[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\nports = [443]\n",
        "[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\nports = [\"http\"]\n",
        "[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\nhosts = [\"a.*.example\"]\n",
        "[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\"]\ntls = \"maybe\"\n",
        "[[deny]]\nsubject = \"any\"\ndeny = [\"net.tcp.connect\"]\ntls = \"any\"\n",
        "[[quota]]\nsubject = \"any\"\nsockets = 0\n",
        "[network.devnet]\nenabled = true\n",
    ] {
        assert!(netd_policy::file::read("rules.toml", wrong).is_err(), "{wrong}");
        assert!(rules.complaint(wrong).is_some(), "{wrong}");
    }
}

/// Tables of a schema with their keys, by dotted names: `limits.client`.
fn tables(schema: &Value, name: &str, found: &mut Vec<(String, String, Value)>) {
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        if property["properties"].is_object() {
            tables(property, &format!("{name}{}{key}", if name.is_empty() { "" } else { "." }), found);
        } else if !name.is_empty() {
            found.push((name.to_owned(), key.clone(), property.clone()));
        }
    }
}

/// What must stand beside a key for its largest value to be allowed: a part is at most the whole.
fn beside(table: &str, key: &str) -> &'static str {
    match (table, key) {
        ("tcp", "closing" | "backlog") => "connections = 1048576\n",
        ("tcp", "closing_per_user") => "connections = 1048576\nclosing = 1048576\n",
        ("tcp", "pending_per_listener" | "pending_per_source") => "pending = 1048576\n",
        ("stack", "fragments_per_source") => "fragments = 1048576\n",
        ("dns", "queries_per_user") => "queries = 256\n",
        _ => "",
    }
}

#[test]
fn bounds_of_the_schema_are_those_of_the_parser() {
    let (mut keys, mut checked) = (Vec::new(), 0);
    tables(&schema("network"), "", &mut keys);
    for (table, key, property) in keys {
        // A kind of device of its own has them, and what has no key of a maximum is bounded by its type.
        let (Some(least), Some(most)) = (property["minimum"].as_u64(), property["maximum"].as_u64()) else {
            continue;
        };
        if table == "device" || key == "mtu" {
            continue;
        }
        let with = |value: u64| {
            let text = format!("{LEAST}[{table}]\n{}{key} = {value}\n", beside(&table, &key));
            Config::parse(Path::new("netd.toml"), &text).is_ok()
        };
        assert!(with(least) && with(most), "{table}.{key}: {least} to {most}");
        assert!(least == 0 || !with(least - 1), "{table}.{key} may be less than {least}");
        assert!(!with(most + 1), "{table}.{key} may be more than {most}");
        checked += 1;
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn defaults_of_the_schema_are_those_of_the_parser() {
    let parse = |text: &str| Config::parse(Path::new("netd.toml"), text).unwrap();
    let mut keys = Vec::new();
    tables(&schema("network"), "", &mut keys);
    let mut checked = 0;
    for (table, key, property) in keys {
        let default = &property["default"];
        if table == "device" || default.is_null() {
            continue;
        }
        // JSON's scalars and lists of them are TOML's.
        let text = format!("{LEAST}[{table}]\n{key} = {default}\n");
        let (given, mut absent) = (parse(&text), parse(LEAST));
        // The default of a socket depends on the user, and is that of root.
        absent.socket = absent.socket.or_else(|| given.socket.clone());
        assert_eq!(format!("{given:?}"), format!("{absent:?}"), "{table}.{key} = {default}");
        checked += 1;
    }
    assert!(checked > 40, "{checked}");
}
