//! Names: the search list, addresses, fixed names, the hosts file.

use super::*;

fn searching() -> Config {
    let search = vec!["eng.example".parse().unwrap(), "example".parse().unwrap()];
    Config { search, ..config(1) }
}

/// Answers "no such name" until a question about `name` comes.
fn deny_until(script: &mut Script, name: &str) -> Sent {
    loop {
        let sent = script.sent();
        if sent.name().eq_ignore_ascii_case(name) {
            return sent;
        }
        script.reply(&sent, &sent.negative(ResponseCode::NXDomain, ".", 60));
    }
}

#[test]
fn short_name_is_sought_below_each_domain() {
    let mut script = Script::new(searching());
    script.ask("db", Kind::A);
    let sent = deny_until(&mut script, "db.example");
    script.reply(&sent, &sent.records(60, &[a(1)]));
    let answer = script.result().unwrap();
    assert_eq!((answer.name.to_string(), answer.records.len()), ("db.example".into(), 1));
    script.assert_idle();
}

#[test]
fn name_found_nowhere_is_missing_as_it_was_asked() {
    let mut script = Script::new(searching());
    script.ask("db", Kind::A);
    let sent = deny_until(&mut script, "db");
    script.reply(&sent, &sent.negative(ResponseCode::NXDomain, ".", 60));
    assert_eq!(script.result(), Err(Error::NoSuchName { name: "db".parse().unwrap() }));
}

#[test]
fn name_without_such_record_somewhere_is_no_data() {
    let mut script = Script::new(searching());
    script.ask("db", Kind::A);
    let sent = script.sent();
    script.reply(&sent, &sent.negative(ResponseCode::NoError, "eng.example", 60));
    let sent = deny_until(&mut script, "db");
    script.reply(&sent, &sent.negative(ResponseCode::NXDomain, ".", 60));
    assert_eq!(script.result(), Err(Error::NoData { name: "db".parse().unwrap(), kind: Kind::A }));
}

#[test]
fn server_failing_does_not_turn_one_name_into_another() {
    let mut script = Script::new(searching());
    script.ask("db", Kind::A);
    let sent = script.sent();
    assert!(sent.name().eq_ignore_ascii_case("db.eng.example"));
    script.reply(&sent, &sent.response(ResponseCode::ServFail));
    assert!(matches!(script.result(), Err(Error::ServerFailure { .. })));
    script.assert_idle();
}

#[test]
fn name_with_closing_dot_is_not_searched() {
    let mut script = Script::new(searching());
    script.ask("db.", Kind::A);
    let sent = script.sent();
    assert!(sent.name().eq_ignore_ascii_case("db"));
    script.reply(&sent, &sent.negative(ResponseCode::NXDomain, ".", 60));
    assert!(matches!(script.result(), Err(Error::NoSuchName { .. })));
}

#[test]
fn address_as_name_is_answered_at_once() {
    let mut script = Script::new(config(0));
    for (text, kind) in [("192.0.2.7", Kind::A), ("192.0.2.7", Kind::Addresses), ("2001:db8::1", Kind::Aaaa)]
    {
        script.ask(text, kind);
        let answer = script.result().unwrap();
        assert_eq!((answer.records.len(), answer.source), (1, Source::Literal));
        assert_eq!(answer.addresses().next(), text.parse().ok());
    }
    script.ask("192.0.2.7", Kind::Aaaa);
    assert!(matches!(script.result(), Err(Error::NoData { .. })));
    script.assert_idle();
}

#[test]
fn address_asked_for_its_name_goes_by_reverse_name() {
    let mut script = Script::new(searching());
    script.resolver.start(script.now, &Query::reverse("192.0.2.7".parse().unwrap())).unwrap();
    let sent = script.sent();
    assert_eq!(sent.kind(), RecordType::PTR);
    assert!(sent.name().eq_ignore_ascii_case("7.2.0.192.in-addr.arpa"));
    let target = RData::PTR(hickory_proto::rr::rdata::PTR(wire_name("host.example")));
    script.reply(&sent, &sent.records(60, &[target]));
    assert_eq!(script.result().unwrap().records, [Data::Ptr("host.example".parse().unwrap())]);
}

#[test]
fn hosts_file_comes_before_search_list_and_servers() {
    let hosts = Hosts::parse("192.0.2.1 db\n2001:db8::7 six.example\n");
    let mut script = Script::new(Config { hosts, ..searching() });
    script.ask("db", Kind::Addresses);
    let answer = script.result().unwrap();
    assert_eq!((answer.records.len(), answer.source), (1, Source::Hosts));
    // A name of the file below a domain of the list.
    script.ask("six", Kind::Aaaa);
    let sent = script.sent();
    script.reply(&sent, &sent.negative(ResponseCode::NXDomain, ".", 60));
    assert_eq!(script.addresses(), ["2001:db8::7"]);
    script.assert_idle();
}

#[test]
fn localhost_never_leaves() {
    let mut script = Script::new(searching());
    script.ask("localhost", Kind::Addresses);
    assert_eq!(script.addresses(), ["::1", "127.0.0.1"]);
    script.ask("a.localhost.", Kind::Txt);
    assert!(matches!(script.result(), Err(Error::NoData { .. })));
    script.assert_idle();
}

#[test]
fn name_invalid_is_refused_at_the_door() {
    let mut script = Script::new(config(1));
    let mut start = |name: &str| {
        let query = Query { name: name.to_owned(), kind: Kind::A };
        script.resolver.start(script.now, &query).unwrap_err().to_string()
    };
    assert!(start("b\u{fc}cher.example").contains("IDNA"));
    assert!(start("a..b").contains("empty label"));
    assert_eq!(script.resolver.usage().queries, 0);
}
