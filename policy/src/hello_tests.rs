//! Hellos of every shape, in every piece.

use proptest::prelude::*;

use super::*;

const NAME: &str = "www.example.org";
/// GREASE (RFC 8701, 2), as browsers put it in front and behind.
const GREASE: [u16; 2] = [0x0a0a, 0xfafa];

fn vector16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector16(data)].concat()
}

fn names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> =
        names.iter().flat_map(|(kind, name)| [vec![*kind], vector16(name)].concat()).collect();
    extension(SERVER_NAME, &vector16(&list))
}

fn sni(name: &str) -> Vec<u8> {
    names(&[(HOST_NAME, name.as_bytes())])
}

/// A ClientHello as a handshake message.
fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([&[32][..], &[9; 32]].concat());
    body.extend(vector16(&[0x0a, 0x0a, 0x13, 0x01, 0x13, 0x02]));
    body.extend([1, 0]);
    body.extend(vector16(&extensions.concat()));
    framed(CLIENT_HELLO, &body)
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

/// A message in records of at most so many bytes.
fn records(message: &[u8], most: usize) -> Vec<u8> {
    message.chunks(most).flat_map(|part| [vec![HANDSHAKE, 3, 1], vector16(part)].concat()).collect()
}

fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    records(&message(extensions), RECORD_BYTES_MAX)
}

/// What browsers send: GREASE around, several extensions before and after.
fn browsers() -> Vec<u8> {
    hello(&[
        extension(GREASE[0], &[]),
        extension(23, &[]),
        sni(NAME),
        extension(16, &vector16(b"\x02h2\x08http/1.1")),
        extension(51, &vector16(&[0; 1216])),
        extension(GREASE[1], &[0]),
    ])
}

fn verdict(bytes: &[u8]) -> Verdict {
    Reader::new(NAME.parse().unwrap()).take(bytes)
}

