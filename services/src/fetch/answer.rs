//! What the head of an answer means: a body, the rest of one, a redirect, a refusal.

use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, LOCATION};
use netd_ipc::services::{ErrorKind, FetchOptions};

use super::body::Encoding;
use super::target::Target;
use crate::Failure;

/// What is to be done about an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Its body is what was asked for.
    Body(About),
    /// There was nothing left to send of a body that is complete already.
    NothingLeft,
    /// Look there.
    Redirect(Target),
}

/// What is known of a body.
#[derive(Debug, PartialEq, Eq)]
pub struct About {
    /// Where in the resource it begins.
    pub offset: u64,
    /// Its length, if it is known and the body is not encoded.
    pub length: Option<u64>,
    pub(super) encoding: Encoding,
    /// Its encoding, as the server calls it.
    pub encoded: Option<String>,
    /// What to go on with later.
    pub validator: Option<String>,
    /// Its type.
    pub content_type: Option<String>,
}

/// Longest text of a header that is passed on.
const TEXT_BYTES_MAX: usize = 1024;

/// Understands the head of an answer to what was asked for with these options.
///
/// # Errors
/// The server refuses, or contradicts itself.
pub fn understand(
    asked: &Target,
    options: &FetchOptions,
    status: u16,
    headers: &HeaderMap,
) -> Result<Meaning, Failure> {
    let from = options.from.unwrap_or(0);
    match status {
        301 | 302 | 303 | 307 | 308 => redirect(asked, status, headers).map(Meaning::Redirect),
        206 if from > 0 => {
            let (first, last) = text(headers, CONTENT_RANGE).and_then(range).ok_or_else(|| {
                protocol("the server sends a part of the resource (206) and does not say which".to_owned())
            })?;
            if first != from {
                return Err(protocol(format!(
                    "the server was asked for byte {from} on, and sends from byte {first} on"
                )));
            }
            about(headers, from, Some(last - first + 1)).map(Meaning::Body)
        }
        206 => Err(protocol(
            "the server sends a part of the resource (206), and was asked for all of it".to_owned(),
        )),
        // The validator fits and the range does not (RFC 9110, 13.2.2 and 15.5.17): there are no more bytes than we have.
        416 if from > 0 && text(headers, CONTENT_RANGE) == Some(&*format!("bytes */{from}")) => {
            Ok(Meaning::NothingLeft)
        }
        200..=299 => about(headers, 0, None).map(Meaning::Body),
        _ => {
            let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
            let reason = reason.map(|reason| format!(" {reason}")).unwrap_or_default();
            let message = format!("the server answers {status}{reason}");
            Err(Failure { status: Some(status), ..Failure::new(ErrorKind::StatusRefused, message) })
        }
    }
}

fn redirect(asked: &Target, status: u16, headers: &HeaderMap) -> Result<Target, Failure> {
    let refused = |message: String| Failure::new(ErrorKind::RedirectRefused, message);
    let location = text(headers, LOCATION)
        .ok_or_else(|| refused(format!("the server redirects ({status}) and does not say where")))?;
    let next = asked
        .join(location)
        .map_err(|wrong| refused(format!("the server redirects to {}", wrong.message)))?;
    if asked.is_secure() && !next.is_secure() {
        return Err(refused(format!(
            "the server redirects from https to http ({}): that is never followed",
            next.url()
        )));
    }
    Ok(next)
}

fn about(headers: &HeaderMap, offset: u64, length: Option<u64>) -> Result<About, Failure> {
    let encoded = text(headers, hyper::header::CONTENT_ENCODING);
    let Some(encoding) = Encoding::parse(encoded) else {
        let name = encoded.unwrap_or_default();
        return Err(protocol(format!("the body is encoded as '{name}': known are gzip, br and zstd")));
    };
    let plain = encoding == Encoding::Identity;
    if !plain && offset > 0 {
        return Err(protocol(
            "the server sends a part of an encoded body, which cannot be decoded".to_owned(),
        ));
    }
    let given = text(headers, CONTENT_LENGTH).and_then(|length| length.parse().ok());
    if let (Some(range), Some(given)) = (length, given)
        && range != given
    {
        return Err(protocol(format!("the server sends {given} bytes for a range of {range}")));
    }
    // Only a strong one says that two parts belong together (RFC 9110, 13.1.5), and a part of what is encoded is none of the resource's.
    let strong = |tag: &&str| tag.starts_with('"') && tag.ends_with('"') && tag.len() >= 2;
    Ok(About {
        offset,
        length: length.or(given).filter(|_| plain),
        encoding,
        encoded: (!plain).then(|| encoded.unwrap_or_default().to_owned()),
        validator: text(headers, ETAG).filter(strong).filter(|_| plain).map(str::to_owned),
        content_type: text(headers, CONTENT_TYPE).map(str::to_owned),
    })
}

