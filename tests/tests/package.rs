//! The Debian package, made of the programs that tests use.

use netd_tests::process::run;
use netd_tests::{Result, ensure, package};
use std::process::Command;

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
