//! Names under `.local`: multicast DNS.

use super::*;

fn responder(last: u8) -> SocketAddr {
    SocketAddr::from(([169, 254, 0, last], MDNS_PORT))
}

#[test]
fn local_name_is_asked_of_the_link_for_both_families_at_once() {
    let mut script = Script::new(config(1));
    script.ask("printer.local", Kind::Addresses);
    let sent = script.sent();
    assert_eq!(sent.to, SocketAddr::from((MDNS_GROUP_V4, MDNS_PORT)));
    assert_eq!(sent.message.queries.len(), 2);
    assert!(!sent.message.metadata.recursion_desired && sent.message.edns.is_none());
    script.reply_from(&sent, responder(1), &sent.records(10, &[a(1)]));
    // No host need have IPv6: what came is enough.
    script.wait_ms(249);
    script.assert_unfinished();
    script.wait_ms(1);
    let answer = script.result().unwrap();
    assert_eq!((answer.records.len(), answer.source), (1, Source::Multicast));
    script.assert_idle();
}

#[test]
fn answers_of_several_hosts_are_gathered() {
    let mut script = Script::new(config(1));
    script.ask("_ipp._tcp.local", Kind::Ptr);
    let sent = script.sent();
    for (last, instance) in [(1, "one"), (2, "two"), (3, "one")] {
        let target =
            RData::PTR(hickory_proto::rr::rdata::PTR(wire_name(&format!("{instance}._ipp._tcp.local"))));
        script.reply_from(&sent, responder(last), &sent.records(10, &[target]));
        script.wait_ms(80);
    }
    script.wait_ms(10);
    assert_eq!(script.result().unwrap().records.len(), 2);
    script.assert_idle();
}

#[test]
fn link_silent_is_asked_twice_then_name_is_missing_for_a_while() {
    let mut script = Script::new(config(1));
    script.ask("nobody.local", Kind::A);
    let first = script.sent();
    script.wait_ms(1000);
    let second = script.sent();
    assert_eq!(first.socket, second.socket);
    script.wait_ms(1999);
    script.assert_unfinished();
    script.wait_ms(1);
    assert!(matches!(script.result(), Err(Error::NoSuchName { .. })));
    script.assert_idle();
    script.ask("nobody.local", Kind::A);
    assert!(script.next_sent().is_none() && script.result().is_err());
    // Silence about one kind says nothing about another.
    script.ask("nobody.local", Kind::Txt);
    script.sent();
}

#[test]
fn both_groups_asked_each_has_its_socket() {
    let mdns = Mdns { ipv4: true, ipv6: true };
    let mut script = Script::new(Config { mdns, ..config(1) });
    script.ask("printer.local", Kind::A);
    let (v4, v6) = (script.sent(), script.sent());
    assert_eq!(v6.to, SocketAddr::from((MDNS_GROUP_V6, MDNS_PORT)));
    assert_ne!(v4.socket, v6.socket);
    script.resolver.handle_udp_error(script.now, v6.socket);
    script.reply_from(&v4, responder(1), &v4.records(10, &[a(1)]));
    script.wait_ms(250);
    script.result().unwrap();
    script.assert_idle();
}

#[test]
fn response_from_wrong_port_or_with_wrong_id_is_ignored() {
    let mut script = Script::new(config(1));
    script.ask("printer.local", Kind::A);
    let sent = script.sent();
    script.reply_from(&sent, SocketAddr::from(([169, 254, 0, 1], 5354)), &sent.records(10, &[a(1)]));
    let mut wrong = sent.records(10, &[a(1)]);
    wrong.metadata.id ^= 1;
    script.reply_from(&sent, responder(1), &wrong);
    script.reply_from(&sent, SocketAddr::from(([0xfe80, 0, 0, 0, 0, 0, 0, 1], MDNS_PORT)), &wrong);
    let statistics = script.resolver.statistics();
    assert_eq!((statistics.drop_source, statistics.drop_id, statistics.responses_accepted), (2, 1, 0));
}

#[test]
fn alias_may_not_cross_between_link_and_servers() {
    let mut script = Script::new(config(1));
    script.ask("printer.local", Kind::A);
    let sent = script.sent();
    script.reply_from(&sent, responder(1), &sent.records(10, &[cname("www.example.com")]));
    script.wait_ms(250);
    assert!(matches!(script.result(), Err(Error::AliasCrosses { .. })));
    script.ask("www.example.com", Kind::A);
    let sent = script.sent();
    script.reply(&sent, &sent.records(10, &[cname("printer.local")]));
    assert!(matches!(script.result(), Err(Error::AliasCrosses { .. })));
    script.assert_idle();
}

#[test]
fn multicast_off_local_names_go_to_servers() {
    let mdns = Mdns { ipv4: false, ipv6: false };
    let mut script = Script::new(Config { mdns, ..config(1) });
    script.ask("dc.corp.local", Kind::A);
    assert_eq!(script.sent().to, server(1));
}
