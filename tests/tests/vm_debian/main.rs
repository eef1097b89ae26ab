//! A whole Debian with systemd: who may do what, where who is a person or a real unit, and the self-tests that want a world outside.
//! Two minutes on idle cores.

mod rights;

use netd_tests::capture::Allowed;
use netd_tests::debian::{self, Actor, DOMAIN, EVERYTHING, Running};
use netd_tests::lab::{Lab, NO_OFFLOADS, debian_scenario};
use netd_tests::peers::{Identity, Nginx};
use netd_tests::vm::Twin;
use netd_tests::{Result, ensure};

/// The port of the server with TLS.
pub(crate) const HTTPS: u16 = 8443;
const HELLO: &[u8] = b"hello from nginx\n";

/// Who has seen what it wanted leaves, whatever else the server has to say.
const RESETS: &[Allowed] = &[Allowed {
    remark: "Connection reset (RST)",
    on: "tcp.dstport == 8443",
    because: "the connection is closed while session tickets of TLS 1.3 are unread (RFC 9293, 3.6.1)",
}];

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn selftests_pass_and_people_and_units_may_what_they_are_granted_on_the_viommu_twin() -> Result<()> {
    on_a_debian(Twin::Viommu, rights::check)
}

/// What differs between the twins is below what decides: the rights are tried on one, unless there is time.
#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn selftests_pass_on_the_gce_twin() -> Result<()> {
    let long = std::env::var_os("NETD_LONG").is_some();
    on_a_debian(Twin::Gce, |lab, running| if long { rights::check(lab, running) } else { Ok(()) })
}

/// netd and netd-services at work, a web server behind the gateway, the self-tests, and then more.
fn on_a_debian(twin: Twin, more: impl FnOnce(&Lab, &Running<'_>) -> Result<()>) -> Result<()> {
    debian_scenario(twin, RESETS, |lab| {
        let host = format!("www.{DOMAIN}");
        let identity = Identity::new(&host)?;
        let (https, http) =
            (Nginx::start_tls(&lab.namespace, HTTPS, &identity)?, Nginx::start(&lab.namespace, 80)?);
        https.offer("hello.txt", HELLO)?;
        http.offer("hello.txt", HELLO)?;
        // A cloud's name server is at its metadata address, which has to be named.
        let name_server = format!(
            "[[grant]]\nsubject = \"any\"\nallow = [\"net.udp.send\"]\nto = [\"{}/32\"]\n",
            lab.plan.dns
        );
        debian::prepare(lab, &[EVERYTHING, &name_server].concat(), &identity)?;
        let running = Running::start(lab, NO_OFFLOADS, false)?;
        selftests(lab, &running, &format!("https://{host}:{HTTPS}/hello.txt"))?;
        more(lab, &running)?;
        running.terminate()
    })
}

/// Closed, whatever is granted; open by a reload, without a restart.
fn selftests(lab: &Lab, running: &Running<'_>, url: &str) -> Result<()> {
    let name = format!("www.{DOMAIN}");
    let arguments = ["--https-url", url, "--dns-name", &name];
    let closed = running.selftest(&arguments)?;
    closed.expect_ok("iface")?;
    closed.expect_ok("dev off deny")?;
    let (verdict, why) = closed.finding("https")?;
    ensure!(
        verdict == "placeholder" && why.contains("devnet"),
        "https is {verdict} while devnet is off: {why}"
    );
    rights::closed(lab, Actor::Unit("probe.service", "bob"))?;

    running.set_devnet(true)?;
    let open = running.selftest(&arguments)?;
    for finding in ["iface", "ping", "udp dns", "https"] {
        open.expect_ok(finding)?;
    }
    Ok(())
}
