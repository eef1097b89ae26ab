//! The Debian package, made of the programs that tests use: what is in it, and what becomes of a machine that installs it.

use netd_tests::debian::PROGRAMS;
use netd_tests::lab::{Lab, NO_OFFLOADS};
use netd_tests::process::{run, wait_until};
use netd_tests::vm::Twin;
use netd_tests::{Error, Result, ensure, package};
use std::process::Command;
use std::time::Duration;

/// Room for a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

#[test]
#[ignore = "installs cargo-deb: cargo xtask test"]
fn package_built_holds_what_an_operator_expects_and_lintian_finds_no_error() -> Result<()> {
    let file = package::build(true)?;
    let listing = run(Command::new("dpkg-deb").arg("--contents").arg(&file))?;
    let expected = [
        "./usr/bin/netd",
        "./usr/bin/netctl",
        "./usr/bin/netd-services",
        "./etc/netd/netd.toml",
        "./etc/netd/services.toml",
        "systemd/system/netd.service",
        "systemd/system/netd-services.service",
        "systemd/system/netd-function@.service",
        "./usr/lib/sysusers.d/netd.conf",
        "./usr/lib/tmpfiles.d/netd.conf",
        "./usr/share/netd/trust/README",
        "./usr/share/man/man8/netd.8.gz",
        "./usr/share/man/man1/netctl-doctor.1.gz",
        "./usr/share/bash-completion/completions/netctl",
        "./usr/share/zsh/vendor-completions/_netctl",
        "./usr/share/fish/vendor_completions.d/netctl.fish",
        "./usr/share/doc/netd/examples/netd.toml",
        "./usr/share/doc/netd/operations.md",
    ];
    for path in expected {
        ensure!(listing.contains(path), "the package lacks {path}:\n{listing}");
    }
    let configuration = run(Command::new("dpkg-deb").args(["--info"]).arg(&file).arg("conffiles"))?;
    ensure!(configuration.lines().count() == 2, "configuration that dpkg would overwrite:\n{configuration}");
    package::lint(&file).map(drop)
}

/// Installed it changes nothing; then it serves, goes on through an upgrade, gives the function back when it is removed, and leaves nothing
/// once it is purged.
#[test]
#[ignore = "installs cargo-deb and boots a virtual machine: cargo xtask test --long"]
fn package_installed_serves_is_upgraded_removed_and_purged() -> Result<()> {
    let file = package::build(true)?;
    let lab = Lab::debian_carrying(Twin::Gce, &[&file])?;
    life_of_an_installation(&lab).map_err(|error| {
        let look =
            "systemctl status --no-pager --lines=0 'netd*'; journalctl --no-pager --lines=80 -u 'netd*'";
        let journal = lab.vm.guest().script(look).output().map(|output| output.text()).unwrap_or_default();
        Error::Expectation(format!("{error}\n{journal}{}", lab.vm.console_tail()))
    })
}

fn life_of_an_installation(lab: &Lab) -> Result<()> {
    let guest = lab.vm.guest();
    let script = |script: &str| guest.script(script).limit(LIMIT).run();
    let bdf = lab.vm.bdf(0);
    let install = format!("dpkg --install {PROGRAMS}/netd.deb");
    script(&install)?;
    ensure!(lab.driver()? == "virtio-pci", "installing took the function");
    let state =
        script("systemctl is-enabled netd netd-services; systemctl is-active netd netd-services; true")?;
    let untouched = ["disabled", "disabled", "inactive", "inactive"];
    ensure!(state.split_whitespace().eq(untouched), "installing started or enabled a daemon:\n{state}");
    script("id netd-services && getent group netd && test -d /var/lib/netd/trust && netd check")?;

    let configuration = format!(
        "[network.devnet]\nenabled = true\n\n[device]\nkind = \"vfio\"\nfunction = \"{bdf}\"\n{NO_OFFLOADS}\n\
         [address]\nmode = \"dhcp\"\n\n[[grant]]\nsubject = \"user:root\"\nallow = [\"net.icmp.ping\"]\n"
    );
    guest.write_file("/etc/netd/netd.toml", configuration.as_bytes())?;
    script(&format!("netd check && systemctl enable --quiet --now netd-function@{bdf} netd netd-services"))?;
    let serves = || {
        wait_until("the lease", LIMIT, || {
            let shown = lab.netctl(&["--json", "status"])?;
            Ok(shown.is_success() && shown.text().contains("\"address_source\": \"dhcp\""))
        })?;
        lab.netctl(&["ping", "-c", "1", "-W", "20", lab.plan.gateway])?.success().map(drop)
    };
    serves()?;

    script(&install)?;
    serves()?;
    let kept = script("cat /etc/netd/netd.toml")?;
    ensure!(kept == configuration, "an upgrade changed the configuration:\n{kept}");
    ensure!(lab.driver()? == "vfio-pci", "an upgrade gave the function back");

    script("dpkg --remove netd")?;
    ensure!(lab.driver()? == "virtio-pci", "removed, the function is with {}", lab.driver()?);
    script("test ! -e /usr/bin/netd && test -e /etc/netd/netd.toml && test -d /var/lib/netd")?;
    script("dpkg --purge netd")?;
    script("test ! -e /etc/netd && test ! -e /var/lib/netd").map(drop)
}
