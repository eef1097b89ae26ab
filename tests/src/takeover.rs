//! Take-overs with a fault in each: afterwards the function is in netd's hands and works, or in the kernel's hands and works.
//!
//! The kernel's interface has an address and routes of its own. That it works is shown by an answer from beyond the gateway, which it
//! reaches only by what it had before: nothing is configured again between the rounds.

use crate::error::{Error, Result};
use crate::guest::Output;
use crate::lab::{Lab, scenario_unjudged};
use crate::process::wait_until;
use crate::vm::Twin;
use crate::{ensure, guest};
use std::time::Duration;

/// How long a take-over may stay unconfirmed: the shortest that netctl accepts.
const CONFIRM: &str = "2s";
/// How long where it is confirmed: netd has its lease by then, however busy the host is.
const CONFIRM_AT_LEISURE: &str = "40s";
/// From a fault until the function is somewhere and works: the deadline, a guard that is started again, the daemon's end, and a busy host.
const SETTLED: Duration = Duration::from_secs(90);
const STATE: &str = "/run/netd";
/// How the processes that keep the time of a take-over are started.
const GUARD: &str = "netctl guard ";
/// Rounds in each machine: each fault once, and with `--long` ten times.
const REPEATS: usize = 1;
const REPEATS_LONG: usize = 10;

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Nothing: it is confirmed in time.
    None,
    /// Nobody confirms, and netd has the function.
    Unconfirmed,
    /// SIGKILL of `netctl takeover` while it works.
    CallerKilled,
    /// The terminal of the caller is gone.
    CallerGone,
    /// SIGKILL of the process that sees to the guard.
    SupervisorKilled,
    /// SIGKILL of the process that keeps the time, or gives back already.
    GuardKilled,
    /// SIGKILL of netd.
    DaemonKilled,
    /// SIGKILL of `netctl release` while it works.
    ReleaseKilled,
    /// SIGHUP to netd, and a give-back by force while it runs.
    Reloaded,
    /// A stranger holds the function at the deadline.
    HeldByAnother,
    /// The state cannot be written.
    StateUnwritable,
}

const FAULTS: [Fault; 11] = [
    Fault::None,
    Fault::Unconfirmed,
    Fault::CallerKilled,
    Fault::CallerGone,
    Fault::SupervisorKilled,
    Fault::GuardKilled,
    Fault::DaemonKilled,
    Fault::ReleaseKilled,
    Fault::Reloaded,
    Fault::HeldByAnother,
    Fault::StateUnwritable,
];

/// All faults, in an order and at moments that a seed decides (`NETD_SEED` replays one).
pub fn function_is_never_lost_whatever_goes_wrong(twin: Twin) -> Result<()> {
    let seed = std::env::var("NETD_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    let mut dice = fastrand::Rng::with_seed(seed);
    let repeats = if std::env::var_os("NETD_LONG").is_some() { REPEATS_LONG } else { REPEATS };
    scenario_unjudged(twin, |lab| {
        let round = Round { lab, bdf: lab.vm.bdf(0), guest: lab.vm.guest() };
        round.configure_the_kernels_interface()?;
        for repeat in 0..repeats {
            let mut faults = FAULTS;
            dice.shuffle(&mut faults);
            for fault in faults {
                let done = round.run(fault, &mut dice).and_then(|()| round.check_nothing_is_left());
                done.map_err(|error| {
                    Error::Expectation(format!(
                        "{fault:?} (NETD_SEED={seed}, repeat {repeat}): {error}\n{}",
                        round.state()
                    ))
                })?;
            }
        }
        Ok(())
    })
}

struct Round<'a> {
    lab: &'a Lab,
    bdf: &'a str,
    guest: &'a guest::Guest,
}

