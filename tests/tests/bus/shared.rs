//! Files and state between two devices that are paired, and on one machine.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use netd_tests::bus::{Node, expect_refusal, run};
use netd_tests::embedded::UNPRIVILEGED_UID;
use netd_tests::peers::file_of;
use netd_tests::{Error, Result, digest, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A file that takes long enough to be cut in the middle: many times what all buffers on the way hold.
const FILE_BYTES: u64 = 32 << 20;
/// The longest value.
const LONG_BYTES: usize = 32 * 1024;

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Expectation(error.to_string())
}

/// What a device shares: `files`, and `private`, which its list has for nobody.
#[derive(Debug)]
pub(crate) struct Shared {
    directory: TempDir,
    sha256: String,
}

impl Shared {
    pub(crate) fn new() -> Result<Shared> {
        let directory = tempfile::Builder::new().prefix("netd-share-").tempdir().map_err(failed)?;
        let root = directory.path();
        for inner in ["files", "files/inner", "private"] {
            fs::create_dir(root.join(inner)).map_err(failed)?;
        }
        let sha256 = file_of(&root.join("files/big"), FILE_BYTES, 5)?;
        fs::write(root.join("files/inner/small"), "small\n").map_err(failed)?;
        fs::write(root.join("secret"), "secret").map_err(failed)?;
        fs::write(root.join("private/secret"), "secret").map_err(failed)?;
        symlink("../secret", root.join("files/out")).map_err(failed)?;
        symlink("/", root.join("files/root")).map_err(failed)?;
        chown(root, Some(UNPRIVILEGED_UID), Some(UNPRIVILEGED_UID)).map_err(failed)?;
        Ok(Shared { directory, sha256 })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// For `[bus]`: the shares, and what of them and of the state `device` may.
    pub(crate) fn configuration(&self, device: &str) -> String {
        let share = |name: &str| {
            format!("[[bus.share]]\nname = \"{name}\"\npath = \"{}\"\n", self.path(name).display())
        };
        format!(
            "{}{}[[bus.acl]]\ndevices = [\"{device}\"]\nservices = []\nshares = [\"files\"]\n\
             state = [\"/state/shared/\"]\nstate_write = [\"/state/shared/theirs/\"]\n",
            share("files"),
            share("private")
        )
    }
}

/// What the clients of `user` may: read shares, one of which no device has, and all of the state.
pub(crate) fn rules(devices: &str) -> String {
    let user = format!("user:{UNPRIVILEGED_UID}");
    format!(
        "[[grant]]\nsubject = \"{user}\"\nallow = [\"dsoftbus.share.files\"]\ndevices = [{devices}]\nservices = [\"files\", \"private\"]\n\
         [[grant]]\nsubject = \"{user}\"\nallow = [\"dsoftbus.session.open\", \"dsoftbus.share.state\", \"dsoftbus.share.state.write\"]\ndevices = [{devices}]\n"
    )
}

fn names(listed: &Value) -> Vec<&str> {
    listed.as_array().into_iter().flatten().filter_map(|file| file["name"].as_str()).collect()
}

/// Whether the file is what was shared.
fn check(path: &Path, sha256: &str) -> Result<()> {
    let mut file = fs::File::open(path).map_err(failed)?;
    let (bytes, came) = digest::of_reader(&mut file).map_err(failed)?;
    ensure!((bytes, came.as_str()) == (FILE_BYTES, sha256), "{bytes} bytes with the digest {came}");
    Ok(())
}

/// Files of `device`: listed, told of, brought here; and what is no file of it.
pub(crate) fn files(node: &Node<'_>, device: &str, shared: &Shared, visible: &[&str]) -> Result<()> {
    let shares = node.bus(&["files", "list", device])?;
    ensure!(names(&shares) == visible, "shares: {shares:#}");
    let listed = node.bus(&["files", "list", device, "files"])?;
    ensure!(names(&listed) == ["big", "inner"], "what leads elsewhere is listed: {listed:#}");
    ensure!(listed[0]["size"] == FILE_BYTES && listed[1]["kind"] == "directory", "{listed:#}");
    let inner = node.bus(&["files", "list", device, "files/inner/"])?;
    ensure!(names(&inner) == ["small"], "{inner:#}");
    let stat = node.bus(&["files", "stat", device, "files/big", "--hash"])?;
    ensure!(stat["sha256"] == shared.sha256.as_str() && stat["file"]["size"] == FILE_BYTES, "{stat:#}");
    let small = run(&mut node.netctl(&["bus", "files", "get", device, "files/inner/small"]))?;
    ensure!(small.status.success() && small.stdout == b"small\n", "{small:?}");
    let target = node.path("whole");
    let got = node.bus(&["files", "get", device, "files/big", "-o", &target.to_string_lossy()])?;
    ensure!(got["sha256"] == shared.sha256.as_str() && got["resumed_from"] == 0, "{got:#}");
    check(&target, &shared.sha256)?;
    fs::remove_file(&target).map_err(failed)?;
    for (place, name) in [
        ("files/../secret", "InvalidInput"),
        ("files/inner/../../secret", "InvalidInput"),
        ("files//etc/passwd", "InvalidInput"),
        ("files/./big", "InvalidInput"),
        ("files/out", "NotFound"),
        ("files/root/etc/passwd", "NotFound"),
        ("files/none", "NotFound"),
        ("files/inner", "InvalidInput"),
        ("other/big", "PolicyDenied"),
    ] {
        node.refused(&["files", "get", device, place], name)?;
    }
    Ok(())
}

/// What no grant here, and no rule there, gives.
pub(crate) fn refusals(alpha: &Node<'_>) -> Result<()> {
    // Granted here, and hidden there, as if it were not there at all.
    let message = alpha.refused(&["files", "get", "beta", "private/secret"], "NotFound")?;
    ensure!(message.contains("there is no share"), "{message}");
    alpha.refused(&["files", "list", "gamma", "files"], "PolicyDenied")?;
    let message = alpha.refused(&["state", "put", "ours/a", "1"], "PolicyDenied")?;
    ensure!(message.contains("beta says:") && message.contains("[[bus.acl]]"), "{message}");
    alpha.refused(&["state", "put", "theirs2/a", "1"], "PolicyDenied")?;
    alpha.refused(&["state", "get", "/state/own/a"], "InvalidInput")?;
    alpha.refused(&["state", "get", "theirs/../ours"], "InvalidInput")?;
    for (arguments, capability) in [
        (&["bus", "files", "list", "beta"][..], "dsoftbus.session.open"),
        (&["bus", "files", "get", "beta", "files/big"], "dsoftbus.session.open"),
        (&["bus", "state", "get", "theirs/a"], "dsoftbus.session.open"),
        (&["bus", "state", "put", "theirs/a", "1"], "dsoftbus.session.open"),
    ] {
        let message = expect_refusal(&mut alpha.netctl_as_root(arguments), "PolicyDenied")?;
        ensure!(message.contains(capability), "{arguments:?}: {message}");
    }
    Ok(())
}

/// The device is killed in the middle of a file; once it is back, the rest of it is brought.
pub(crate) fn cut(alpha: &Node<'_>, beta: &mut Node<'_>, shared: &Shared) -> Result<()> {
    let (target, part) = (alpha.path("cut"), alpha.path("cut.part"));
    let target_text = target.to_string_lossy().into_owned();
    let mut command = alpha.netctl(&["bus", "files", "get", "beta", "files/big", "-o", &target_text]);
    let getting = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut getting = getting.map_err(failed)?;
    while fs::metadata(&part).map_or(0, |part| part.len()) == 0 {
        ensure!(getting.try_wait().map_err(failed)?.is_none(), "it ended before anything came");
        sleep(Duration::from_millis(2));
    }
    // Held while its device dies, so that it cannot be quicker than that.
    signal(&getting, Signal::STOP)?;
    beta.kill_services()?;
    signal(&getting, Signal::CONT)?;
    let output = getting.wait_with_output().map_err(failed)?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && told.contains("are missing"), "a file that was cut short: {told}");
    let before = fs::metadata(&part).map_err(failed)?.len();
    ensure!(before > 0 && before < FILE_BYTES && !target.exists(), "{before} bytes are there");
    beta.start_services()?;
    beta.wait("alpha", |node| Ok(node.peer("alpha")?.is_some_and(|peer| peer["present"] == true)))?;
    let got = alpha.bus(&["files", "get", "beta", "files/big", "-o", &target_text])?;
    ensure!(got["resumed_from"] == before && got["sha256"] == shared.sha256.as_str(), "{got:#}");
    check(&target, &shared.sha256)?;
    ensure!(!part.exists(), "the part is left behind");
    fs::remove_file(&target).map_err(failed)
}

