//! Servers that answer, are silent, refuse, truncate; and the cache.

use super::*;

#[test]
fn question_answered_gives_records_and_closes_socket() {
    let mut script = Script::new(config(2));
    script.ask("www.example.com", Kind::A);
    let sent = script.sent();
    assert_eq!((sent.to, sent.kind(), sent.is_tcp), (server(1), RecordType::A, false));
    assert_eq!(sent.message.edns.as_ref().unwrap().max_payload(), 1232);
    assert!(sent.message.metadata.recursion_desired);
    script.reply(&sent, &sent.records(300, &[a(1), a(2), a(1)]));
    let answer = script.result().unwrap();
    assert_eq!(answer.records.len(), 2);
    assert_eq!((answer.ttl, answer.source), (Duration::from_secs(300), Source::Server(server(1))));
    assert!(answer.aliases.is_empty() && !answer.incomplete);
    script.assert_idle();
}

#[test]
fn both_families_asked_come_together_ipv6_first() {
    let mut script = Script::new(config(1));
    script.ask("www.example.com", Kind::Addresses);
    let (first, second) = (script.sent(), script.sent());
    assert_eq!((first.kind(), second.kind()), (RecordType::AAAA, RecordType::A));
    assert_ne!(first.socket, second.socket);
    script.reply(&second, &second.records(60, &[a(1)]));
    script.assert_unfinished();
    script.reply(&first, &first.records(30, &[aaaa(1)]));
    assert_eq!(script.addresses(), ["2001:db8::1", "198.51.100.1"]);
    script.assert_idle();
}

#[test]
fn one_family_failing_leaves_the_other_marked_incomplete() {
    let mut script = Script::new(config(1));
    script.ask("www.example.com", Kind::Addresses);
    let (v6, v4) = (script.sent(), script.sent());
    script.reply(&v4, &v4.records(60, &[a(1)]));
    script.reply(&v6, &v6.response(ResponseCode::ServFail));
    let answer = script.result().unwrap();
    assert!(answer.incomplete && answer.records.len() == 1);
    script.assert_idle();
}

#[test]
fn one_family_silent_other_is_given_after_a_second() {
    let mut script = Script::new(config(1));
    script.ask("www.example.com", Kind::Addresses);
    let (_, v4) = (script.sent(), script.sent());
    script.wait_ms(300);
    script.reply(&v4, &v4.records(60, &[a(1)]));
    script.wait_ms(999);
    script.assert_unfinished();
    script.wait_ms(1);
    let answer = script.result().unwrap();
    assert!(answer.incomplete && answer.records.len() == 1);
    script.assert_idle();
    // Asked again soon, nothing is waited for.
    script.ask("www.example.com", Kind::Addresses);
    assert!(script.result().unwrap().incomplete);
    script.assert_idle();
}

#[test]
fn server_silent_next_is_asked_and_first_goes_last() {
    let mut script = Script::new(config(2));
    script.ask("a.example", Kind::A);
    let first = script.sent();
    script.wait_ms(1999);
    assert!(script.next_sent().is_none());
    script.wait_ms(1);
    let second = script.sent();
    assert_eq!(second.to, server(2));
    assert_ne!((first.message.metadata.id, first.socket), (second.message.metadata.id, second.socket));
    script.reply(&second, &second.records(60, &[a(1)]));
    assert_eq!(script.addresses(), ["198.51.100.1"]);
    // The penalty holds for the next question, and ends.
    script.ask("b.example", Kind::A);
    let sent = script.sent();
    assert_eq!(sent.to, server(2));
    script.reply(&sent, &sent.records(60, &[a(1)]));
    script.result().unwrap();
    script.wait_ms(5000);
    script.ask("c.example", Kind::A);
    assert_eq!(script.sent().to, server(1));
}

