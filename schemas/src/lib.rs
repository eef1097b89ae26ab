//! The JSON Schemas of netd's files, generated from the types that the files are parsed into.
//!
//! `cargo xtask schema` writes them beside this crate; a test compares. Editors complete and underline with them, by the line
//! `#:schema` at the top of a file. They say less than the parsers do, which know what other keys there are and which users: `netd check`
//! has the last word.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use schemars::transform::transform_subschemas;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

/// A schema, and the file that it stands in.
#[derive(Debug)]
pub struct Published {
    /// The file.
    pub path: PathBuf,
    /// As written.
    pub text: String,
}

/// All there are: of netd.toml, of the files in policy.d, and of services.toml.
#[must_use]
pub fn all() -> Vec<Published> {
    let published = |name: &str, title: &str, schema: fn(SchemaGenerator) -> Schema| Published {
        path: Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{name}.schema.json")),
        text: text(schema(generator()), title),
    };
    vec![
        published("network", "netd.toml: the configuration of netd", netd::config::schema),
        published("policy", "policy.d/*.toml: who may do what through netd", netd_policy::file::schema),
        published(
            "services",
            "services.toml: the configuration of netd-services",
            netd_services::config::schema,
        ),
    ]
}

/// Draft 7, which every editor knows, in one piece: some do not follow references.
fn generator() -> SchemaGenerator {
    SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true).into_generator()
}

fn text(mut schema: Schema, title: &str) -> String {
    as_toml_has_it(&mut schema);
    schema.insert("title".to_owned(), title.into());
    format!("{:#}\n", schema.as_value())
}

/// TOML knows no null, which is what serde calls a key that is not there, and numbers of one width.
fn as_toml_has_it(schema: &mut Schema) {
    transform_subschemas(&mut as_toml_has_it, schema);
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    if object.get("default") == Some(&Value::Null) {
        object.remove("default");
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
        choices.retain(|choice| choice["type"] != "null");
        if let [only] = &choices[..] {
            let only = only.clone();
            object.remove("anyOf");
            // What is said of the key counts more than what is said of its type.
            for (key, value) in only.as_object().into_iter().flatten() {
                object.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    match object.get("format").and_then(Value::as_str) {
        Some("ip") => {
            object.remove("format");
            // No format of JSON Schema is both.
            object.insert("anyOf".to_owned(), json!([{ "format": "ipv4" }, { "format": "ipv6" }]));
        }
        Some(format) if format.starts_with("uint") => drop(object.remove("format")),
        Some(_) | None => {}
    }
}
