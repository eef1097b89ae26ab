//! Subjects: who asks, as the kernel tells it, and whom a rule is for.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Who asks, as the kernel says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Process id when it connected, 0 for nobody in particular; for people to read, never a ground for a decision, since ids are used again.
    pub pid: u32,
    /// systemd unit, if the process runs in one below system.slice.
    pub unit: Option<String>,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Subject { uid, gid: _, pid, unit } = self;
        match (pid, unit) {
            (0, None) => write!(f, "uid {uid}"),
            (0, Some(unit)) => write!(f, "uid {uid} ({unit})"),
            (pid, None) => write!(f, "uid {uid} (pid {pid})"),
            (pid, Some(unit)) => write!(f, "uid {uid} (pid {pid}, {unit})"),
        }
    }
}

/// Whom a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubjectPattern {
    /// Whoever reaches the socket.
    Any,
    /// A user by number.
    Uid(u32),
    /// A user by name.
    User(String),
    /// A group by number; the primary group of the process counts, as the kernel tells it.
    Gid(u32),
    /// A group by name.
    Group(String),
    /// A systemd unit, such as `backup.service`.
    Unit(String),
}

impl SubjectPattern {
    /// Whether `subject` is meant. A user or group by name is nobody until the name is resolved to a number.
    pub fn is(&self, subject: &Subject) -> bool {
        match self {
            SubjectPattern::Any => true,
            SubjectPattern::Uid(uid) => subject.uid == *uid,
            SubjectPattern::Gid(gid) => subject.gid == *gid,
            SubjectPattern::Unit(unit) => subject.unit.as_deref() == Some(unit.as_str()),
            SubjectPattern::User(_) | SubjectPattern::Group(_) => false,
        }
    }
}

impl FromStr for SubjectPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<SubjectPattern, Error> {
        let wrong = || Error::Subject(text.to_owned());
        if text == "any" {
            return Ok(SubjectPattern::Any);
        }
        let (form, name) = text.split_once(':').ok_or_else(wrong)?;
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(wrong());
        }
        // A number that does not fit is wrong, and not the name of a user.
        let number = name.bytes().all(|b| b.is_ascii_digit()).then(|| name.parse().map_err(|_| wrong()));
        match (form, number) {
            ("user", Some(uid)) => uid.map(SubjectPattern::Uid),
            ("user", None) => Ok(SubjectPattern::User(name.to_owned())),
            ("group", Some(gid)) => gid.map(SubjectPattern::Gid),
            ("group", None) => Ok(SubjectPattern::Group(name.to_owned())),
            ("unit", _) => Ok(SubjectPattern::Unit(name.to_owned())),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SubjectPattern::Any => f.write_str("any"),
            SubjectPattern::Uid(uid) => write!(f, "user:{uid}"),
            SubjectPattern::User(name) => write!(f, "user:{name}"),
            SubjectPattern::Gid(gid) => write!(f, "group:{gid}"),
            SubjectPattern::Group(name) => write!(f, "group:{name}"),
            SubjectPattern::Unit(name) => write!(f, "unit:{name}"),
        }
    }
}

/// A pattern with its names resolved, as decisions look it up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    Any,
    Uid(u32),
    Gid(u32),
    Unit(String),
}