#[test]
fn all_servers_silent_query_times_out_after_doubled_rounds() {
    let mut script = Script::new(config(2));
    let asked_at = script.now;
    script.ask("a.example", Kind::A);
    let mut asked = Vec::new();
    while script.resolver.usage().questions > 0 {
        asked.extend(script.next_sent().map(|sent| (sent.to, (script.now - asked_at).as_secs())));
        script.wait(Duration::from_secs(1));
    }
    assert_eq!(asked, [(server(1), 0), (server(2), 2), (server(1), 4), (server(2), 8)]);
    assert_eq!(script.now - asked_at, Duration::from_secs(12));
    let error = script.result().unwrap_err();
    assert_eq!(error.to_string(), "no DNS server answered for a.example in time");
    script.assert_idle();
    // RFC 9520: for a while nobody asks again.
    script.ask("a.example", Kind::A);
    assert_eq!(script.result(), Err(error));
}

#[test]
fn port_unreachable_next_server_is_asked_at_once() {
    let mut script = Script::new(config(2));
    script.ask("a.example", Kind::A);
    let first = script.sent();
    script.resolver.handle_udp_error(script.now, first.socket);
    assert_eq!(script.sent().to, server(2));
    // A second error of a socket that is closed by now changes nothing.
    script.resolver.handle_udp_error(script.now, first.socket);
    assert!(script.next_sent().is_none());
}

#[test]
fn servers_refusing_are_asked_once_each_and_error_names_the_last() {
    let mut script = Script::new(config(2));
    script.ask("a.example", Kind::A);
    let first = script.sent();
    script.reply(&first, &first.response(ResponseCode::ServFail));
    let second = script.sent();
    script.reply(&second, &second.response(ResponseCode::Refused));
    let error = script.result().unwrap_err();
    assert_eq!(
        error.to_string(),
        "192.0.2.2:53 answered REFUSED for a.example, and no other server did better"
    );
    script.assert_idle();
}

#[test]
fn server_referring_elsewhere_next_is_asked() {
    let mut script = Script::new(config(2));
    script.ask("a.example", Kind::A);
    let first = script.sent();
    let mut referral = first.response(ResponseCode::NoError);
    referral.metadata.recursion_available = false;
    script.reply(&first, &referral);
    assert_eq!(script.sent().to, server(2));
}

#[test]
fn server_without_edns_is_asked_without_it_from_then_on() {
    let mut script = Script::new(config(1));
    script.ask("a.example", Kind::A);
    let first = script.sent();
    let mut bare = first.response(ResponseCode::FormErr);
    bare.queries.clear();
    script.reply(&first, &bare);
    let second = script.sent();
    assert_eq!((second.to, second.message.edns.is_none()), (server(1), true));
    script.reply(&second, &second.records(60, &[a(1)]));
    script.result().unwrap();
    script.ask("b.example", Kind::A);
    assert!(script.sent().message.edns.is_none());
    assert_eq!(script.resolver.statistics().fallbacks_without_edns, 1);
}

#[test]
fn response_truncated_is_fetched_by_tcp_in_any_pieces() {
    let mut script = Script::new(config(1));
    script.ask("a.example", Kind::A);
    let udp = script.sent();
    let mut truncated = udp.records(60, &[a(9)]);
    truncated.metadata.truncation = true;
    // Some servers cut within a record.
    let bytes = truncated.to_vec().unwrap();
    script.resolver.handle_udp(script.now, udp.socket, udp.to, &bytes[..bytes.len() - 3]);
    let tcp = script.sent();
    assert!(tcp.is_tcp && tcp.to == server(1));
    let many: Vec<RData> = (0..100).map(a).collect();
    let message = tcp.records(60, &many).to_vec().unwrap();
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend(&message);
    framed.extend([0; 40]);
    for piece in framed.chunks(7) {
        script.resolver.handle_tcp(script.now, tcp.socket, TcpEvent::Bytes(piece));
    }
    assert_eq!(script.result().unwrap().records.len(), 100);
    script.assert_idle();
}

#[test]
fn tcp_refused_after_truncation_next_server_is_asked() {
    let mut script = Script::new(config(2));
    script.ask("a.example", Kind::A);
    let udp = script.sent();
    let mut truncated = udp.response(ResponseCode::NoError);
    truncated.metadata.truncation = true;
    script.reply(&udp, &truncated);
    let tcp = script.sent();
    script.resolver.handle_tcp(script.now, tcp.socket, TcpEvent::Failed);
    let next = script.sent();
    assert_eq!((next.to, next.is_tcp), (server(2), false));
    script.reply(&next, &next.records(60, &[a(1)]));
    assert_eq!(script.addresses(), ["198.51.100.1"]);
    script.assert_idle();
}

