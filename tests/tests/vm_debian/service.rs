//! netd as an operator runs it: from its units, under systemd, with all that they forbid.

use netd_tests::debian::PROGRAMS;
use netd_tests::lab::{Lab, NO_OFFLOADS, debian_scenario};
use netd_tests::peers::{Identity, SshKey};
use netd_tests::process::{run, wait_until};
use netd_tests::vm::Twin;
use netd_tests::{Error, Result, binaries, ensure};
use serde_json::Value;
use std::time::Duration;

use crate::{RESETS, Servers, everything, is_long, selftests};

/// Room for a busy machine.
const LIMIT: Duration = Duration::from_secs(90);
/// What the package puts where.
const FILES: [(&str, &str); 7] = [
    ("netd.service", "/usr/lib/systemd/system/netd.service"),
    ("netd-services.service", "/usr/lib/systemd/system/netd-services.service"),
    ("netd-function@.service", "/usr/lib/systemd/system/netd-function@.service"),
    ("netd.sysusers", "/usr/lib/sysusers.d/netd.conf"),
    ("netd.tmpfiles", "/usr/lib/tmpfiles.d/netd.conf"),
    // As docs/publish.md has it.
    ("examples/netd-ssh.socket", "/etc/systemd/system/netd-ssh.socket"),
    ("examples/netd-ssh@.service", "/etc/systemd/system/netd-ssh@.service"),
];
/// SSH by a socket unit, a web server that is told who comes, and a target that the unit keeps netd-services from.
const PUBLISHED: &str = "[[publish]]\nlisten = \"22\"\nto = \"socket-unit:netd-ssh.socket\"\n\
    [[publish]]\nlisten = \"80\"\nto = \"unix:/run/nginx-netd.sock\"\nproxy_protocol = true\n\
    [[publish]]\nlisten = \"81\"\nto = \"127.0.0.1:80\"\n";
const SITE: &str = "server { listen unix:/run/nginx-netd.sock proxy_protocol; \
    location / { return 200 \"$proxy_protocol_addr\\n\"; } }\n";

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn units_take_serve_survive_and_give_back_on_the_gce_twin() -> Result<()> {
    serve(Twin::Gce)
}

#[test]
#[ignore = "boots a virtual machine: cargo xtask test --long"]
fn units_take_serve_survive_and_give_back_on_the_viommu_twin() -> Result<()> {
    if is_long() { serve(Twin::Viommu) } else { Ok(()) }
}

fn serve(twin: Twin) -> Result<()> {
    debian_scenario(twin, RESETS, |lab| {
        let servers = Servers::start(lab)?;
        let function = format!("netd-function@{}.service", lab.vm.bdf(0));
        let machine = Machine { lab, function, key: SshKey::new()? };
        machine.install(&servers.identity)?;
        let done = machine
            .starts_at_once()
            .and_then(|()| machine.is_reached_by_ssh_and_http())
            .and_then(|()| selftests(lab, |on| machine.set_devnet(on)))
            .and_then(|()| machine.outlives_its_death())
            .and_then(|()| machine.gives_back_when_stopped())
            .and_then(|()| machine.timer_of_systemd_ends_what_nobody_confirms());
        done.map_err(|error| Error::Expectation(format!("{error}\n{}", machine.journal())))
    })
}

struct Machine<'a> {
    lab: &'a Lab,
    function: String,
    key: SshKey,
}

