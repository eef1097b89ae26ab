//! `docs/rfc.md` says which test shows which requirement: each one that it names must be there.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in helpers")]

use std::collections::BTreeSet;
use std::fs;

use netd_tests::binaries::workspace;

/// The highest number of RFC 9293, Appendix B.
const MUST_LAST: u32 = 69;
/// What stands in the third column.
const STATES: [&str; 6] = ["kept", "engine's", "in part", "not kept", "not offered", "---"];

fn index() -> String {
    fs::read_to_string(workspace().join("docs/rfc.md")).unwrap()
}

/// The cells of each row that says something.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    rows.filter(|cells| !cells[2].is_empty()).collect()
}

#[test]
fn every_test_that_is_named_exists() {
    let text = index();
    let names: BTreeSet<(&str, &str)> =
        text.split('`').skip(1).step_by(2).filter_map(|name| name.split_once("::")).collect();
    assert!(names.len() > 80, "{} names", names.len());
    for (module, test) in names.into_iter().filter(|(_, test)| *test != "must_1") {
        let file = workspace().join(format!("stack/tests/scenarios/{module}.rs"));
        let source = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let found = source.contains(&format!("#[test]\nfn {test}()"));
        assert!(found, "docs/rfc.md names {module}::{test}, which is no test in {}", file.display());
    }
}

#[test]
fn every_must_of_rfc_9293_has_its_row() {
    let text = index();
    let named: Vec<&str> =
        rows(&text).iter().map(|cells| cells[0]).filter(|cell| cell.starts_with("MUST-")).collect();
    let expected: Vec<String> = (1..=MUST_LAST).map(|number| format!("MUST-{number}")).collect();
    assert_eq!(named, expected);
}

#[test]
fn every_row_says_what_holds_and_who_shows_it() {
    for cells in rows(&index()) {
        assert!(cells.len() == 4 && STATES.contains(&cells[2]), "{cells:?}");
        let shown = cells[3].contains('`') || cells[3].starts_with("the same");
        assert!(cells[2] != "kept" || shown, "kept, and nothing shows it: {cells:?}");
        assert!(shown || !cells[3].is_empty() || cells[2] == "not offered", "no reason: {cells:?}");
    }
}
