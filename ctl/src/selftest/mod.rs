//! selftest: tries the main functions for real and prints a marker for each.
//!
//! A marker says `ok` only after the real thing happened. Where something that the test needs is missing, it says
//! `placeholder` and why; where the thing itself went wrong, `failed` and why. Only a failure makes the exit code 1.

mod dns;
mod https;

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use netd_ipc::{AddressSource, Client, DeviceState, ErrorKind, Interface, Status};
use serde::Serialize;

use crate::cli;
use crate::error::Error;
use crate::output::{Output, milliseconds};

/// Where a connect goes that must be denied: TEST-NET-1 (RFC 5737), which no network has.
const NOWHERE: ([u8; 4], u16) = ([192, 0, 2, 1], 9);

/// How long one echo reply may take.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// What came of one test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Placeholder,
    Failed,
}

/// A verdict with what it rests on, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    result: Verdict,
    detail: String,
}

fn ok(detail: impl Into<String>) -> Finding {
    Finding { result: Verdict::Ok, detail: detail.into() }
}

fn placeholder(why: impl Into<String>) -> Finding {
    Finding { result: Verdict::Placeholder, detail: why.into() }
}

fn failed(why: impl Into<String>) -> Finding {
    Finding { result: Verdict::Failed, detail: why.into() }
}

/// A failed call: denied is a missing precondition, anything else a failure.
fn refused(error: &netd_ipc::Error) -> Finding {
    match error.kind() {
        Some(ErrorKind::DevnetDisabled | ErrorKind::PolicyDenied) => placeholder(error.to_string()),
        _ => failed(error.to_string()),
    }
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

pub(crate) fn run(client: &Client, output: &Output, arguments: &cli::Selftest) -> Result<ExitCode, Error> {
    let status = client.status()?;
    let interface = client.interfaces()?.into_iter().next();
    let interface = interface.as_ref();
    let mut lines = Vec::new();
    let mut report = |name: &'static str, finding: Finding| {
        output.progress(&marker(name, &finding))?;
        if finding.result == Verdict::Ok {
            output.progress(&format!("  {}", finding.detail))?;
        }
        lines.push(Line { name, finding });
        Ok::<(), Error>(())
    };
    report("iface", check_interface(&status, interface))?;
    report("ping", check_ping(client, interface))?;
    report("udp dns", check_dns(client, interface, &arguments.dns_name))?;
    report("tcp listen", check_listen(client, output, arguments))?;
    report("dev off deny", check_devnet(client, &status))?;
    report("https", https::check(arguments))?;
    if output.is_json() {
        output.result(&lines, String::new)?;
    }
    let failed = lines.iter().any(|line| line.finding.result == Verdict::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The line that tests and people look for; `ok` stands alone.
fn marker(name: &str, finding: &Finding) -> String {
    let Finding { result, detail } = finding;
    match result {
        Verdict::Ok => format!("SELFTEST: net {name} ok"),
        Verdict::Placeholder => format!("SELFTEST: net {name} placeholder: {detail}"),
        Verdict::Failed => format!("SELFTEST: net {name} failed: {detail}"),
    }
}

fn check_interface(status: &Status, interface: Option<&Interface>) -> Finding {
    if status.device != DeviceState::Ready {
        return failed("the device is not ready (see netctl device)");
    }
    let Some(interface) = interface else { return failed("there is no interface") };
    if !interface.link_up {
        return failed(format!("{} has no link", interface.name));
    }
    match (interface.address_source, interface.addresses.first()) {
        (AddressSource::Searching, _) => {
            failed(format!("{} has no address yet: DHCP is asking", interface.name))
        }
        (_, Some(address)) => ok(format!("{} is up with {address}", interface.name)),
        (_, None) => failed(format!("{} has no address", interface.name)),
    }
}

/// The gateway, or a name server where the gateway answers no echo (as on GCE).
fn check_ping(client: &Client, interface: Option<&Interface>) -> Finding {
    let servers = interface.map(|interface| interface.dns.as_slice()).unwrap_or_default();
    let gateway = interface.and_then(|interface| interface.gateway);
    let targets: Vec<IpAddr> = gateway.into_iter().chain(servers.iter().copied()).collect();
    let mut findings = Vec::new();
    for target in targets {
        match client.ping(target, Some(PING_TIMEOUT), None) {
            Ok(pong) => return ok(format!("{} answered in {}", pong.from, milliseconds(pong.rtt_us))),
            Err(error) => findings.push(refused(&error)),
        }
    }
    findings.into_iter().next().unwrap_or_else(|| placeholder("neither a gateway nor a name server is known"))
}

fn check_dns(client: &Client, interface: Option<&Interface>, name: &str) -> Finding {
    let Some(server) = interface.and_then(|interface| interface.dns.first()) else {
        return placeholder("no name server is known");
    };
    match dns::address_of(client, *server, name) {
        Ok(dns::Answer::Address(address)) => ok(format!("{server} says that {name} is {address}")),
        Ok(dns::Answer::None(code)) => placeholder(format!(
            "{server} knows no address of {name} ({code}): choose another with --dns-name"
        )),
        Err(dns::Failure::Client(error)) => refused(&error),
        Err(failure) => failed(failure.to_string()),
    }
}

fn check_listen(client: &Client, output: &Output, arguments: &cli::Selftest) -> Finding {
    let Some(port) = arguments.listen_port else {
        return placeholder(
            "nobody was asked to connect: give --listen-port, and connect to it from another machine",
        );
    };
    let listener = match client.tcp_listen(Some(port), None) {
        Ok(listener) => listener,
        Err(error) => return refused(&error),
    };
    let wait = arguments.listen_wait;
    output.note(&format!("waiting {} s for a connection to {}", wait.as_secs_f32(), listener.local_addr()));
    listener.set_deadline(Some(Instant::now() + wait));
    match listener.accept() {
        Ok((_stream, remote)) => ok(format!("{remote} connected to port {port}")),
        Err(error) if error.kind() == Some(ErrorKind::TimedOut) => {
            placeholder(format!("nobody connected to port {port} within {} s", wait.as_secs_f32()))
        }
        Err(error) => failed(error.to_string()),
    }
}

fn check_devnet(client: &Client, status: &Status) -> Finding {
    if status.devnet_enabled {
        return placeholder("the devnet switch is on");
    }
    match client.tcp_connect(NOWHERE.into(), Some(PING_TIMEOUT)) {
        Err(error) if error.kind() == Some(ErrorKind::DevnetDisabled) => ok(error.to_string()),
        Err(error) => failed(format!("a connect was not denied by the switch, but ended so: {error}")),
        Ok(_) => failed("a connect succeeded with the devnet switch off"),
    }
}

#[cfg(test)]
mod tests;
