//! A whole Debian with systemd.

use netd_tests::Result;
use netd_tests::ensure;
use netd_tests::lab::debian_scenario;
use netd_tests::vm::Twin;

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn programs_run_as_people_and_as_units() -> Result<()> {
    debian_scenario(Twin::Viommu, &[], |lab| {
        let guest = lab.vm.guest();
        let who = guest.run(&["runuser", "--user", "alice", "--", "id", "--user", "--name"])?;
        ensure!(who.trim() == "alice", "ran as {who}");
        let unit = [
            "systemd-run",
            "--wait",
            "--pipe",
            "--quiet",
            "--unit=probe.service",
            "cat",
            "/proc/self/cgroup",
        ];
        let group = guest.run(&unit)?;
        ensure!(group.contains("/system.slice/probe.service"), "in another control group: {group}");
        println!("{}", guest.run(&["systemd-analyze"])?);
        Ok(())
    })
}
