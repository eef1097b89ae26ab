//! Names: unbound and avahi.

use netd_tests::peers::{Avahi, Unbound};
use netd_tests::tapped::{BRIDGE, GATEWAY, STATIC, Tapped, scenario};
use netd_tests::{Result, ensure};
use serde_json::Value;

const RECORDS: &str = "ns 60 IN A 10.77.0.1\nwww 60 IN A 10.77.0.80\nwww 60 IN AAAA fd77::80\n\
    alias 60 IN CNAME other\nother 60 IN CNAME www\n_http._tcp 60 IN SRV 5 10 8080 www\n\
    note 60 IN TXT \"hello\" \" world\"\nnothing 60 IN TXT \"not an address\"\n";
const REVERSE: &str = "80.0 60 IN PTR www.netd.example.\n";
const ZONE: &str = "netd.example.";

fn zones(records: &str) -> [(&str, &str); 2] {
    [(ZONE, records), ("77.10.in-addr.arpa.", REVERSE)]
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn resolve(tapped: &Tapped, name: &str, kind: &str) -> Result<Value> {
    tapped.json(&["resolve", name, "-t", kind])
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn every_kind_of_record_comes_from_unbound() -> Result<()> {
    scenario(&[], |tapped| {
        let _unbound = Unbound::start(&tapped.namespace, &[GATEWAY], &zones(RECORDS))?;
        tapped.start(STATIC, "")?;
        let a = resolve(tapped, "www.netd.example", "a")?;
        ensure!(texts(&a["addresses"]) == ["10.77.0.80"], "A: {a:#}");
        let aaaa = resolve(tapped, "www.netd.example", "aaaa")?;
        ensure!(texts(&aaaa["addresses"]) == ["fd77::80"], "AAAA: {aaaa:#}");
        let alias = resolve(tapped, "alias.netd.example", "a")?;
        ensure!(texts(&alias["addresses"]) == ["10.77.0.80"], "by way of CNAMEs: {alias:#}");
        ensure!(!texts(&alias["aliases"]).is_empty(), "no alias is told: {alias:#}");
        let cname = resolve(tapped, "alias.netd.example", "cname")?;
        ensure!(cname.to_string().contains("other.netd.example"), "CNAME: {cname:#}");
        let ptr = resolve(tapped, "10.77.0.80", "ptr")?;
        ensure!(ptr.to_string().contains("www.netd.example"), "PTR: {ptr:#}");
        let srv = resolve(tapped, "_http._tcp.netd.example", "srv")?;
        let service = &srv["services"][0];
        ensure!(
            service["port"] == 8080 && service["priority"] == 5 && service["weight"] == 10,
            "SRV: {srv:#}"
        );
        let txt = resolve(tapped, "note.netd.example", "txt")?;
        ensure!(texts(&txt["texts"]) == ["hello world"], "TXT: {txt:#}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn answer_too_long_for_a_datagram_comes_over_tcp() -> Result<()> {
    scenario(&[], |tapped| {
        let long: String = (0..20).map(|number| format!("long 60 IN TXT \"{number:0>200}\"\n")).collect();
        let _unbound = Unbound::start(&tapped.namespace, &[GATEWAY], &zones(&long))?;
        tapped.start(STATIC, "")?;
        let found = resolve(tapped, "long.netd.example", "txt")?;
        ensure!(texts(&found["texts"]).len() == 20, "not all of it: {found:#}");
        let counters = &tapped.json(&["stats"])?["counters"];
        ensure!(counters["tcp_opened"] == 1, "there was no connection: {counters:#}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn name_that_does_not_exist_is_asked_for_once() -> Result<()> {
    scenario(&[], |tapped| {
        let unbound = Unbound::start(&tapped.namespace, &[GATEWAY], &zones(RECORDS))?;
        tapped.start(STATIC, "")?;
        for (name, why) in [("missing.netd.example", "NotFound"), ("nothing.netd.example", "NotFound")] {
            for _ in 0..3 {
                let told = resolve(tapped, name, "a")?;
                ensure!(told.to_string().contains(why), "{name}: {told:#}");
            }
            let asked = unbound.questions(&format!("{name}. A"));
            ensure!(asked == 1, "{name} was asked for {asked} times");
        }
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn short_name_is_sought_below_the_search_list() -> Result<()> {
    scenario(&[], |tapped| {
        let unbound = Unbound::start(&tapped.namespace, &[GATEWAY], &zones(RECORDS))?;
        tapped.start(STATIC, "[dns]\nsearch = [\"none.netd.example\", \"netd.example\"]\n")?;
        let found = resolve(tapped, "www", "a")?;
        ensure!(texts(&found["addresses"]) == ["10.77.0.80"], "www: {found:#}");
        ensure!(unbound.questions("www.none.netd.example. A") > 0, "the first domain was left out");
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn dead_servers_do_not_keep_a_living_one_from_answering() -> Result<()> {
    scenario(&[], |tapped| {
        // One machine that is not there, one that refuses, one that answers.
        tapped.namespace.ip(&format!("address add 10.77.0.2/32 dev {BRIDGE}"))?;
        let unbound = Unbound::start(&tapped.namespace, &[GATEWAY], &zones(RECORDS))?;
        tapped.start(STATIC, "[dns]\nservers = [\"10.77.0.9\", \"10.77.0.2\", \"10.77.0.1\"]\n")?;
        for name in ["www", "ns", "alias", "other"] {
            let found = resolve(tapped, &format!("{name}.netd.example"), "a")?;
            ensure!(!texts(&found["addresses"]).is_empty(), "{name}: {found:#}");
        }
        ensure!(unbound.questions("www.netd.example. A") > 0, "unbound was not asked");
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn local_name_is_answered_by_avahi() -> Result<()> {
    scenario(&[], |tapped| {
        let _avahi = Avahi::start(&tapped.namespace, BRIDGE, "printer")?;
        tapped.start(STATIC, "")?;
        let found = resolve(tapped, "printer.local", "a")?;
        ensure!(texts(&found["addresses"]) == [GATEWAY], "printer.local: {found:#}");
        Ok(())
    })
}