fn signal(process: &Child, signal: Signal) -> Result<()> {
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.ok_or_else(|| failed("no process"))?, signal).map_err(failed)
}

/// Values that `node` writes and reads: versions, conflicts, lists, changes.
pub(crate) fn state(node: &Node<'_>) -> Result<()> {
    node.refused(&["state", "get", "theirs/a"], "NotFound")?;
    let first = node.bus(&["state", "put", "theirs/a", "one", "--create"])?["revision"].clone();
    let got = node.bus(&["state", "get", "theirs/a"])?;
    ensure!(got["text"] == "one" && got["version"] == first, "{got:#}");
    let message = node.refused(&["state", "put", "theirs/a", "two", "--create"], "Conflict")?;
    ensure!(message.contains(&format!("version {first}")), "{message}");
    let second = node.bus(&["state", "put", "theirs/a", "two", "--version", &first.to_string()])?;
    ensure!(second["revision"].as_u64() > first.as_u64(), "{second:#}");
    node.refused(&["state", "put", "theirs/a", "three", "--version", &first.to_string()], "Conflict")?;
    node.refused(&["state", "delete", "theirs/a", "--version", &first.to_string()], "Conflict")?;
    // Both more than a request, and than a reply, has room for.
    let long = "x".repeat(LONG_BYTES);
    fs::write(node.path("value"), &long).map_err(failed)?;
    let input = fs::File::open(node.path("value")).map_err(failed)?;
    let put = node.netctl(&["bus", "state", "put", "theirs/long"]).stdin(input).output().map_err(failed)?;
    ensure!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    ensure!(node.bus(&["state", "get", "theirs/long"])?["text"] == long.as_str(), "another long value came");
    let listed = node.bus(&["state", "list", "theirs/"])?;
    let keys: Vec<_> =
        listed.as_array().into_iter().flatten().map(|key| (&key["key"], &key["size"])).collect();
    let expected = [("/state/shared/theirs/a", 3), ("/state/shared/theirs/long", LONG_BYTES)]
        .map(|(key, size)| (json!(key), json!(size)));
    ensure!(keys == expected.each_ref().map(|(key, size)| (key, size)), "{listed:#}");
    let mut watch = node.netctl(&["bus", "state", "watch", "theirs/", "-n", "4"]);
    let watching = watch.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    node.bus(&["state", "delete", "theirs/long"])?;
    node.refused(&["state", "delete", "theirs/long"], "NotFound")?;
    let mut rounds = 0;
    let changes = watched(watching, || {
        // One that begins late has less to tell of the past.
        rounds += 1;
        node.bus(&["state", "put", "theirs/b", &rounds.to_string()]).map(drop)
    })?;
    let last = changes.last().cloned().unwrap_or_default();
    ensure!(changes.len() == 4 && last["key"] == "/state/shared/theirs/b", "{changes:#?}");
    let revisions: Vec<_> = changes.iter().filter_map(|change| change["revision"].as_u64()).collect();
    ensure!(revisions.is_sorted(), "{changes:#?}");
    node.bus(&["state", "delete", "theirs/b"])?;
    node.bus(&["state", "delete", "theirs/a"]).map(drop)
}

