//! netd and netd-services at work in a Debian guest, on the function that VFIO took: rules to replace, and programs that run as people
//! and as units.

use crate::error::{Attempt, Error, Result};
use crate::guest::{GuestCommand, Output};
use crate::lab::{Daemon, Lab};
use crate::peers::Identity;
use crate::process::wait_until;
use rustix::process::Signal;
use serde_json::Value;
use std::time::Duration;

/// Room for a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
const CONFIGURATION: &str = "/etc/netd.toml";
const RULES: &str = "/etc/netd/policy.d/rules.toml";
/// Below it are all names that lead behind the gateway.
pub const DOMAIN: &str = "peer.test";
/// As of [`crate::vm::System::Debian`]; systemd gives its units another.
pub const PROGRAMS: &str = "/opt/netd-tests";

/// Everything, to everybody.
pub const EVERYTHING: &str = "[[grant]]\nsubject = \"any\"\n\
    allow = [\"net.tcp.connect\", \"net.tcp.listen\", \"net.udp.bind\", \"net.udp.send\", \"net.icmp.ping\", \"net.dns.resolve\", \
    \"net.http.fetch\", \"net.http.devnet\", \"net.tls.validate\", \"net.trust.manage\", \"net.capture\", \"net.admin\", \"dsoftbus.discover\", \
    \"dsoftbus.session.open\", \"dsoftbus.stream.open\", \"dsoftbus.rpc.call\", \"dsoftbus.share.service\", \"dsoftbus.share.files\", \
    \"dsoftbus.share.state\", \"dsoftbus.share.state.write\"]\n";

/// netd under a test's own hands, netd-services as a unit with a user of its own.
#[derive(Debug)]
pub struct Running<'a> {
    lab: &'a Lab,
    device: &'static str,
    netd: Daemon<'a>,
}

/// Puts rules, netd-services' user and the identity's root, to be believed, into the guest.
pub fn prepare(lab: &Lab, rules: &str, identity: &Identity) -> Result<()> {
    let guest = lab.vm.guest();
    guest.run(&["mkdir", "-p", "/etc/netd/policy.d", "/usr/share/netd/trust"])?;
    guest.write_file("/usr/share/netd/trust/root.pem", &identity.root()?)?;
    guest.write_file(RULES, rules.as_bytes())?;
    let services = "[trust]\ninstalled = \"/var/lib/netd-services/installed\"\n\
        [bus]\ndevice = \"debian\"\nkeeper = \"debian\"\nstate = \"/var/lib/netd-services/bus\"\n\
        [[bus.share]]\nname = \"licenses\"\npath = \"/usr/share/common-licenses\"\n";
    guest.write_file("/etc/netd/services.toml", services.as_bytes())?;
    guest.run(&["useradd", "--system", "--no-create-home", "netd-services"]).map(drop)
}

impl<'a> Running<'a> {
    /// Takes the function and starts both, in a guest that was [prepared](prepare); `device` holds further lines of netd's `[device]`.
    pub fn start(lab: &'a Lab, device: &'static str, devnet: bool) -> Result<Running<'a>> {
        let guest = lab.vm.guest();
        lab.bind()?;
        let netd = lab.launch(&configuration(lab, device, devnet))?.wait_for_lease()?;
        let start = format!(
            "systemd-run --quiet --collect --unit=netd-services.service --service-type=exec --property=User=netd-services \
             --property=RuntimeDirectory=netd-services --property=StateDirectory=netd-services \
             {PROGRAMS}/netd-services run --config /etc/netd/services.toml"
        );
        guest.script(&start).run()?;
        wait_until("netd-services' socket", LIMIT, || {
            Ok(guest.command(&["test", "-S", "/run/netd-services/services.sock"]).output()?.is_success())
        })?;
        Ok(Running { lab, device, netd })
    }

    /// Turns the devnet switch, by a reload.
    pub fn set_devnet(&self, on: bool) -> Result<()> {
        self.lab.vm.guest().write_file(CONFIGURATION, configuration(self.lab, self.device, on).as_bytes())?;
        self.netd.process.signal(Signal::HUP.as_raw())?;
        wait_until("the switch", LIMIT, || Ok(self.lab.json("status")?["devnet_enabled"] == on))
    }

    /// Puts other rules in force, by a reload.
    pub fn set_rules(&self, rules: &str) -> Result<()> {
        // So that rules of the same number are not taken for these.
        let marked = format!(
            "{rules}\n[[deny]]\nsubject = \"any\"\ndeny = [\"net.tcp.listen\"]\nports = [\"{MARK}\"]\n"
        );
        for (text, there) in [("", false), (marked.as_str(), true)] {
            self.lab.vm.guest().write_file(RULES, text.as_bytes())?;
            self.netd.process.signal(Signal::HUP.as_raw())?;
            wait_until("the rules", LIMIT, || {
                let shown = self.lab.netctl(&["--json", "policy", "show"])?.success()?;
                Ok(shown.contains(MARK) == there)
            })?;
        }
        Ok(())
    }

    /// Ends both in order.
    pub fn terminate(self) -> Result<()> {
        self.lab.vm.guest().run(&["systemctl", "stop", "netd-services.service"])?;
        self.netd.terminate().map(drop)
    }
}

