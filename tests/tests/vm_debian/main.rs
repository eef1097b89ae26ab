//! A whole Debian with systemd: who may do what, where who is a person or a real unit, and the self-tests that want a world outside.
//! Two minutes and a half on idle cores.

mod devnet;
mod rights;
mod service;

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
pub(crate) const RESETS: &[Allowed] = &[
    Allowed {
        remark: "Connection reset (RST)",
        on: "tcp.dstport == 8443",
        because: "the connection is closed while session tickets of TLS 1.3 are unread (RFC 9293, 3.6.1)",
    },
    Allowed {
        remark: "Connection reset (RST)",
        on: "tcp.dstport == 8097 || tcp.dstport == 8098",
        because: "the devnet switch is turned off",
    },
];

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn selftests_pass_and_people_and_units_may_what_they_are_granted_on_the_viommu_twin() -> Result<()> {
    on_a_debian(Twin::Viommu, rights::check)
}

/// What differs between the twins is below what decides: without `--long` the rights are tried on one, and the other's self-tests are
/// those of the units.
#[test]
#[ignore = "boots a virtual machine: cargo xtask test --long"]
fn people_and_units_may_what_they_are_granted_on_the_gce_twin() -> Result<()> {
    if is_long() { on_a_debian(Twin::Gce, rights::check) } else { Ok(()) }
}

pub(crate) fn is_long() -> bool {
    std::env::var_os("NETD_LONG").is_some()
}

/// netd and netd-services at work, a web server behind the gateway, the self-tests, and then more.
fn on_a_debian(twin: Twin, more: impl FnOnce(&Lab, &Running<'_>) -> Result<()>) -> Result<()> {
    debian_scenario(twin, RESETS, |lab| {
        let servers = Servers::start(lab)?;
        debian::prepare(lab, &everything(lab), &servers.identity)?;
        let running = Running::start(lab, NO_OFFLOADS, false)?;
        selftests(lab, |on| running.set_devnet(on))?;
        devnet::check(lab, &running)?;
        more(lab, &running)?;
        running.terminate()
    })
}

/// The web servers behind the gateway.
pub(crate) struct Servers {
    pub(crate) identity: Identity,
    _running: [Nginx; 2],
}

impl Servers {
    pub(crate) fn start(lab: &Lab) -> Result<Servers> {
        let identity = Identity::new(&format!("www.{DOMAIN}"))?;
        let https = Nginx::start_tls(&lab.namespace, HTTPS, &identity)?;
        let http = Nginx::start(&lab.namespace, 80)?;
        https.offer("hello.txt", HELLO)?;
        http.offer("hello.txt", HELLO)?;
        Ok(Servers { identity, _running: [https, http] })
    }

    /// A page over TLS.
    pub(crate) fn url() -> String {
        format!("https://www.{DOMAIN}:{HTTPS}/hello.txt")
    }
}

/// Rules that grant everything. A cloud's name server is at its metadata address, which has to be named.
pub(crate) fn everything(lab: &Lab) -> String {
    let dns = lab.plan.dns;
    format!("{EVERYTHING}[[grant]]\nsubject = \"any\"\nallow = [\"net.udp.send\"]\nto = [\"{dns}/32\"]\n")
}

/// Closed, whatever is granted; open by a reload, without a restart.
pub(crate) fn selftests(lab: &Lab, set_devnet: impl Fn(bool) -> Result<()>) -> Result<()> {
    let (url, name) = (Servers::url(), format!("www.{DOMAIN}"));
    let arguments = ["--https-url", &url, "--dns-name", &name];
    let closed = debian::selftest(lab, &arguments)?;
    closed.expect_ok("iface")?;
    closed.expect_ok("dev off deny")?;
    let (verdict, why) = closed.finding("https")?;
    ensure!(
        verdict == "placeholder" && why.contains("devnet"),
        "https is {verdict} while devnet is off: {why}"
    );
    rights::closed(lab, Actor::Unit("probe.service", "bob"))?;

    set_devnet(true)?;
    let open = debian::selftest(lab, &arguments)?;
    for finding in ["iface", "ping", "udp dns", "https"] {
        open.expect_ok(finding)?;
    }
    Ok(())
}