/// What a watch tells until it ends, while something is done.
fn watched(mut watching: Child, mut work: impl FnMut() -> Result<()>) -> Result<Vec<Value>> {
    while watching.try_wait().map_err(failed)?.is_none() {
        work()?;
        sleep(Duration::from_millis(50));
    }
    let output = watching.wait_with_output().map_err(failed)?;
    let lines = String::from_utf8(output.stdout).map_err(failed)?;
    lines.lines().map(|line| serde_json::from_str(line).map_err(failed)).collect()
}

/// Two devices that count at once lose nothing; and what they wrote, the keeper has after it was killed, and its audit.
pub(crate) fn kept(alpha: &Node<'_>, beta: &mut Node<'_>) -> Result<()> {
    alpha.bus(&["state", "put", "theirs/count", "0", "--create"])?;
    std::thread::scope(|scope| {
        let counting = [alpha, &*beta].map(|node| scope.spawn(move || (0..3).try_for_each(|_| count(node))));
        counting.into_iter().try_for_each(|counting| counting.join().map_err(|_| failed("a panic"))?)
    })?;
    let before = alpha.bus(&["state", "get", "theirs/count"])?;
    ensure!(before["text"] == "6", "two devices counted to {}", before["text"]);
    beta.kill_services()?;
    beta.start_services()?;
    beta.wait("alpha", |node| Ok(node.peer("alpha")?.is_some_and(|peer| peer["present"] == true)))?;
    for node in [alpha, &*beta] {
        ensure!(node.bus(&["state", "get", "theirs/count"])? == before, "after the keeper was killed");
    }
    let audited = run(&mut beta.netctl(&["audit", "tail", "-n", "100"]))?;
    let audited = String::from_utf8_lossy(&audited.stdout).into_owned();
    for trace in ["/state/shared/theirs/count", "\"alpha\"", "bytes written, revision"] {
        ensure!(audited.contains(trace), "nothing of {trace} in the keeper's audit:\n{audited}");
    }
    Ok(())
}

/// Counts one up, however often somebody else was quicker.
fn count(node: &Node<'_>) -> Result<()> {
    loop {
        let got = node.bus(&["state", "get", "theirs/count"])?;
        let next = got["text"].as_str().and_then(|text| text.parse::<u32>().ok()).unwrap_or_default() + 1;
        let (next, version) = (next.to_string(), got["version"].to_string());
        let put =
            run(&mut node.netctl(&["bus", "state", "put", "theirs/count", &next, "--version", &version]))?;
        let told = String::from_utf8_lossy(&put.stderr).into_owned();
        match put.status.success() {
            true => return Ok(()),
            false => ensure!(told.contains("Conflict"), "{told}"),
        }
    }
}
