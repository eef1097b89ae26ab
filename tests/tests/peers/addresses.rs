//! Addresses: DHCP by dnsmasq and Kea, router advertisements by radvd, DHCPv6 by Kea.

use netd_tests::peers::{Dnsmasq, Kea, LeasePlan, OFFICE, Radvd};
use netd_tests::process::run;
use netd_tests::tapped::{BRIDGE, DHCP, GATEWAY6, STATIC, Tapped, scenario};
use netd_tests::{Result, ensure};
use serde_json::{Value, json};

/// Whether netd has this address.
fn has_address(tapped: &Tapped, cidr: &str) -> Result<bool> {
    Ok(list(&tapped.interface()?["addresses"]).contains(&cidr.to_owned()))
}

fn list(value: &Value) -> Vec<String> {
    let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// The gateway of the route to exactly this prefix.
fn gateway_to(tapped: &Tapped, destination: &str) -> Result<Option<String>> {
    let interface = tapped.interface()?;
    let mut routes = interface["routes"].as_array().into_iter().flatten();
    let route = routes.find(|route| route["destination"] == destination);
    Ok(route.and_then(|route| route["gateway"].as_str()).map(str::to_owned))
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn lease_and_names_come_from_dnsmasq() -> Result<()> {
    scenario(&[], |tapped| {
        let _dnsmasq = Dnsmasq::start(&tapped.namespace, BRIDGE, &OFFICE)?;
        tapped.start_with_lease("")?;
        ensure!(has_address(tapped, "10.77.0.50/24")?, "another address: {:#}", tapped.interface()?);
        let found = tapped.json(&["resolve", "peer.test", "-t", "a"])?;
        ensure!(list(&found["addresses"]) == [OFFICE.remote], "dnsmasq's name is {found:#}");
        Ok(())
    })
}

/// One subnet with one address, and lives so short that a scenario sees renewals.
fn subnet(address: &str, valid_seconds: u32, options: &Value) -> Value {
    json!({
        "authoritative": true,
        "valid-lifetime": valid_seconds, "renew-timer": valid_seconds / 4, "rebind-timer": valid_seconds / 2,
        "subnet4": [{
            "subnet": "10.77.0.0/24", "pools": [{ "pool": format!("{address} - {address}") }], "option-data": options,
        }],
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn lease_of_kea_brings_its_options() -> Result<()> {
    scenario(&[], |tapped| {
        // Option 121 (RFC 3442): 10.88.0.0/24 by way of 10.77.0.2, everything else by way of 10.77.0.1.
        let routes = "180A58000A4D0002000A4D0001";
        let options = json!([
            { "name": "domain-name-servers", "data": "10.77.0.1, 10.77.0.2" },
            { "name": "routers", "data": "10.77.0.9" },
            { "code": 121, "csv-format": false, "data": routes },
            { "name": "interface-mtu", "data": "1400" },
            { "name": "ntp-servers", "data": "10.77.0.3, 10.77.0.4" },
            { "name": "domain-name", "data": "netd.example" },
            { "name": "domain-search", "data": "a.netd.example, b.netd.example" },
        ]);
        let _kea = Kea::dhcp4(&tapped.namespace, BRIDGE, subnet("10.77.0.60", 3600, &options))?;
        tapped.start_with_lease("")?;
        ensure!(has_address(tapped, "10.77.0.60/24")?, "another address: {:#}", tapped.interface()?);
        let interface = tapped.interface()?;
        ensure!(interface["mtu"] == 1400, "option 26 is not in force: {interface:#}");
        ensure!(list(&interface["ntp"]) == ["10.77.0.3", "10.77.0.4"], "option 42: {interface:#}");
        ensure!(list(&interface["dns"]) == ["10.77.0.1", "10.77.0.2"], "option 6: {interface:#}");
        ensure!(interface["domain"] == "netd.example", "option 15: {interface:#}");
        let search = list(&interface["search"]);
        let search: Vec<&str> = search.iter().map(|domain| domain.trim_end_matches('.')).collect();
        ensure!(search.starts_with(&["a.netd.example", "b.netd.example"]), "option 119: {interface:#}");
        // With option 121 there, option 3 counts for nothing (RFC 3442).
        let via = (gateway_to(tapped, "10.88.0.0/24")?, gateway_to(tapped, "0.0.0.0/0")?);
        ensure!(via == (Some("10.77.0.2".to_owned()), Some("10.77.0.1".to_owned())), "option 121: {via:?}");
        ensure!(interface["lease_seconds"] == 3600, "{interface:#}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn lease_is_renewed_and_one_that_nobody_knows_replaced() -> Result<()> {
    scenario(&[], |tapped| {
        let kea = Kea::dhcp4(&tapped.namespace, BRIDGE, subnet("10.77.0.60", 16, &json!([])))?;
        tapped.start_with_lease("")?;
        tapped.wait("two renewals", |_| Ok(kea.log().matches("DHCP4_LEASE_ALLOC").count() >= 3))?;
        ensure!(has_address(tapped, "10.77.0.60/24")?, "renewed away: {:#}", tapped.interface()?);
        // A server that knows nothing of the lease, is silent about it (RFC 2131, 4.3.2), and has another address to give.
        drop(kea);
        let kea = Kea::dhcp4(&tapped.namespace, BRIDGE, subnet("10.77.0.70", 3600, &json!([])))?;
        tapped.wait("the new address", |tapped| has_address(tapped, "10.77.0.70/24"))?;
        ensure!(!has_address(tapped, "10.77.0.60/24")?, "the old address stayed");
        ensure!(
            kea.log().contains("DHCP4_UNKNOWN_ADDRESS_REQUESTED"),
            "Kea was not asked for the old address"
        );
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn lease_that_dnsmasq_refuses_is_replaced_at_once() -> Result<()> {
    scenario(&[], |tapped| {
        // T1 and T2 in seconds: dnsmasq gives no lease for less than two minutes.
        const SHORT: LeasePlan =
            LeasePlan { options: &["--dhcp-option=option:T1,4s", "--dhcp-option=option:T2,60s"], ..OFFICE };
        let dnsmasq = Dnsmasq::start(&tapped.namespace, BRIDGE, &SHORT)?;
        tapped.start_with_lease("")?;
        drop(dnsmasq);
        let moved = LeasePlan { client: "10.77.0.51", options: &[], ..OFFICE };
        let dnsmasq = Dnsmasq::start(&tapped.namespace, BRIDGE, &moved)?;
        tapped.wait("the new address", |tapped| has_address(tapped, "10.77.0.51/24"))?;
        ensure!(!has_address(tapped, "10.77.0.50/24")?, "the refused address stayed");
        ensure!(dnsmasq.log().contains("DHCPNAK"), "dnsmasq refused nothing:\n{}", dnsmasq.log());
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn router_advertised_by_radvd_gives_addresses_routes_and_servers() -> Result<()> {
    scenario(&[], |tapped| {
        let block = "AdvLinkMTU 1400; AdvDefaultPreference high;
            prefix fd77::/64 { AdvOnLink on; AdvAutonomous on; AdvValidLifetime 600; AdvPreferredLifetime 300; };
            route fd88::/48 { AdvRoutePreference low; AdvRouteLifetime 600; };
            RDNSS fd77::1 { AdvRDNSSLifetime 600; };
            DNSSL six.netd.example { AdvDNSSLLifetime 600; };";
        let radvd = Radvd::start(&tapped.namespace, BRIDGE, block)?;
        tapped.start(STATIC, "")?;
        let autonomous = |tapped: &Tapped| {
            let addresses = list(&tapped.interface()?["addresses"]);
            Ok(addresses.into_iter().find(|address| address.starts_with("fd77:") && address.ends_with("/64")))
        };
        tapped.wait("an address of the advertised prefix", |tapped| Ok(autonomous(tapped)?.is_some()))?;
        tapped.wait("the advertised name server", |tapped| {
            Ok(list(&tapped.interface()?["dns"]).contains(&"fd77::1".to_owned()))
        })?;
        let interface = tapped.interface()?;
        let search = list(&interface["search"]);
        ensure!(search.iter().any(|name| name.starts_with("six.netd.example")), "DNSSL: {interface:#}");
        for destination in ["::/0", "fd88::/48"] {
            let gateway = gateway_to(tapped, destination)?;
            let is_link_local = gateway.as_ref().is_some_and(|gateway| gateway.starts_with("fe80:"));
            ensure!(is_link_local, "the way to {destination} is {gateway:?}: {interface:#}");
        }
        let address = autonomous(tapped)?.unwrap_or_default().replace("/64", "");
        tapped.peer("ping", &["-6", "-c", "1", "-W", "10", &address])?;
        // Of 1448 bytes with its headers: more than the link's MTU, so that it travels in fragments both ways.
        run(&mut tapped.netctl(&["ping", "-c", "1", "-W", "10", "-s", "1400", GATEWAY6]))?;
        let fragments = &tapped.json(&["stats"])?["counters"]["fragments_sent"];
        ensure!(fragments == 2, "the link's MTU is not in force: {fragments} fragments");
        // A router that ends says so, and is none from then on (RFC 4861, 6.2.5).
        drop(radvd);
        tapped.wait("no default route", |tapped| Ok(gateway_to(tapped, "::/0")?.is_none()))?;
        Ok(())
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn prefix_whose_life_ends_takes_its_address_along() -> Result<()> {
    scenario(&[], |tapped| {
        let short = "prefix fd99::/64 { AdvValidLifetime 8; AdvPreferredLifetime 8; DeprecatePrefix off; };";
        let radvd = Radvd::start(&tapped.namespace, BRIDGE, short)?;
        tapped.start(STATIC, "")?;
        let is_there = |tapped: &Tapped| {
            Ok(list(&tapped.interface()?["addresses"]).iter().any(|address| address.starts_with("fd99:")))
        };
        tapped.wait("an address of the advertised prefix", is_there)?;
        drop(radvd);
        tapped.wait("the end of the address", |tapped| Ok(!is_there(tapped)?))
    })
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn address_and_servers_come_from_kea_by_dhcpv6() -> Result<()> {
    scenario(&[], |tapped| {
        let keys = json!({
            "valid-lifetime": 3600, "preferred-lifetime": 1800,
            "subnet6": [{
                "subnet": "fd77::/64", "interface": BRIDGE, "pools": [{ "pool": "fd77::5000 - fd77::5000" }],
                "option-data": [
                    { "name": "dns-servers", "data": "fd77::53" },
                    { "name": "domain-search", "data": "six.netd.example" },
                ],
            }],
        });
        let kea = Kea::dhcp6(&tapped.namespace, BRIDGE, keys)?;
        let managed = "AdvManagedFlag on; AdvOtherConfigFlag on; prefix fd77::/64 { AdvAutonomous off; };";
        let _radvd = Radvd::start(&tapped.namespace, BRIDGE, managed)?;
        tapped.start(DHCP, "")?;
        let leased = |tapped: &Tapped| {
            Ok(list(&tapped.interface()?["addresses"])
                .iter()
                .any(|address| address.starts_with("fd77::5000/")))
        };
        tapped.wait("Kea's address", leased)?;
        tapped.wait("Kea's name server", |tapped| {
            Ok(list(&tapped.interface()?["dns"]).contains(&"fd77::53".to_owned()))
        })?;
        ensure!(kea.log().contains("DHCP6_LEASE_ALLOC"), "Kea gave nothing:\n{}", kea.log());
        tapped.peer("ping", &["-6", "-c", "1", "-W", "10", "fd77::5000"])?;
        Ok(())
    })
}
