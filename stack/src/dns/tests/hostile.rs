//! Forgers, broken servers and noise.

use proptest::prelude::*;

use super::*;

/// The case of every letter turned round: what no echo has.
fn other_case(message: &Message) -> Message {
    let mut changed = message.clone();
    let labels: Vec<Vec<u8>> = changed.queries[0]
        .name
        .iter()
        .map(|label| label.iter().map(|b| if b.is_ascii_alphabetic() { b ^ 0x20 } else { *b }).collect())
        .collect();
    changed.queries[0].name = WireName::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
    changed
}

fn lower_case(message: &Message) -> Message {
    let mut changed = message.clone();
    changed.queries[0].name = changed.queries[0].name.to_lowercase();
    changed
}

#[test]
fn forged_response_wrong_in_any_one_thing_is_ignored_and_true_one_wins() {
    let mut script = Script::new(config(1));
    script.ask("www.example.com", Kind::A);
    let sent = script.sent();
    let forged = sent.records(9999, &[a(66)]);
    let from_elsewhere = SocketAddr::from(([203, 0, 113, 1], 53));
    script.reply_from(&sent, from_elsewhere, &forged);
    script.reply_from(&sent, SocketAddr::new(sent.to.ip(), 54), &forged);
    let mut wrong = forged.clone();
    wrong.metadata.id ^= 0x100;
    script.reply(&sent, &wrong);
    let mut wrong = forged.clone();
    wrong.queries[0].query_type = RecordType::AAAA;
    script.reply(&sent, &wrong);
    let mut wrong = forged.clone();
    wrong.queries[0].name = wire_name("www.example.org");
    script.reply(&sent, &wrong);
    let mut wrong = forged.clone();
    wrong.queries.clear();
    script.reply(&sent, &wrong);
    let mut wrong = forged.clone();
    wrong.metadata.message_type = MessageType::Query;
    script.reply(&sent, &wrong);
    script.assert_unfinished();
    assert!(script.next_sent().is_none());
    let statistics = script.resolver.statistics();
    assert_eq!((statistics.drop_source, statistics.drop_id, statistics.drop_question), (2, 1, 3));
    assert_eq!(statistics.drop_not_response, 1);
    script.reply(&sent, &sent.records(60, &[a(1)]));
    assert_eq!(script.addresses(), ["198.51.100.1"]);
    script.assert_idle();
}

#[test]
fn forged_records_about_other_names_are_not_kept() {
    let mut script = Script::new(config(1));
    script.ask("www.example.com", Kind::A);
    let sent = script.sent();
    let mut message = sent.records(60, &[a(1)]);
    message.add_answer(Record::from_rdata(wire_name("bank.example"), 9999, a(66)));
    message.add_additional(Record::from_rdata(wire_name("bank.example"), 9999, a(66)));
    script.reply(&sent, &message);
    assert_eq!(script.addresses(), ["198.51.100.1"]);
    script.ask("bank.example", Kind::A);
    script.sent();
}

#[test]
fn response_in_other_case_is_checked_by_tcp_and_forger_loses() {
    let mut script = Script::new(config(1));
    script.ask("www.example.com", Kind::A);
    let sent = script.sent();
    script.reply(&sent, &other_case(&sent.records(9999, &[a(66)])));
    script.assert_unfinished();
    let tcp = script.sent();
    assert!(tcp.is_tcp);
    script.reply(&tcp, &tcp.records(60, &[a(1)]));
    assert_eq!(script.addresses(), ["198.51.100.1"]);
    // The server keeps the case: it goes on being asked in mixed case.
    assert_eq!(script.resolver.statistics().fallbacks_without_mixed_case, 0);
    script.assert_idle();
}

#[test]
fn server_that_breaks_case_is_found_out_once_and_asked_plainly() {
    let mut script = Script::new(config(1));
    script.ask("www.example.com", Kind::A);
    let sent = script.sent();
    script.reply(&sent, &lower_case(&sent.records(60, &[a(1)])));
    let tcp = script.sent();
    script.reply(&tcp, &lower_case(&tcp.records(60, &[a(1)])));
    assert_eq!(script.addresses(), ["198.51.100.1"]);
    script.ask("mail.example.com", Kind::A);
    let plain = script.sent();
    assert_eq!((plain.name().as_str(), plain.is_tcp), ("mail.example.com", false));
    script.reply(&plain, &plain.records(60, &[a(2)]));
    assert_eq!(script.addresses(), ["198.51.100.2"]);
    script.assert_idle();
}

#[test]
fn server_that_breaks_case_and_has_no_tcp_is_asked_plainly() {
    let mut script = Script::new(config(1));
    script.ask("WWW.Example.com", Kind::A);
    let sent = script.sent();
    script.reply(&sent, &lower_case(&sent.records(60, &[a(1)])));
    let tcp = script.sent();
    script.resolver.handle_tcp(script.now, tcp.socket, TcpEvent::Failed);
    let plain = script.sent();
    assert_eq!((plain.name().as_str(), plain.is_tcp), ("WWW.Example.com", false));
    script.reply(&plain, &lower_case(&plain.records(60, &[a(1)])));
    assert_eq!(script.addresses(), ["198.51.100.1"]);
    script.assert_idle();
}

