//! Policy files: text in, rules with their places out.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use crate::quota::QuotaTable;
use crate::rule::{DenyTable, GrantTable, Origin, RuleConfig};
pub use crate::spanned::Spanned;

/// Something wrong in a file: where, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct FileError {
    /// The file.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl FileError {
    /// What is wrong at a byte of a file's text.
    #[must_use]
    pub fn at(file: &str, text: &str, at: usize, message: impl fmt::Display) -> FileError {
        let before = text.get(..at).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
        FileError { file: file.to_owned(), line, column, message: message.to_string() }
    }

    /// What the parser says of a file, with the line that it means.
    #[must_use]
    pub fn of_parser(file: &str, text: &str, error: &toml::de::Error) -> FileError {
        let at = error.span().map_or(0, |span| span.start);
        let mut wrong = FileError::at(file, text, at, error.message().trim_end());
        let shown = text.lines().nth(wrong.line - 1).map(str::trim);
        if let Some(shown) = shown.filter(|shown| !shown.is_empty()) {
            wrong.message.push_str(&format!(" (in `{shown}`)"));
        }
        wrong
    }
}

/// What a file of rules may hold.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// What somebody may do. Nobody may do anything that no grant allows.
    #[serde(default)]
    grant: Vec<Spanned<GrantTable>>,
    /// What somebody may not do: wins over every grant.
    #[serde(default)]
    deny: Vec<Spanned<DenyTable>>,
    /// How much of netd somebody may have.
    #[serde(default)]
    quota: Vec<Spanned<QuotaTable>>,
}

/// What a file of rules looks like, as JSON Schema has it.
#[cfg(feature = "schema")]
#[must_use]
pub fn schema(generator: schemars::SchemaGenerator) -> schemars::Schema {
    generator.into_root_schema_for::<File>()
}

/// What a file says.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// Grants and denials, in the order of the text.
    pub rules: Vec<(Origin, RuleConfig)>,
    /// Quotas.
    pub quotas: Vec<(Origin, QuotaTable)>,
}

/// The rules of a file called `name` alone, in the order of the text.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse(name: &str, text: &str) -> Result<Vec<(Origin, RuleConfig)>, FileError> {
    read(name, text).map(|contents| contents.rules)
}

/// Everything that a file called `name` says.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn read(name: &str, text: &str) -> Result<Contents, FileError> {
    let File { grant, deny, quota } = toml::from_str(text).map_err(|error| wrong(name, text, &error))?;
    let places = Places::of(name, text);
    let mut rules = places.rules(grant, deny);
    rules.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(Contents { rules, quotas: places.quotas(quota) })
}

/// Where the tables of a file stand. Finds a line by halves, so that ten thousand rules are not counted through ten thousand times.
#[derive(Debug)]
pub struct Places {
    file: Arc<str>,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
}

impl Places {
    /// Those of a file called `name`.
    #[must_use]
    pub fn of(name: &str, text: &str) -> Places {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Places { file: name.into(), lines: std::iter::once(0).chain(breaks).collect() }
    }

    /// Rules of tables that stand in the text.
    #[must_use]
    pub fn rules(
        &self,
        grants: Vec<Spanned<GrantTable>>,
        denials: Vec<Spanned<DenyTable>>,
    ) -> Vec<(Origin, RuleConfig)> {
        let grants = grants.into_iter().map(|table| (self.origin(&table), table.into_inner().into()));
        let denials = denials.into_iter().map(|table| (self.origin(&table), table.into_inner().into()));
        grants.chain(denials).collect()
    }

    /// Quotas of tables that stand in the text.
    #[must_use]
    pub fn quotas(&self, tables: Vec<Spanned<QuotaTable>>) -> Vec<(Origin, QuotaTable)> {
        tables.into_iter().map(|table| (self.origin(&table), table.into_inner())).collect()
    }

    pub(crate) fn origin<T>(&self, table: &Spanned<T>) -> Origin {
        let at = table.span().start;
        Origin { file: Arc::clone(&self.file), line: self.lines.partition_point(|start| *start <= at) }
    }
}

/// What is wrong with a file of rules.
fn wrong(file: &str, text: &str, error: &toml::de::Error) -> FileError {
    let mut wrong = FileError::of_parser(file, text, error);
    let said = error.message();
    if said.starts_with("unknown field") && said.contains("expected one of `grant`, `deny`, `quota`") {
        wrong
            .message
            .push_str("; netd.toml, with its other tables, is checked by `netd check --config FILE`");
    }
    wrong
}

/// Rules as one file that says the same.
pub fn print<'a>(rules: impl IntoIterator<Item = &'a RuleConfig>) -> impl fmt::Display {
    let tables: Vec<String> = rules.into_iter().map(ToString::to_string).collect();
    tables.join("\n")
}