fn refusal(bytes: &[u8]) -> Refusal {
    match verdict(bytes) {
        Verdict::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn hello_for_the_name_matches_and_is_held_whole() {
    let mut reader = Reader::new(NAME.parse().unwrap());
    let early = [browsers(), vec![23, 3, 3, 0, 2, 1, 2]].concat();
    assert_eq!(reader.take(&early), Verdict::Matches);
    assert_eq!(reader.take_held(), early);
}

#[test]
fn hello_in_single_bytes_and_in_tiny_records_matches_at_its_last_byte() {
    let hello = records(&message(&[extension(GREASE[0], &[]), sni(NAME)]), 3);
    let mut reader = Reader::new(NAME.parse().unwrap());
    let (last, before) = hello.split_last().unwrap();
    for byte in before {
        assert_eq!(reader.take(&[*byte]), Verdict::More);
    }
    assert_eq!(reader.take(&[*last]), Verdict::Matches);
}

#[test]
fn name_is_compared_without_case_and_in_idnas_form() {
    assert_eq!(verdict(&hello(&[sni("WWW.Example.ORG")])), Verdict::Matches);
    let mut reader = Reader::new("bücher.example".parse().unwrap());
    assert_eq!(reader.take(&hello(&[sni("xn--bcher-kva.example")])), Verdict::Matches);
    let mut reader = Reader::new("bücher.example".parse().unwrap());
    assert!(matches!(reader.take(&hello(&[sni("bücher.example")])), Verdict::Refused(Refusal::OtherName(_))));
}

#[test]
fn name_that_is_another_is_refused_and_told() {
    for other in
        ["example.org", "ww.example.org", "www.example.org.evil.net", "awww.example.org", "192.0.2.1"]
    {
        assert_eq!(refusal(&hello(&[sni(other)])), Refusal::OtherName(other.to_owned()));
    }
    assert_eq!(refusal(&hello(&[sni("www.example.org.")])), Refusal::FinalDot);
    let zero = Refusal::OtherName("www.example.org\\x00".to_owned());
    assert_eq!(refusal(&hello(&[sni("www.example.org\0")])), zero);
}

#[test]
fn hello_without_exactly_one_host_name_is_refused() {
    let name = NAME.as_bytes();
    for (extensions, wanted) in [
        (vec![extension(23, &[])], Refusal::NoName),
        (vec![sni(NAME), sni(NAME)], Refusal::SeveralNames),
        (vec![sni(NAME), extension(23, &[]), sni("other.example")], Refusal::SeveralNames),
        (vec![names(&[(HOST_NAME, name), (HOST_NAME, name)])], Refusal::SeveralNames),
        (vec![names(&[(1, name)])], Refusal::NameType(1)),
        (vec![names(&[(HOST_NAME, name), (7, b"x")])], Refusal::NameType(7)),
        (vec![names(&[(HOST_NAME, b"")])], Refusal::EmptyName),
        (vec![names(&[])], Refusal::EmptyName),
        (vec![extension(SERVER_NAME, &[])], Refusal::Malformed("its list of server names")),
    ] {
        assert_eq!(refusal(&hello(&extensions)), wanted);
    }
    // SSL 3.0 and the first clients of TLS: no extensions at all.
    let mut bare = message(&[]);
    bare.truncate(bare.len() - 2);
    let bare = framed(CLIENT_HELLO, &bare[MESSAGE_HEADER_BYTES..]);
    assert_eq!(refusal(&records(&bare, RECORD_BYTES_MAX)), Refusal::NoName);
}

#[test]
fn hello_that_may_hide_another_is_refused_wherever_it_says_so() {
    for kind in ENCRYPTED {
        let hidden = extension(kind, &[0, 0, 1, 0, 1, 42, 0, 0]);
        assert_eq!(refusal(&hello(&[sni(NAME), hidden.clone()])), Refusal::Encrypted(kind));
        assert_eq!(refusal(&hello(&[hidden, sni(NAME)])), Refusal::Encrypted(kind));
    }
}

#[test]
fn bytes_that_are_no_tls_are_refused_at_the_first() {
    assert_eq!(refusal(b"G"), Refusal::NotTls);
    assert_eq!(refusal(b"SSH-2.0-x\r\n"), Refusal::NotTls);
    assert_eq!(refusal(&[23, 3, 3]), Refusal::NotTls);
    assert_eq!(verdict(&[0x80, 0x2e]), Verdict::More);
    assert_eq!(refusal(&[0x80, 0x2e, 1, 3, 1]), Refusal::Ssl2);
    assert_eq!(refusal(&[0x80, 0x2e, 4]), Refusal::NotTls);
    assert_eq!(refusal(&[HANDSHAKE, 2]), Refusal::Version(2));
    assert_eq!(refusal(&records(&framed(2, &[0; 40]), 9)), Refusal::Message(2));
}

#[test]
fn records_that_interrupt_or_pad_the_hello_are_refused() {
    let whole = message(&[sni(NAME)]);
    let (one, two) = whole.split_at(20);
    let with = |between: &[u8]| [&records(one, 100)[..], between, &records(two, 200)].concat();
    assert_eq!(verdict(&with(&[])), Verdict::Matches);
    assert_eq!(refusal(&with(&[21, 3, 3, 0, 2, 1, 0])), Refusal::Record { content_type: 21, bytes: 2 });
    assert_eq!(
        refusal(&with(&[HANDSHAKE, 3, 3, 0, 0])),
        Refusal::Record { content_type: HANDSHAKE, bytes: 0 }
    );
    assert_eq!(
        refusal(&with(&[HANDSHAKE, 3, 3, 0x40, 1])),
        Refusal::Record { content_type: HANDSHAKE, bytes: 16_385 }
    );
    assert_eq!(refusal(&records(&[&whole[..], &[11]].concat(), 1000)), Refusal::Trailing);
}

#[test]
fn lengths_that_contradict_each_other_are_refused() {
    let good = message(&[sni(NAME)]);
    assert_eq!(verdict(&records(&good, 1000)), Verdict::Matches);
    // Session id, cipher suites, compression methods, extensions, the extension, the list, the name.
    for at in [38, 72, 79, 82, 86, 88, 91] {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        assert!(matches!(refusal(&records(&bad, 1000)), Refusal::Malformed(_)), "{at}");
    }
}

#[test]
fn hello_beyond_the_bound_is_refused_as_soon_as_it_says_so_and_no_more_is_held() {
    let longest = MESSAGE_BYTES_MAX - message(&[sni(NAME), extension(21, &[])]).len();
    let padded = |padding: usize| records(&message(&[sni(NAME), extension(21, &vec![0; padding])]), 9000);
    assert_eq!(verdict(&padded(longest)), Verdict::Matches);
    assert_eq!(refusal(&padded(longest + 1)[..9]), Refusal::TooLong);
    // In records of one byte a hello is mostly headers.
    let mut reader = Reader::new(NAME.parse().unwrap());
    let slivers = records(&message(&[sni(NAME), extension(21, &[0; 8000])]), 1);
    assert_eq!(reader.take(&slivers), Verdict::Refused(Refusal::TooLong));
    assert_eq!((reader.room(), reader.take_held().len()), (0, HELD_BYTES_MAX));
}

#[test]
fn end_before_the_first_byte_is_fine_and_within_the_hello_is_not() {
    let mut reader = Reader::new(NAME.parse().unwrap());
    assert_eq!(reader.end(), Verdict::Matches);
    assert_eq!(reader.take(&browsers()[..100]), Verdict::More);
    assert_eq!(reader.end(), Verdict::Refused(Refusal::Ended));
}

fn any_extension() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (1u16..60, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(kind, data)| extension(kind, &data)),
        2 => Just(sni(NAME)),
        1 => "[a-z.]{0,20}".prop_map(|name| sni(&name)),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(|data| extension(SERVER_NAME, &data)),
        1 => prop::sample::select(ENCRYPTED.to_vec()).prop_map(|kind| extension(kind, &[])),
    ]
}

proptest! {
    #[test]
    fn verdict_is_the_same_in_whatever_pieces_the_hello_comes(
        extensions in prop::collection::vec(any_extension(), 0..6), most in 1usize..200,
        pieces in prop::collection::vec(1usize..60, 1..20),
    ) {
        let whole = records(&message(&extensions), most);
        let mut reader = Reader::new(NAME.parse().unwrap());
        let (mut rest, mut pieces) = (&whole[..], pieces.iter().cycle());
        let mut last = Verdict::More;
        while last == Verdict::More && !rest.is_empty() {
            let (piece, after) = rest.split_at((*pieces.next().unwrap()).min(rest.len()));
            last = reader.take(piece);
            rest = after;
        }
        prop_assert_eq!(&last, &verdict(&whole));
        prop_assert!(last != Verdict::More);
    }

    #[test]
    fn any_bytes_are_read_within_the_bound(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600), real in any::<bool>(), at in any::<prop::sample::Index>(),
    ) {
        if real {
            let mut hello = browsers();
            let at = at.index(hello.len());
            let end = (at + 4).min(hello.len());
            hello.splice(at..end, bytes.drain(..bytes.len().min(4)));
            bytes = hello;
        }
        let mut reader = Reader::new(NAME.parse().unwrap());
        reader.take(&bytes);
        prop_assert!(reader.take_held().len() <= HELD_BYTES_MAX);
    }
}
