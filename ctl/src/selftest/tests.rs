//! Verdicts on what netd says, without netd.

use super::*;

fn status(device: DeviceState) -> Status {
    serde_json::from_value(serde_json::json!({
        "version": "0", "pid": 1, "uptime_seconds": 0, "devnet_enabled": true, "rules_generation": 0, "device": device, "link_up": true,
        "address_source": "dhcp", "addresses": [], "gateway": null, "sockets": 0,
        "received": { "frames": 0, "bytes": 0 }, "sent": { "frames": 0, "bytes": 0 }, "counters": {},
        "clock": { "trusted": true, "by": "kernel", "reason": "it is synchronised" },
    }))
    .unwrap()
}

fn interface(link_up: bool, source: &str, addresses: &[&str]) -> Interface {
    serde_json::from_value(serde_json::json!({
        "name": "net0", "mac": "02:00:00:00:00:01", "mtu": 1500, "link_up": link_up, "link_changes": 0, "address_source": source,
        "address_details": [], "events": [],
        "addresses": addresses, "gateway": null, "routes": [], "dns": [], "ntp": [], "hostname": null, "domain": null,
        "search": [], "dhcp_server": null, "lease_seconds": null, "renew_in_seconds": null,
        "rebind_in_seconds": null, "expires_in_seconds": null,
    }))
    .unwrap()
}

#[test]
fn interface_is_ok_only_with_device_link_and_address() {
    let ready = status(DeviceState::Ready);
    let good = interface(true, "dhcp", &["192.0.2.5/24"]);
    assert_eq!(check_interface(&ready, Some(&good)), ok("net0 is up with 192.0.2.5/24"));
    for (status, interface) in [
        (status(DeviceState::Unavailable), Some(good)),
        (ready.clone(), None),
        (ready.clone(), Some(interface(false, "dhcp", &["192.0.2.5/24"]))),
        (ready.clone(), Some(interface(true, "searching", &[]))),
        (ready, Some(interface(true, "static", &[]))),
    ] {
        assert_eq!(check_interface(&status, interface.as_ref()).result, Verdict::Failed);
    }
}

#[test]
fn marker_of_ok_stands_alone_and_others_say_why() {
    assert_eq!(marker("ping", &ok("in no time")), "SELFTEST: net ping ok");
    assert_eq!(marker("https", &placeholder("not built")), "SELFTEST: net https placeholder: not built");
    assert_eq!(marker("iface", &failed("no link")), "SELFTEST: net iface failed: no link");
}

#[test]
fn refused_by_policy_is_a_missing_precondition_and_anything_else_a_failure() {
    let error = |kind| netd_ipc::Error::Refused { kind, message: String::new() };
    assert_eq!(refused(&error(ErrorKind::PolicyDenied)).result, Verdict::Placeholder);
    assert_eq!(refused(&error(ErrorKind::DevnetDisabled)).result, Verdict::Placeholder);
    assert_eq!(refused(&error(ErrorKind::TimedOut)).result, Verdict::Failed);
}
