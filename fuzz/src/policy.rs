//! The policy's readers: files of rules, and the first bytes of connections that have to show a name.

use netd_policy::hello::{HELD_BYTES_MAX, Reader, Verdict};
use netd_policy::{
    HostName, Policy, Quotas, Request, Subject, SubjectPattern, expect, file, smallest_grants,
};

use crate::input::Input;

/// What the connections of [`client_hello`] have to ask for.
const NAME: &str = "a.example";

/// A file of rules and quotas, or of expectations: what is taken can be said again, and its decisions stand in one line with what is
/// learned from them.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let contents = match file::read("p.toml", text) {
        Ok(contents) => contents,
        Err(error) => {
            assert!(error.to_string().starts_with("p.toml:"), "an error without a place: {error}");
            let _ = expect::parse("e.toml", text);
            return;
        }
    };
    let rules: Vec<_> = contents.rules.iter().map(|(_, rule)| rule.clone()).collect();
    let again = file::parse("p.toml", &file::print(&rules).to_string()).expect("what was printed is read");
    assert!(rules.iter().eq(again.iter().map(|(_, rule)| rule)), "printed and read again, rules differ");
    let known = |name: &str| Some(u32::try_from(name.len()).unwrap_or(0));
    let quotas = Quotas::new(&contents.quotas, known, known);
    let (Ok(policy), Ok(quotas)) = (Policy::new(true, contents.rules, known, known), quotas) else { return };
    let policy = policy.with_quotas(quotas);
    let subject = Subject { uid: 1, gid: 1, pid: 1, unit: Some("a.service".to_owned()) };
    assert!(policy.quotas().describe(&subject).iter().all(|bound| bound.contains("p.toml:")));
    let name: HostName = "www.example.org".parse().expect("a name");
    let requests = [
        Request::TcpConnect { remote: ([10, 0, 0, 1], 443).into() },
        Request::UdpSend { remote: ([169, 254, 169, 254], 443).into() },
        Request::TcpConnectName { name: name.clone(), port: 443, address: None },
        Request::TcpConnectName { name, port: 80, address: Some([10, 0, 0, 1].into()) },
        Request::TcpListen { port: None },
        Request::Resolve { name: "www.example.org".parse().ok() },
        Request::Raw { ether_type: "0x88b5".parse().expect("nobody's") },
        Request::Capture,
    ];
    let denied: Vec<&Request> =
        requests.iter().filter(|request| !policy.decide(&subject, request).is_allowed()).collect();
    let learned = smallest_grants(&SubjectPattern::Any, denied.iter().copied());
    let learned =
        file::parse("l.toml", &file::print(&learned).to_string()).expect("what was learned is read");
    let learned = Policy::new(true, learned, known, known).expect("what was learned is consistent");
    assert!(
        denied.iter().all(|request| learned.decide(&subject, request).is_allowed()),
        "learned too little"
    );
}

/// `{ raw u8, most per record u8, most per piece u8 }`, then bytes as they are, or extensions `{ kind u8, len u8 }` of a ClientHello that is
/// otherwise as it should be. The verdict does not depend on the pieces; of a hello that was put together here it is known.
pub fn client_hello(data: &[u8]) {
    let mut input = Input::new(data);
    let (Some(raw), Some(record), Some(piece)) = (input.u8(), input.u8(), input.u8()) else { return };
    // In records that are not too short for the bound on what is held.
    let (record, piece) = (usize::from(record) + 16, usize::from(piece) + 1);
    let (bytes, known) = match raw & 1 {
        0 => (input.rest().to_vec(), None),
        _ => {
            let extensions: Vec<(u16, &[u8])> =
                core::iter::from_fn(|| extension(&mut input)).take(16).collect();
            (hello(&extensions, record), Some(matches(&extensions)))
        }
    };
    let whole = verdict(&bytes, HELD_BYTES_MAX);
    assert_eq!(whole, verdict(&bytes, piece), "the verdict depends on the pieces");
    match known {
        Some(true) => assert_eq!(whole, Verdict::Matches),
        Some(false) => assert!(matches!(whole, Verdict::Refused(_)), "{whole:?}"),
        // Whatever else it is, it has to have the name in it.
        None if whole == Verdict::Matches => {
            let readable = bytes.to_ascii_lowercase();
            assert!(bytes.starts_with(&[22, 3]) && NAME.bytes().all(|byte| readable.contains(&byte)));
        }
        None => {}
    }
}

/// What the reader says in the end, fed with pieces of so many bytes; it keeps to its bound.
fn verdict(bytes: &[u8], piece: usize) -> Verdict {
    let mut reader = Reader::new(NAME.parse().expect("a name"));
    let mut verdict = Verdict::More;
    for piece in bytes.chunks(piece) {
        if verdict != Verdict::More {
            break;
        }
        verdict = reader.take(piece);
    }
    assert!(reader.take_held().len() <= HELD_BYTES_MAX);
    verdict
}

/// Small numbers are what the reader knows, others what it should pass over.
fn extension<'a>(input: &mut Input<'a>) -> Option<(u16, &'a [u8])> {
    let kind = match input.u8()? {
        0..4 => 0,
        4 => 0xfe0d,
        5 => 0xffce,
        other => u16::from(other) << 8 | 1,
    };
    Some((kind, input.short()?))
}

/// A ClientHello in records of so many bytes (RFC 8446, 4.1.2). What is meant as a name is put in its lists (RFC 6066, 3).
fn hello(extensions: &[(u16, &[u8])], record: usize) -> Vec<u8> {
    let sized = |bytes: &[u8]| {
        let len = u16::try_from(bytes.len()).expect("extensions are short");
        [&len.to_be_bytes(), bytes].concat()
    };
    let mut all = Vec::new();
    for (kind, data) in extensions {
        let data = if *kind == 0 { sized(&[&[0][..], &sized(data)].concat()) } else { data.to_vec() };
        all.extend([&kind.to_be_bytes()[..], &sized(&data)].concat());
    }
    let body = [&[3, 3][..], &[7; 32], &[0], &sized(&[0x13, 1]), &[1, 0], &sized(&all)].concat();
    let message = [&[1, 0][..], &sized(&body)].concat();
    message.chunks(record).flat_map(|part| [&[22, 3, 1][..], &sized(part)].concat()).collect()
}

/// What is to be said of such a hello.
fn matches(extensions: &[(u16, &[u8])]) -> bool {
    let names: Vec<&[u8]> = extensions.iter().filter(|(kind, _)| *kind == 0).map(|(_, name)| *name).collect();
    let hidden = extensions.iter().any(|(kind, _)| [0xfe0d, 0xffce].contains(kind));
    matches!(names[..], [name] if name.eq_ignore_ascii_case(NAME.as_bytes())) && !hidden
}