impl Machine<'_> {
    fn script(&self, script: &str) -> Result<String> {
        self.lab.vm.guest().script(script).limit(LIMIT).run()
    }

    /// What the package installs, without the package.
    fn install(&self, identity: &Identity) -> Result<()> {
        let guest = self.lab.vm.guest();
        self.script(
            "mkdir -p /etc/netd/policy.d /usr/share/netd/trust /usr/lib/sysusers.d /usr/lib/tmpfiles.d",
        )?;
        for (name, place) in FILES {
            let file = binaries::workspace().join("systemd").join(name);
            let text = std::fs::read(&file)
                .map_err(|source| Error::Io { action: format!("read {}", file.display()), source })?;
            guest.write_file(place, &text)?;
        }
        guest.write_file("/usr/share/netd/trust/root.pem", &identity.root()?)?;
        guest.write_file("/etc/netd/services.toml", PUBLISHED.as_bytes())?;
        let key = self.key.public()?;
        for (place, text) in [("/root/.ssh/authorized_keys", &*key), ("/etc/nginx/sites-enabled/netd", SITE)]
        {
            self.script(&format!("install -d $(dirname {place})"))?;
            guest.write_file(place, text.as_bytes())?;
        }
        guest.write_file("/etc/netd/policy.d/rules.toml", everything(self.lab).as_bytes())?;
        self.configure(false)?;
        self.script(&format!(
            "cp {PROGRAMS}/netd {PROGRAMS}/netctl {PROGRAMS}/netd-services /usr/bin/ && \
             systemd-sysusers netd.conf && systemd-tmpfiles --create netd.conf && adduser --quiet alice netd && adduser --quiet bob netd && \
             systemctl daemon-reload"
        ))?;
        Ok(())
    }

    fn configure(&self, devnet: bool) -> Result<()> {
        let text = format!(
            "[network.devnet]\nenabled = {devnet}\n\n\
             [device]\nkind = \"vfio\"\nfunction = \"{}\"\n{NO_OFFLOADS}\n[address]\nmode = \"dhcp\"\n\n\
             [clock]\ntrust = \"host\"\n\n\
             [policy]\ndirectory = \"/etc/netd/policy.d\"\n",
            self.lab.vm.bdf(0)
        );
        self.lab.vm.guest().write_file("/etc/netd/netd.toml", text.as_bytes())
    }

    /// The daemon's process, while the unit is active.
    fn main_process(&self) -> Result<u32> {
        let shown = self.script("systemctl show --value --property=MainPID netd")?;
        shown
            .trim()
            .parse()
            .map_err(|_| Error::Expectation(format!("netd.service has the process {shown:?}")))
    }

    fn wait_for_lease(&self) -> Result<()> {
        wait_until("the lease", LIMIT, || {
            let shown = self.lab.netctl(&["--json", "status"])?;
            Ok(shown.is_success() && shown.text().contains("\"address_source\": \"dhcp\""))
        })
    }

    fn check_it_serves(&self) -> Result<()> {
        self.wait_for_lease()?;
        let gateway = self.lab.plan.gateway;
        self.script(&format!("runuser -u alice -- netctl ping -c 1 -W 20 {gateway}")).map(drop)
    }

    fn set_devnet(&self, on: bool) -> Result<()> {
        self.configure(on)?;
        self.script("systemctl reload netd")?;
        wait_until("the switch", LIMIT, || Ok(self.lab.json("status")?["devnet_enabled"] == on))
    }

    /// One command, as the manual says: the function is taken before netd starts, which has no more than it needs.
    fn starts_at_once(&self) -> Result<()> {
        self.script(&format!(
            "systemctl start netd-ssh.socket nginx && systemctl enable --quiet --now {} netd netd-services",
            self.function
        ))?;
        ensure!(self.lab.driver()? == "vfio-pci", "the function is with {}", self.lab.driver()?);
        self.wait_for_lease()?;
        let status = self.script(&format!("cat /proc/{}/status", self.main_process()?))?;
        let has =
            |line: &str| status.lines().any(|found| found.split_whitespace().eq(line.split_whitespace()));
        // CAP_SYS_RAWIO is 17, CAP_SYS_ADMIN 21 (capabilities(7)).
        ensure!(has("CapBnd: 0000000000220000"), "netd may have had more capabilities:\n{status}");
        ensure!(has("Seccomp: 2") && has("NoNewPrivs: 1"), "netd is not confined:\n{status}");
        Ok(())
    }

    /// Over the function alone, from the gateway; while the devnet switch is off.
    fn is_reached_by_ssh_and_http(&self) -> Result<()> {
        let mut published = Value::Null;
        wait_until("the published ports", LIMIT, || {
            let shown = self.lab.netctl(&["--json", "published"])?;
            published = serde_json::from_slice(&shown.stdout).unwrap_or_default();
            Ok(published[0]["listening"] == true && published[1]["listening"] == true)
        })
        .map_err(|error| Error::Expectation(format!("{error}: {published:#}")))?;
        let why = published[2]["problem"].as_str().unwrap_or_default();
        ensure!(why.contains("may not use TCP of the kernel's"), "port 81: {published:#}");
        let address = self.lab.plan.client;
        let said = run(self.key.client(&self.lab.namespace, address, 22).arg("cat /etc/hostname"))?;
        ensure!(said == "netd-test\n", "ssh said {said:?}");
        let url = format!("http://{address}/");
        let told = run(self.lab.namespace.command("curl").args(["-sSf", "--max-time", "60", &url]))?;
        ensure!(told.trim() == self.lab.plan.gateway, "nginx was told that {told:?} came");
        Ok(())
    }

    fn outlives_its_death(&self) -> Result<()> {
        let first = self.main_process()?;
        self.script(&format!("kill -9 {first}"))?;
        wait_until("another netd", LIMIT, || {
            let now = self.main_process()?;
            Ok(now != first && now != 0 && self.lab.netctl(&["status"])?.is_success())
        })?;
        self.check_it_serves()?;
        self.script("systemctl is-active netd netd-services").map(drop)
    }

    /// Stopping what took it stops netd first.
    fn gives_back_when_stopped(&self) -> Result<()> {
        self.script(&format!("systemctl stop {}", self.function))?;
        ensure!(self.lab.driver()? == "virtio-pci", "the function is with {}", self.lab.driver()?);
        let state = self.script("systemctl is-active netd || true")?;
        ensure!(state.trim() == "inactive", "netd is {state}");
        self.script(&format!("systemctl disable --quiet {} netd", self.function)).map(drop)
    }

    /// `netctl takeover --confirm` where systemd keeps the time: confirmed in time it stays; otherwise netd is stopped, and the function
    /// is the kernel's.
    fn timer_of_systemd_ends_what_nobody_confirms(&self) -> Result<()> {
        let bdf = self.lab.vm.bdf(0);
        let timers = || self.script("systemctl list-timers --no-legend 'netd-deadman-*'");
        self.script(&format!("netctl takeover {bdf} --confirm 60s && systemctl start netd"))?;
        self.check_it_serves()?;
        ensure!(timers()?.contains("netd-deadman-"), "systemd has no timer:\n{}", timers()?);
        self.script(&format!("netctl confirm {bdf}"))?;
        ensure!(timers()?.trim().is_empty(), "a timer is left:\n{}", timers()?);
        self.script("systemctl restart netd")?;
        self.check_it_serves()?;

        self.script(&format!("systemctl stop netd && netctl release {bdf}"))?;
        self.script(&format!("netctl takeover {bdf} --confirm 5s && systemctl start --no-block netd"))?;
        wait_until("the function's return", LIMIT, || Ok(self.lab.driver()? == "virtio-pci"))?;
        wait_until("netd's end", LIMIT, || {
            Ok(self.script("systemctl is-active netd || true")?.trim() == "inactive")
        })
    }

    /// What an operator would look at first.
    fn journal(&self) -> String {
        let look =
            "systemctl status --no-pager --lines=0 'netd*'; journalctl --no-pager --lines=80 -u 'netd*'";
        self.lab.vm.guest().script(look).output().map(|output| output.text()).unwrap_or_default()
    }
}