impl Round<'_> {
    /// Once, before all: what every give-back has to bring again.
    fn configure_the_kernels_interface(&self) -> Result<()> {
        let plan = &self.lab.plan;
        let find = format!("ls /sys/bus/pci/devices/{}/virtio*/net", self.bdf);
        let interface = self.guest.script(&find).run()?.trim().to_owned();
        let script = format!(
            "ip link set {interface} mtu 1400 up && ip address add {}/32 dev {interface} && \
             ip route add {gateway}/32 dev {interface} && ip route add {}/32 via {gateway} dev {interface} metric 77",
            plan.client,
            plan.remote,
            gateway = plan.gateway,
        );
        self.guest.script(&script).run()?;
        self.check_the_kernel_works()
    }

    fn run(&self, fault: Fault, dice: &mut fastrand::Rng) -> Result<()> {
        // Taking and giving back take some 0.1 s each on an idle host.
        let moment =
            |dice: &mut fastrand::Rng, most_ms: u32| format!("usleep {}", dice.u32(0..most_ms) * 1000);
        let takeover = format!("netctl takeover {} --confirm {CONFIRM}", self.bdf);
        // A host may be too busy for two seconds; then nothing is taken.
        let tried =
            format!("{{ {takeover} 2>/tmp/said || grep -q 'the time to confirm was over' /tmp/said; }}");
        let release = format!("netctl release {} --force", self.bdf);
        match fault {
            Fault::None => {
                self.script(&format!("netctl takeover {} --confirm {CONFIRM_AT_LEISURE}", self.bdf))?;
                let netd = self.lab.start_netd()?;
                self.lab.netctl(&["confirm", self.bdf])?.success()?;
                self.check_netd_works()?;
                netd.terminate()?;
                self.script(&release)?;
            }
            Fault::Unconfirmed => {
                self.script(&tried)?;
                // The deadline may come before the lease.
                let _too_late = self.lab.start_netd();
            }
            Fault::CallerKilled => {
                let moment = moment(dice, 300);
                self.script(&format!(
                    "{takeover} >/dev/null 2>&1 & p=$!; {moment}; kill -9 $p; wait $p; true"
                ))?;
            }
            Fault::CallerGone => {
                let moment = moment(dice, 300);
                self.script(&format!(
                    "setsid sh -c '{takeover}; sleep 60' >/dev/null 2>&1 & p=$!; {moment}; kill -HUP -$p || kill -HUP $p; wait $p; true"
                ))?;
            }
            Fault::SupervisorKilled | Fault::GuardKilled => {
                let supervisor = matches!(fault, Fault::SupervisorKilled);
                let moment = moment(dice, if supervisor { 3000 } else { 3500 });
                self.script(&format!("{tried}; {moment}"))?;
                let guards = self.processes(GUARD)?;
                match guards.iter().find(|(_, command)| command.contains("--supervise") == supervisor) {
                    // It may be done in this moment, or was before.
                    Some((id, _)) => drop(self.script(&format!("kill -9 {id}; true"))?),
                    None => ensure!(self.lab.driver()? == "virtio-pci", "no guard to be killed: {guards:?}"),
                }
            }
            Fault::DaemonKilled => {
                self.script(&tried)?;
                if let Ok(netd) = self.lab.start_netd() {
                    netd.kill()?;
                }
            }
            Fault::ReleaseKilled => {
                let moment = moment(dice, 300);
                self.script(&tried)?;
                self.script(&format!(
                    "{release} >/dev/null 2>&1 & p=$!; {moment}; kill -9 $p; wait $p; true"
                ))?;
            }
            Fault::Reloaded => {
                self.script(&format!("netctl takeover {}", self.bdf))?;
                let netd = self.lab.start_netd()?;
                netd.process.signal(rustix::process::Signal::HUP.as_raw())?;
                self.check_netd_works()?;
                self.script(&release)?;
            }
            Fault::HeldByAnother => {
                let node = "$(ls -d /dev/vfio/[0-9]* /dev/vfio/noiommu-* 2>/dev/null | head -1)";
                self.script(&format!("{tried} && {{ sleep 1000 <>{node} >/dev/null 2>&1 & }}"))?;
            }
            Fault::StateUnwritable => {
                let broken =
                    format!("mkdir -p {STATE}; mv {STATE} {STATE}.aside; echo > {STATE}; {takeover}");
                let refused = self.guest.script(&broken).output()?;
                self.script(&format!("rm {STATE}; mv {STATE}.aside {STATE}"))?;
                ensure!(!refused.is_success(), "taken without a state:\n{}", refused.text());
            }
        }
        self.settle()
    }

    fn script(&self, script: &str) -> Result<String> {
        self.guest.script(script).run()
    }

    /// Every round ends with the kernel, by itself.
    fn settle(&self) -> Result<()> {
        // A caller that dies before it has a guard leaves a pledge behind, and has changed nothing.
        let record = format!("{STATE}/function-{}.json", self.bdf);
        wait_until("the function's return", SETTLED, || {
            let left = self.guest.script(&format!("test ! -e {record}")).output()?;
            Ok(left.is_success() && self.lab.driver()? == "virtio-pci")
        })?;
        self.check_the_kernel_works()
    }

    fn check_the_kernel_works(&self) -> Result<()> {
        self.guest.run(&["ping", "-c", "1", "-W", "20", self.lab.plan.remote]).map(drop)
    }

    fn check_netd_works(&self) -> Result<()> {
        self.lab.netctl(&["ping", "-c", "1", "-W", "20", self.lab.plan.gateway])?.success().map(drop)
    }

    /// No process of the round is left, above all none that nothing can end.
    fn check_nothing_is_left(&self) -> Result<()> {
        wait_until("the guards' end", SETTLED, || {
            Ok(self.processes(GUARD)?.is_empty() && self.processes("netd ")?.is_empty())
        })?;
        let stuck = self.guest.script("grep -l '^State:.D' /proc/[0-9]*/status; sleep 0.2").output()?;
        // Whoever waits for a disk for a moment is another one a moment later.
        let still = self.guest.script("grep -l '^State:.D' /proc/[0-9]*/status").output()?;
        let both = |text: &Output| text.text().lines().map(str::to_owned).collect::<Vec<_>>();
        let stuck: Vec<String> =
            both(&stuck).into_iter().filter(|line| both(&still).contains(line)).collect();
        ensure!(stuck.is_empty(), "stuck in the kernel: {stuck:?}");
        Ok(())
    }

    /// The processes in the machine that were started with such words, by their numbers.
    fn processes(&self, words: &str) -> Result<Vec<(u32, String)>> {
        let listed = self.guest.run(&["ps", "-o", "pid,args"])?;
        let process = |line: &str| {
            let (id, command) = line.trim_start().split_once(' ')?;
            Some((id.parse().ok()?, command.to_owned()))
        };
        Ok(listed.lines().filter_map(process).filter(|(_, command)| command.contains(words)).collect())
    }

    /// What an engineer would look at first.
    fn state(&self) -> String {
        let look = format!(
            "ls -l /sys/bus/pci/devices/{bdf}/driver; cat {STATE}/*{bdf}*; ps -o pid,stat,args | grep -v '\\['; ip address; ip route",
            bdf = self.bdf
        );
        self.guest.script(&look).output().map(|output| output.text()).unwrap_or_default()
    }
}