#[test]
fn tcp_closed_or_silent_before_message_is_whole_counts_as_failure() {
    for closes in [true, false] {
        let mut script = Script::new(config(1));
        script.ask("a.example", Kind::A);
        let udp = script.sent();
        let mut truncated = udp.response(ResponseCode::NoError);
        truncated.metadata.truncation = true;
        script.reply(&udp, &truncated);
        let tcp = script.sent();
        script.resolver.handle_tcp(script.now, tcp.socket, TcpEvent::Bytes(&[0]));
        if closes {
            script.resolver.handle_tcp(script.now, tcp.socket, TcpEvent::Closed);
        } else {
            script.wait_ms(2000);
        }
        assert!(matches!(script.result(), Err(Error::ServerFailure { .. })));
        script.assert_idle();
    }
}

#[test]
fn aliases_leading_out_are_asked_about_and_counted() {
    let mut script = Script::new(config(1));
    script.ask("www.example.com", Kind::A);
    let first = script.sent();
    script.reply(&first, &first.records(50, &[cname("cdn.example.net")]));
    let second = script.sent();
    assert_eq!(second.name().to_ascii_lowercase(), "cdn.example.net");
    script.reply(&second, &second.records(300, &[a(1)]));
    let answer = script.result().unwrap();
    assert_eq!(answer.aliases, ["cdn.example.net".parse().unwrap()]);
    assert_eq!((answer.name.to_string(), answer.ttl), ("www.example.com".into(), Duration::from_secs(50)));
    script.assert_idle();
}

#[test]
fn aliases_without_end_are_given_up() {
    let mut script = Script::new(config(1));
    script.ask("n0.example", Kind::A);
    for next in 1.. {
        let Some(sent) = script.next_sent() else { break };
        assert!(next < 20);
        script.reply(&sent, &sent.records(60, &[cname(&format!("n{next}.example"))]));
    }
    assert!(matches!(script.result(), Err(Error::TooManyAliases { limit: 16, .. })));
    script.assert_idle();
}

#[test]
fn alias_itself_asked_is_not_followed() {
    let mut script = Script::new(config(1));
    script.ask("www.example.com", Kind::Cname);
    let sent = script.sent();
    script.reply(&sent, &sent.records(60, &[cname("cdn.example.net")]));
    let answer = script.result().unwrap();
    assert_eq!(answer.records, [Data::Cname("cdn.example.net".parse().unwrap())]);
}

#[test]
fn answer_cached_is_given_until_it_expires() {
    let mut script = Script::new(config(1));
    script.ask("a.example", Kind::A);
    let sent = script.sent();
    script.reply(&sent, &sent.records(60, &[a(1)]));
    script.result().unwrap();
    script.wait(Duration::from_secs(45));
    script.ask("A.Example", Kind::A);
    let answer = script.result().unwrap();
    assert_eq!((answer.source, answer.ttl), (Source::Cache, Duration::from_secs(15)));
    script.assert_idle();
    script.wait(Duration::from_secs(15));
    script.ask("a.example", Kind::A);
    assert_eq!(script.sent().to, server(1));
}

#[test]
fn absence_proved_is_cached_and_absence_without_proof_is_not() {
    let mut script = Script::new(config(1));
    script.ask("no.example", Kind::A);
    let sent = script.sent();
    script.reply(&sent, &sent.negative(ResponseCode::NXDomain, "example", 20));
    assert_eq!(script.result().unwrap_err().to_string(), "no.example does not exist");
    script.ask("no.example", Kind::Txt);
    assert!(matches!(script.result(), Err(Error::NoSuchName { .. })));
    script.wait(Duration::from_secs(20));
    script.ask("no.example", Kind::A);
    let sent = script.sent();
    script.reply(&sent, &sent.response(ResponseCode::NoError));
    assert_eq!(script.result().unwrap_err().to_string(), "no.example has no A record");
    script.ask("no.example", Kind::A);
    script.sent();
}

