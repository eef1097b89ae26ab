//! Directories of roots: what is wrong is told by its file's name, and the rest is used.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::{Directories, Error, Flaw, Problem};

struct Place {
    _directory: TempDir,
    directories: Directories,
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let packaged = directory.path().join("pkg");
    let installed = directory.path().join("state/installed");
    fs::create_dir(&packaged).unwrap();
    Place { directories: Directories { packaged, installed }, _directory: directory }
}

impl Place {
    fn packaged(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directories.packaged.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn load(&self) -> (Vec<String>, Vec<Problem>) {
        let (store, problems) = self.directories.load(Some(in_year(2026).into()));
        (store.roots().iter().map(|root| root.certificate.subject.clone()).collect(), problems)
    }
}

#[test]
fn unusable_files_are_told_by_name_and_the_others_are_used() {
    let place = place();
    let good = root(ca("good"));
    place.packaged("a-good.pem", good.pem());
    place.packaged("b-empty.pem", "");
    place.packaged("c-damaged.pem", format!("{}-----BEGIN CERTIFICATE-----\n***\n", root(ca("lost")).pem()));
    place.packaged("d-expired.pem", root(dated(ca("old"), 2000, 2001)).pem());
    place.packaged("e-coming.pem", root(dated(ca("coming"), 2030, 2031)).pem());
    place.packaged("f-server.pem", server("server").self_signed(&key()).unwrap().pem());
    place.packaged("g-copy.pem", good.pem());
    place.packaged("h-large.pem", vec![b'\n'; (1 << 20) + 1]);
    place.packaged("i-other.crt", good.pem());
    place.packaged("j-weak.pem", include_bytes!("fixtures/weak-root.pem"));
    place.packaged("k-der.pem", good.der());
    place.packaged("l-body.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    place.packaged(".hidden", "an editor's");
    fs::create_dir(place.directories.packaged.join("m-directory.pem")).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        place.directories.packaged.join("n-pipe.pem"),
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    std::os::unix::fs::symlink("/nowhere", place.directories.packaged.join("o-gone.pem")).unwrap();
    place.packaged("p-good.pem", format!("# two\n{}{}", root(ca("second")).pem(), root(ca("third")).pem()));

    let (roots, problems) = place.load();
    assert_eq!(roots, ["CN=good", "CN=old", "CN=coming", "CN=second", "CN=third"]);
    let told: Vec<(String, &Flaw)> = problems
        .iter()
        .map(|problem| (problem.file.file_name().unwrap().to_str().unwrap().to_owned(), &problem.what))
        .collect();
    let told: Vec<(&str, &Flaw)> = told.iter().map(|(name, flaw)| (name.as_str(), *flaw)).collect();
    assert!(
        matches!(
            told[..],
            [
                ("b-empty.pem", Flaw::NotPem),
                ("c-damaged.pem", Flaw::DamagedPem { after: 1, .. }),
                ("d-expired.pem", Flaw::Expired { .. }),
                ("e-coming.pem", Flaw::NotYetValid { .. }),
                ("f-server.pem", Flaw::NotACa { .. }),
                ("g-copy.pem", Flaw::Duplicate { .. }),
                ("h-large.pem", Flaw::TooLarge),
                ("i-other.crt", Flaw::Suffix),
                ("j-weak.pem", Flaw::WeakKey { .. }),
                ("k-der.pem", Flaw::NotPem),
                ("l-body.pem", Flaw::Malformed { number: 1, .. }),
                ("m-directory.pem", Flaw::NotAFile | Flaw::Unreadable(_)),
                ("n-pipe.pem", Flaw::NotAFile),
                ("o-gone.pem", Flaw::Unreadable(_)),
            ]
        ),
        "{told:#?}"
    );
    let copy = problems[5].to_string();
    assert!(copy.contains("g-copy.pem: ") && copy.ends_with("pkg/a-good.pem"), "{copy}");
}

#[test]
fn missing_directories_hold_no_roots() {
    let place = place();
    fs::remove_dir(&place.directories.packaged).unwrap();
    let (roots, problems) = place.load();
    assert!(roots.is_empty() && problems.is_empty(), "{problems:?}");
}

#[test]
fn added_root_is_a_file_for_all_to_read_and_goes_by_its_fingerprint() {
    let place = place();
    let new = root(ca("new"));
    let now = Some(in_year(2026).into());
    let added = place.directories.add(format!("text before\n{}", new.pem()).as_bytes(), now).unwrap();
    let [added] = &added[..] else { panic!("{added:?}") };
    let sha256 = added.certificate.sha256.to_string();
    assert_eq!(added.file, place.directories.installed.join(format!("{sha256}.pem")));
    let mode = fs::metadata(&added.file).unwrap().permissions().mode();
    assert_eq!((mode & 0o777, added.origin), (0o644, Origin::Installed));
    let names = || {
        let entries = fs::read_dir(&place.directories.installed).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    };
    assert_eq!(names().len(), 1, "nothing is left of writing it");
    let (roots, problems) = place.load();
    assert_eq!((roots, problems.len()), (vec!["CN=new".to_owned()], 0));

    let again = place.directories.add(new.pem().as_bytes(), now);
    assert!(matches!(again, Err(Error::Refused(Flaw::Duplicate { .. }))));
    assert!(matches!(place.directories.remove("abc"), Err(Error::Unknown { .. })), "three digits");
    assert!(matches!(place.directories.remove(&"0".repeat(64)), Err(Error::Unknown { .. })));
    let removed = place.directories.remove(&sha256[..8].to_ascii_uppercase()).unwrap();
    assert_eq!(removed.roots, std::slice::from_ref(added));
    assert!(names().is_empty());
}

#[test]
fn text_with_one_unfit_certificate_adds_none() {
    let place = place();
    let now = Some(in_year(2026).into());
    let good = root(ca("good")).pem();
    let refused = |other: &str| match place.directories.add(format!("{good}{other}").as_bytes(), now) {
        Err(Error::Refused(flaw)) => flaw,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(&server("server").self_signed(&key()).unwrap().pem()), Flaw::NotACa { .. }));
    assert!(matches!(refused(&root(dated(ca("old"), 2000, 2001)).pem()), Flaw::Expired { .. }));
    assert!(matches!(
        refused(&String::from_utf8_lossy(include_bytes!("fixtures/weak-root.pem"))),
        Flaw::WeakKey { .. }
    ));
    assert!(matches!(place.directories.add(b"hello", now), Err(Error::Refused(Flaw::NotPem))));
    assert!(!place.directories.installed.exists());
    assert_eq!(
        place.directories.add(format!("{good}{good}").as_bytes(), now).unwrap().len(),
        1,
        "twice is once"
    );
}

#[test]
fn removal_keeps_to_what_was_meant() {
    let place = place();
    let packaged = root(ca("packaged"));
    place.packaged("packaged.pem", packaged.pem());
    let sha256 = crate::Fingerprint::of(packaged.der()).to_string();
    for id in [&sha256[..12], "packaged.pem"] {
        assert!(matches!(place.directories.remove(id), Err(Error::Packaged { .. })), "{id}");
    }
    let installed = &place.directories.installed;
    fs::create_dir_all(installed).unwrap();
    let (one, two) = (root(ca("one")), root(ca("two")));
    fs::write(installed.join("bundle.pem"), format!("{}{}", one.pem(), two.pem())).unwrap();
    fs::write(installed.join("copy.pem"), packaged.pem()).unwrap();
    let id = crate::Fingerprint::of(one.der()).to_string();
    assert!(matches!(place.directories.remove(&id), Err(Error::InBundle { count: 2, .. })));
    assert_eq!(place.directories.remove("bundle.pem").unwrap().roots.len(), 2);
    // A file that gives no root goes by its name too.
    assert!(place.directories.remove("copy.pem").unwrap().roots.is_empty());
    for outside in ["../state/installed/x.pem", "/etc/hosts", "..", "", "../pkg/packaged.pem"] {
        assert!(matches!(place.directories.remove(outside), Err(Error::Unknown { .. })), "{outside}");
    }
    assert!(place.directories.packaged.join("packaged.pem").exists());
}

#[test]
fn store_knows_whether_a_root_is_still_there() {
    let place = place();
    let gone = root(ca("gone"));
    let path = place.packaged("gone.pem", gone.pem());
    let sha256 = crate::Fingerprint::of(gone.der());
    assert!(place.directories.load(None).0.contains(&sha256));
    fs::remove_file(path).unwrap();
    assert!(!place.directories.load(None).0.contains(&sha256));
}