/// The first and the last byte of `bytes FIRST-LAST/LENGTH` (RFC 9110, 14.4).
fn range(value: &str) -> Option<(u64, u64)> {
    let (range, length) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let whole = length == "*" || length.parse::<u64>().is_ok_and(|length| last < length);
    // The length of the range has to fit, too.
    (first <= last && last < u64::MAX && whole).then_some((first, last))
}

/// A field of a head, if it is there once, short and text.
fn text(headers: &HeaderMap, name: hyper::header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    (values.next().is_none() && value.len() <= TEXT_BYTES_MAX.max(netd_ipc::services::URL_BYTES_MAX))
        .then_some(value)
}

fn protocol(message: String) -> Failure {
    Failure::new(ErrorKind::ProtocolError, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn meaning(
        url: &str,
        from: u64,
        status: u16,
        fields: &[(&'static str, &str)],
    ) -> Result<Meaning, Failure> {
        let options =
            FetchOptions { from: Some(from), validator: Some("\"v\"".into()), ..FetchOptions::default() };
        understand(&Target::parse(url).unwrap(), &options, status, &head(fields))
    }

    fn refused(url: &str, from: u64, status: u16, fields: &[(&'static str, &str)]) -> String {
        let failure = meaning(url, from, status, fields).unwrap_err();
        failure.to_string()
    }

    const URL: &str = "https://a.example/x/y";

    #[test]
    fn whole_body_has_a_validator_only_if_it_can_be_gone_on_with() {
        let Ok(Meaning::Body(about)) = meaning(URL, 0, 200, &[("etag", "\"a\""), ("content-length", "5")])
        else {
            panic!("a body")
        };
        assert_eq!((about.length, about.validator.as_deref(), about.offset), (Some(5), Some("\"a\""), 0));
        for fields in [[("etag", "W/\"a\""), ("x", "y")], [("etag", "\"a\""), ("content-encoding", "gzip")]] {
            let Ok(Meaning::Body(about)) = meaning(URL, 0, 200, &fields) else { panic!("a body") };
            assert_eq!(about.validator, None);
        }
    }

    #[test]
    fn rest_of_a_body_is_the_one_that_was_asked_for() {
        let part = |range: &str| meaning(URL, 5, 206, &[("content-range", range), ("content-length", "5")]);
        let Ok(Meaning::Body(about)) = part("bytes 5-9/10") else { panic!("a body") };
        assert_eq!((about.offset, about.length), (5, Some(5)));
        for wrong in
            ["bytes 4-9/10", "bytes 5-9/9", "bytes 9-5/10", "bytes 5-10/*", "bytes */10", "5-9/10", ""]
        {
            assert!(part(wrong).is_err(), "{wrong}");
        }
        assert!(refused(URL, 0, 206, &[("content-range", "bytes 0-1/2")]).contains("asked for all"));
        assert_eq!(meaning(URL, 5, 416, &[("content-range", "bytes */5")]), Ok(Meaning::NothingLeft));
        assert!(
            refused(URL, 5, 416, &[("content-range", "bytes */4")]).contains("416 Range Not Satisfiable")
        );
        // The resource is another one now: it comes whole.
        let Ok(Meaning::Body(about)) = meaning(URL, 5, 200, &[]) else { panic!("a body") };
        assert_eq!(about.offset, 0);
    }

    #[test]
    fn redirect_is_joined_and_never_leaves_tls() {
        let to = |location: &str| match meaning(URL, 0, 302, &[("location", location)]) {
            Ok(Meaning::Redirect(target)) => target.url().to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(to("../z?q"), "https://a.example/z?q");
        assert_eq!(to("//b.example/"), "https://b.example/");
        assert!(refused(URL, 0, 301, &[("location", "http://a.example/")]).contains("never followed"));
        assert!(refused(URL, 0, 301, &[("location", "file:///etc/passwd")]).contains("only http and https"));
        assert!(refused(URL, 0, 308, &[]).contains("does not say where"));
        assert!(refused(URL, 0, 300, &[]).contains("300 Multiple Choices"));
    }

    #[test]
    fn contradictions_and_unknown_encodings_are_refused() {
        let twice = [("content-range", "bytes 5-9/10"), ("content-length", "4")];
        assert!(refused(URL, 5, 206, &twice).contains("4 bytes for a range of 5"));
        assert!(refused(URL, 0, 200, &[("content-encoding", "rot13")]).contains("known are gzip"));
        let part = [("content-range", "bytes 5-9/10"), ("content-encoding", "gzip")];
        assert!(refused(URL, 5, 206, &part).contains("cannot be decoded"));
    }
}