#[test]
fn cache_flushed_is_empty() {
    let mut script = Script::new(config(1));
    script.ask("a.example", Kind::A);
    let sent = script.sent();
    script.reply(&sent, &sent.records(60, &[a(1)]));
    script.result().unwrap();
    assert_eq!(script.resolver.usage().cache_entries, 1);
    script.resolver.flush();
    script.ask("a.example", Kind::A);
    script.sent();
}

#[test]
fn equal_questions_share_one_exchange_until_the_last_leaves() {
    let mut script = Script::new(config(1));
    let first = script.ask("a.example", Kind::A);
    let second = script.ask("A.example", Kind::A);
    let sent = script.sent();
    assert!(script.next_sent().is_none());
    script.resolver.cancel(first);
    script.reply(&sent, &sent.records(60, &[a(1)]));
    assert_eq!(script.resolver.next_result().unwrap().0, second);
    script.assert_unfinished();
    script.assert_idle();
}

#[test]
fn query_cancelled_closes_its_sockets() {
    let mut script = Script::new(config(1));
    let id = script.ask("a.example", Kind::Addresses);
    let (first, _) = (script.sent(), script.sent());
    script.resolver.cancel(id);
    script.assert_idle();
    script.reply(&first, &first.records(60, &[aaaa(1)]));
    script.assert_unfinished();
    assert_eq!(script.resolver.statistics().drop_socket, 1);
}

#[test]
fn servers_changed_question_goes_to_the_new_ones_and_cache_is_emptied() {
    let mut script = Script::new(config(1));
    script.ask("old.example", Kind::A);
    let sent = script.sent();
    script.reply(&sent, &sent.records(60, &[a(1)]));
    script.result().unwrap();
    script.ask("a.example", Kind::A);
    let old = script.sent();
    script.resolver.set_servers(script.now, &[server(1)]);
    assert!(script.next_sent().is_none());
    script.resolver.set_servers(script.now, &[server(9)]);
    let new = script.sent();
    assert_eq!((new.to, script.resolver.usage().cache_entries), (server(9), 0));
    script.reply(&old, &old.records(60, &[a(6)]));
    script.assert_unfinished();
    script.reply(&new, &new.records(60, &[a(7)]));
    assert_eq!(script.addresses(), ["198.51.100.7"]);
    script.assert_idle();
}

#[test]
fn no_server_known_query_fails_by_name() {
    let mut script = Script::new(config(0));
    script.ask("a.example", Kind::Addresses);
    assert_eq!(script.result(), Err(Error::NoServers));
    // The lack is not remembered.
    script.resolver.set_servers(script.now, &[server(1)]);
    script.ask("a.example", Kind::A);
    script.sent();
    script.resolver.set_servers(script.now, &[]);
    assert_eq!(script.result(), Err(Error::NoServers));
    script.assert_idle();
}

#[test]
fn device_gone_ends_all_queries() {
    let mut script = Script::new(config(1));
    script.ask("a.example", Kind::Addresses);
    script.resolver.shut_down();
    assert_eq!(script.result(), Err(Error::DeviceUnavailable));
    let query = Query { name: "a.example".into(), kind: Kind::A };
    assert_eq!(script.resolver.start(script.now, &query), Err(Error::DeviceUnavailable));
    script.assert_idle();
}

#[test]
fn queries_beyond_limit_are_refused_until_results_are_fetched() {
    let limits = Limits { queries: 1, ..Limits::default() };
    let mut script = Script::new(Config { limits, ..config(1) });
    script.ask("localhost", Kind::A);
    let query = Query { name: "a.example".into(), kind: Kind::A };
    assert_eq!(script.resolver.start(script.now, &query), Err(Error::QuotaExceeded { limit: 1 }));
    script.result().unwrap();
    script.ask("a.example", Kind::A);
}

#[test]
fn query_of_many_servers_ends_after_thirty_seconds() {
    let mut script = Script::new(Config { attempts: 10, ..config(8) });
    script.ask("a.example", Kind::A);
    script.wait(Duration::from_secs(30));
    assert!(matches!(script.result(), Err(Error::TimedOut { .. })));
    // What the driver never fetched is not sent late.
    script.assert_idle();
}
