//! What a fetch reads before there is a body: URLs of clients, and heads of answers of servers.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use netd_ipc::services::FetchOptions;
use netd_policy::Authority;
use netd_services::fetch::{Meaning, Target, understand};

use crate::input::Input;

/// `{ URL len u8, from u8, status u16 }`, then fields `{ name u8, value len u8 }`.
pub fn fetch(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(text) = input.short() else { return };
    let Ok(target) = Target::parse(&String::from_utf8_lossy(text)) else { return };
    check(&target);
    let (Some(from), Some(status)) = (input.u8(), input.u16()) else { return };
    let mut headers = HeaderMap::new();
    while let (Some(name), Some(value)) = (input.u8(), input.short()) {
        const NAMES: [&str; 7] = [
            "content-length",
            "content-range",
            "content-encoding",
            "content-type",
            "etag",
            "location",
            "x-other",
        ];
        let name = HeaderName::from_static(NAMES[usize::from(name) % NAMES.len()]);
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let from = u64::from(from);
    let validator = Some("\"v\"".to_owned());
    let options = FetchOptions { from: Some(from), validator, ..FetchOptions::default() };
    match understand(&target, &options, status, &headers) {
        Ok(Meaning::Body(about)) => {
            assert!(about.offset == 0 || about.offset == from, "a body from {} on", about.offset);
            assert!(about.encoded.is_none() || (about.offset == 0 && about.validator.is_none()));
        }
        Ok(Meaning::Redirect(next)) => {
            assert!(next.is_secure() || !target.is_secure(), "from https to {}", next.url());
            check(&next);
        }
        Ok(Meaning::NothingLeft) => assert!(from > 0 && status == 416),
        Err(failure) => assert!(!failure.message.is_empty()),
    }
}

/// A target is the same after a round through its text, and netd's policy sees the same host in it.
fn check(target: &Target) {
    assert_eq!(Target::parse(target.url()).as_ref(), Ok(target), "another target");
    assert!(target.path_and_query().starts_with('/') || target.path_and_query().starts_with('?'));
    // What policy takes for the stub's, which needs no devnet, must be the stub's here; what it cannot read it denies.
    if let Ok(authority) = target.authority().parse::<Authority>() {
        assert_eq!(authority.is_fixture(), target.is_fixture(), "{authority}");
        assert!(target.authority().ends_with(&format!(":{}", authority.port)), "another port: {authority}");
    }
}