/// What `netctl selftest` finds, by name, as alice with her groups.
pub fn selftest(lab: &Lab, arguments: &[&str]) -> Result<Selftest> {
    let argv = [&["runuser", "-u", "alice", "--", "netctl", "--json", "selftest"], arguments].concat();
    let output = lab.vm.guest().command(&argv).limit(LIMIT).output()?;
    let lines: Value = serde_json::from_slice(&output.stdout)
        .attempt(|| format!("understand netctl selftest: {}", output.text()))?;
    Ok(Selftest { lines })
}

/// A port that no test listens at.
const MARK: &str = "59999";
/// The number of the guest's user alice.
pub const ALICE: u32 = 2001;

fn configuration(lab: &Lab, device: &str, devnet: bool) -> String {
    format!(
        "[network.devnet]\nenabled = {devnet}\n\n\
         [device]\nkind = \"vfio\"\nfunction = \"{}\"\n{device}\n[address]\nmode = \"dhcp\"\n\n\
         [ipc]\nmode = \"0666\"\n\n[clock]\ntrust = \"host\"\n\n[policy]\ndirectory = \"/etc/netd/policy.d\"\n\n\
         [[grant]]\nsubject = \"user:netd-services\"\nallow = [\"net.tcp.connect\", \"net.dns.resolve\"]\n",
        lab.vm.bdf(0)
    )
}

/// The findings of one `netctl selftest`.
#[derive(Debug)]
pub struct Selftest {
    lines: Value,
}

impl Selftest {
    /// A finding's verdict ("ok", "placeholder", "failed") and what it says.
    pub fn finding(&self, name: &str) -> Result<(&str, &str)> {
        let line = self.lines.as_array().into_iter().flatten().find(|line| line["name"] == name);
        let line = line.ok_or_else(|| Error::Expectation(format!("no {name:?} in {:#}", self.lines)))?;
        Ok((line["result"].as_str().unwrap_or_default(), line["detail"].as_str().unwrap_or_default()))
    }

    /// The finding must be ok.
    pub fn expect_ok(&self, name: &str) -> Result<()> {
        let (verdict, detail) = self.finding(name)?;
        crate::ensure!(verdict == "ok", "SELFTEST: net {name} {verdict}: {detail}");
        Ok(())
    }
}

/// Who runs a program in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A user, outside of every unit that rules name.
    Person(u32),
    /// A transient unit of this name, as the user of that name.
    Unit(&'static str, &'static str),
}

impl Actor {
    /// A program to run as the actor.
    pub fn command(self, lab: &Lab, argv: &[&str]) -> GuestCommand {
        let guest = lab.vm.guest();
        let (unit, user) = match self {
            Actor::Person(uid) => return guest.command(argv).uid(uid),
            Actor::Unit(unit, user) => (unit, user),
        };
        let (unit, user) = (format!("--unit={unit}"), format!("--property=User={user}"));
        let path = format!("--setenv=PATH=/usr/bin:/bin:{PROGRAMS}");
        let run = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", &unit, &user, &path];
        guest.command(&[&run, argv].concat())
    }
}

/// What came of one of an actor's attempts.
#[derive(Clone, Debug)]
pub struct Attempted {
    /// Of the shell's.
    pub code: i32,
    /// What was said on standard error: JSON, if the program was `netctl --json`.
    pub said: String,
}

impl Attempted {
    /// The error's name, or that of its reason.
    pub fn error(&self) -> String {
        let value: Value = serde_json::from_str(&self.said).unwrap_or_default();
        value["reason"].as_str().or(value["error"].as_str()).unwrap_or_default().to_owned()
    }
}

/// Each line of standard input is a shell's; prints exit code and standard error of each.
const ATTEMPTS: &str = "errors=$(mktemp); while IFS= read -r line; do sh -c \"$line\" </dev/null >/dev/null 2>$errors; \
    printf '%s\\t%s\\n' $? \"$(tr '\\n' ' ' <$errors)\"; done; rm $errors";

/// Has an actor try all of these, one after the other, in one process group or unit.
pub fn attempt(lab: &Lab, actor: Actor, lines: &[&str]) -> Result<Vec<Attempted>> {
    let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let command = actor.command(lab, &["sh", "-c", ATTEMPTS]);
    let output: Output = command.stdin(input.as_bytes()).limit(LIMIT * 4).output()?;
    let answers = output.success()?;
    let parse = |line: &str| {
        let (code, said) = line.split_once('\t')?;
        Some(Attempted { code: code.parse().ok()?, said: said.to_owned() })
    };
    let answers: Vec<Attempted> = answers.lines().filter_map(parse).collect();
    crate::ensure!(
        answers.len() == lines.len(),
        "{actor:?} came to {} of {} attempts:\n{}",
        answers.len(),
        lines.len(),
        output.text()
    );
    Ok(answers)
}
