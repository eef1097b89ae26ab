//! Files of expectations: what the rules should say, checked before they are put in force.
//!
//! ```toml
//! [[expect]]
//! subject = "user:alice"          # as rules have it; several with commas: "user:alice,unit:backup.service"
//! capability = "net.tcp.connect"
//! target = "192.0.2.1:443"        # as `netctl policy explain` takes it
//! decision = "allow"              # or "deny"
//! rule = "20-services.toml:4"     # if given, the place of the rule that decides: its end
//! ```

use serde::Deserialize;

use crate::capability::Capability;
use crate::file::{FileError, Places, Spanned};
use crate::request::Request;
use crate::rule::Origin;
use crate::subject::SubjectPattern;

/// One expectation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// Where it stands.
    pub origin: Origin,
    /// Who asks: at least one.
    pub subject: Vec<SubjectPattern>,
    /// With which right.
    pub capability: Capability,
    /// About what.
    pub target: Option<String>,
    /// Whether it should be allowed.
    pub allowed: bool,
    /// How the place of the deciding rule should end.
    pub rule: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    expect: Vec<Spanned<Table>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    subject: Spanned<String>,
    capability: Capability,
    target: Option<Spanned<String>>,
    decision: Verdict,
    rule: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Allow,
    Deny,
}

/// The expectations of a file called `name`.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse(name: &str, text: &str) -> Result<Vec<Expectation>, FileError> {
    let File { expect } = toml::from_str(text).map_err(|error| FileError::of_parser(name, text, &error))?;
    let places = Places::of(name, text);
    expect.into_iter().map(|table| expectation(&places, text, table)).collect()
}

fn expectation(places: &Places, text: &str, table: Spanned<Table>) -> Result<Expectation, FileError> {
    let (origin, start) = (places.origin(&table), table.span().start);
    let Table { subject, capability, target, decision, rule } = table.into_inner();
    let complain = |at: usize, error: crate::Error| FileError::at(&origin.file, text, at, error);
    let subject = patterns(subject.get_ref()).map_err(|error| complain(subject.span().start, error))?;
    let at = target.as_ref().map(|target| target.span().start);
    let target = target.map(Spanned::into_inner);
    if let Err(error) = Request::parse(capability, target.as_deref()) {
        return Err(complain(at.unwrap_or(start), error));
    }
    let allowed = matches!(decision, Verdict::Allow);
    Ok(Expectation { origin, subject, capability, target, allowed, rule })
}

/// Whoever is meant by `user:alice` or `user:alice,group:staff,unit:backup.service`.
///
/// # Errors
/// One of them has none of the known forms.
pub fn patterns(text: &str) -> Result<Vec<SubjectPattern>, crate::Error> {
    text.split(',').map(|part| part.trim().parse()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_of_expectations_is_read_with_its_places() {
        let text = "\n[[expect]]\nsubject = \"user:1,unit:a.service\"\ncapability = \"net.tcp.listen\"\ntarget = \"80\"\n\
                    decision = \"deny\"\nrule = \"x.toml:3\"\n";
        let [one] = &parse("e.toml", text).unwrap()[..] else { panic!("one expectation") };
        assert_eq!((one.origin.to_string().as_str(), one.allowed), ("e.toml:2", false));
        assert_eq!(one.subject, [SubjectPattern::Uid(1), SubjectPattern::Unit("a.service".into())]);
        assert_eq!((one.target.as_deref(), one.rule.as_deref()), (Some("80"), Some("x.toml:3")));
    }

    #[test]
    fn wrong_expectation_is_refused_with_its_place() {
        let with = |line: &str| {
            let text = format!("[[expect]]\nsubject = \"any\"\ncapability = \"net.udp.bind\"\n{line}\n");
            parse("e.toml", &text).unwrap_err().to_string()
        };
        for (line, wanted) in [
            ("decision = \"maybe\"", "e.toml:4:12: unknown variant `maybe`"),
            ("decision = \"deny\"\ntarget = \"x\"", "e.toml:5:10: 'x' is no target"),
            ("colour = 1", "unknown field `colour`"),
        ] {
            assert!(with(line).contains(wanted), "{}", with(line));
        }
    }
}