#[test]
fn questions_differ_in_id_socket_and_case() {
    let mut script = Script::new(config(1));
    let mut ids = BTreeSet::new();
    let mut cases = BTreeSet::new();
    for _ in 0..64 {
        let id = script.ask("abcdefgh.example.com", Kind::A);
        let sent = script.sent();
        ids.insert(sent.message.metadata.id);
        cases.insert(sent.name());
        script.resolver.cancel(id);
    }
    assert!(ids.len() > 60 && cases.len() > 60, "{} ids, {} cases", ids.len(), cases.len());
}

/// Noise of every form, at every kind of socket.
#[derive(Clone, Debug)]
enum Noise {
    Udp { which: usize, from_server: bool, bytes: Vec<u8> },
    Flipped { which: usize, at: usize, bits: u8 },
    Truncated { which: usize },
    Tcp { which: usize, is_framed: bool, bytes: Vec<u8> },
    TcpEnd { which: usize, fails: bool },
    UdpError { which: usize },
    Wait { milliseconds: u64 },
}

fn noise() -> impl Strategy<Value = Noise> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..120);
    prop_oneof![
        (any::<usize>(), any::<bool>(), bytes()).prop_map(|(which, from_server, bytes)| Noise::Udp {
            which,
            from_server,
            bytes
        }),
        (any::<usize>(), any::<usize>(), 1u8..).prop_map(|(which, at, bits)| Noise::Flipped {
            which,
            at,
            bits
        }),
        any::<usize>().prop_map(|which| Noise::Truncated { which }),
        (any::<usize>(), any::<bool>(), bytes()).prop_map(|(which, is_framed, bytes)| Noise::Tcp {
            which,
            is_framed,
            bytes
        }),
        (any::<usize>(), any::<bool>()).prop_map(|(which, fails)| Noise::TcpEnd { which, fails }),
        any::<usize>().prop_map(|which| Noise::UdpError { which }),
        (0u64..1500).prop_map(|milliseconds| Noise::Wait { milliseconds }),
    ]
}

fn make_noise(script: &mut Script, sent: &[Sent], noise: Noise) {
    let now = script.now;
    let pick = |which: usize| &sent[which % sent.len()];
    match noise {
        Noise::Udp { which, from_server, bytes } => {
            let from = if from_server { pick(which).to } else { server(200) };
            script.resolver.handle_udp(now, pick(which).socket, from, &bytes);
        }
        Noise::Flipped { which, at, bits } => {
            // A response that was right, with some bits turned.
            let mut bytes = pick(which).records(60, &[a(66), cname("b.example")]).to_vec().unwrap();
            let at = at % bytes.len();
            bytes[at] ^= bits;
            script.resolver.handle_udp(now, pick(which).socket, pick(which).to, &bytes);
        }
        Noise::Truncated { which } => {
            let mut message = pick(which).response(ResponseCode::NoError);
            message.metadata.truncation = true;
            script.resolver.handle_udp(now, pick(which).socket, pick(which).to, &message.to_vec().unwrap());
        }
        Noise::Tcp { which, is_framed, mut bytes } => {
            if is_framed {
                bytes.splice(0..0, (bytes.len() as u16).to_be_bytes());
            }
            script.resolver.handle_tcp(now, pick(which).socket, TcpEvent::Bytes(&bytes));
        }
        Noise::TcpEnd { which, fails } => {
            let event = if fails { TcpEvent::Failed } else { TcpEvent::Closed };
            script.resolver.handle_tcp(now, pick(which).socket, event);
        }
        Noise::UdpError { which } => script.resolver.handle_udp_error(now, pick(which).socket),
        Noise::Wait { milliseconds } => script.wait_ms(milliseconds),
    }
}

proptest! {
    #[test]
    fn noise_of_any_kind_never_panics_and_every_query_ends(noises in prop::collection::vec(noise(), 1..60), seed in any::<u8>()) {
        let mut script = Script::seeded(config(2), seed);
        for (name, kind) in [("a.example", Kind::Addresses), ("b.local", Kind::A), ("c.example", Kind::Txt)] {
            script.ask(name, kind);
        }
        let mut sent = Vec::new();
        for noise in noises {
            while let Some(one) = script.next_sent() {
                sent.push(one);
            }
            make_noise(&mut script, &sent, noise);
        }
        while script.resolver.poll_timeout().is_some() {
            while script.next_sent().is_some() {}
            script.wait(Duration::from_secs(1));
        }
        let results = core::iter::from_fn(|| script.resolver.next_result()).count();
        prop_assert_eq!(results, 3);
        script.assert_idle();
    }

    /// A forger who knows the question, the server and the port, and lacks the id or the case.
    #[test]
    fn forger_without_id_or_case_never_wins(guesses in prop::collection::vec(any::<u16>(), 1..200), seed in any::<u8>()) {
        let mut script = Script::seeded(config(1), seed);
        script.ask("www.example.com", Kind::A);
        let sent = script.sent();
        for id in guesses {
            let mut forged = sent.records(9999, &[a(66)]);
            if id == forged.metadata.id {
                forged = other_case(&forged);
            }
            forged.metadata.id = id;
            script.reply(&sent, &forged);
        }
        prop_assert_eq!(script.resolver.next_result(), None);
        let asked = script.next_sent().unwrap_or(sent);
        script.reply(&asked, &asked.records(60, &[a(1)]));
        prop_assert_eq!(script.addresses(), ["198.51.100.1"]);
    }
}
