//! netd-services beside a netd on a tap, and the servers behind the tap.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use netd_tests::process::{Background, run};
use netd_tests::tapped::{GATEWAY, GATEWAY6, Tapped};
use netd_tests::{Error, Result, ensure};
use serde_json::Value;

use crate::Trying as _;
use crate::certificates::{Certificates, HOST, OTHER_HOSTS};

/// The server that lies, and how.
const LIAR: &str = include_str!("liar.py");
/// Where it listens: plain, and with TLS and a good certificate.
pub(crate) const LIAR_PORT: u16 = 8099;
/// See [`LIAR_PORT`].
pub(crate) const LIAR_TLS_PORT: u16 = 8443;
/// Somebody between, who hides from the port with TLS that TLS 1.3 is known.
pub(crate) const BETWEEN_PORT: u16 = 8444;

/// Names, all of which are the bridge.
pub(crate) fn hosts() -> String {
    let [wrongly_pinned, pinned, six, both] = OTHER_HOSTS;
    format!(
        "{GATEWAY} {HOST} xn--bcher-kva.host.test other.host.test secret.test {wrongly_pinned} {pinned} {both}\n{GATEWAY6} {six} {both}\n"
    )
}

/// What netd's configuration says beside device and addresses: everybody may fetch from names below host.test, and because those have
/// private addresses here, from those as well.
pub(crate) fn configuration(hosts: &Path) -> String {
    format!(
        "[clock]\ntrust = \"host\"\n[ipv6]\nmode = \"static\"\naddresses = [{ADDRESS6:?}]\n[dns]\nhosts = {hosts:?}\n\
         [[grant]]\nsubject = \"any\"\nallow = [\"net.http.fetch\"]\nhosts = [\"*.host.test\", \"fixture.local\"]\n\
         [[grant]]\nsubject = \"any\"\nallow = [\"net.http.fetch\"]\nto = [\"{GATEWAY}/32\", \"{GATEWAY6}/128\"]\n\
         [[grant]]\nsubject = \"any\"\nallow = [\"net.http.fetch\"]\nhosts = [\"other.host.test\"]\nredirects = \"granted\"\n\
         [[grant]]\nsubject = \"any\"\nallow = [\"net.http.devnet\", \"net.trust.manage\"]\n"
    )
}

/// What came of a fetch.
pub(crate) struct Fetched {
    /// The JSON that netctl prints: the result, or the error.
    pub(crate) told: Value,
    /// Whether it succeeded.
    pub(crate) done: bool,
}

/// netd's address beside the IPv4 one.
const ADDRESS6: &str = "fd77::50/64";
/// What stands in a file that nothing may be written to.
const PRECIOUS: &[u8] = b"precious";

/// A fetch whose body is coming.
pub(crate) struct UnderWay {
    child: Child,
    file: String,
}

/// Everything at work.
pub(crate) struct Running<'t> {
    pub(crate) tapped: &'t Tapped,
    pub(crate) certificates: &'t Certificates,
    services: Background,
    _liar: Background,
}

impl<'t> Running<'t> {
    /// Starts netd-services and the liar.
    pub(crate) fn start(tapped: &'t Tapped, certificates: &'t Certificates) -> Result<Running<'t>> {
        // It is nobody else's only after a second (RFC 4862, 5.4).
        tapped.wait("an IPv6 address", |tapped| {
            let addresses = tapped.interface()?["addresses"].clone();
            Ok(addresses.as_array().is_some_and(|all| all.iter().any(|address| address == ADDRESS6)))
        })?;
        let path = |name: &str| tapped.path(name);
        for directory in ["roots", "fixtures"] {
            fs::create_dir_all(path(directory)).trying("use our own directory")?;
        }
        fs::write(path("roots/root.pem"), certificates.root()).trying("use our own directory")?;
        fs::write(path("fixtures/hello"), "a fixture\n").trying("use our own directory")?;
        let [wrongly_pinned, pinned, ..] = OTHER_HOSTS;
        // Of another certificate of the same root.
        let pins = format!(
            "{{ {wrongly_pinned:?} = [{:?}], {pinned:?} = [{:?}] }}",
            certificates.pin("wrong_host")?,
            certificates.pin("good")?
        );
        let more = format!(
            "[trust]\npackaged = {:?}\ninstalled = {:?}\npins = {pins}\n[fetch]\nfixtures = {:?}\n",
            path("roots"),
            path("installed"),
            path("fixtures"),
        );
        let services = tapped.start_services(&more)?;
        fs::write(path("liar.py"), LIAR).trying("use our own directory")?;
        let mut command = tapped.namespace.command("/usr/bin/python3");
        command
            .arg(path("liar.py"))
            .args([LIAR_PORT, LIAR_TLS_PORT, BETWEEN_PORT].map(|port| port.to_string()));
        command.args([certificates.chain("good"), certificates.key("good")]);
        let mut liar = Background::spawn(&mut command, &path("liar.log"))?;
        tapped.namespace.wait_for_tcp(&mut liar, GATEWAY, LIAR_TLS_PORT)?;
        Ok(Running { tapped, certificates, services, _liar: liar })
    }

    /// Runs checks; a failure is shown with netd-services' log.
    pub(crate) fn explained(&self, checks: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        checks(self).map_err(|error| {
            Error::Expectation(format!("{error}\nnetd-services:\n{}", self.services.output()))
        })
    }

    /// A path in the scenario's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.tapped.path(name)
    }

    /// Fetches to the file `out`, with further arguments.
    pub(crate) fn fetch(&self, url: &str, arguments: &[&str]) -> Result<Fetched> {
        let mut command = self.tapped.netctl(&["--json", "fetch", url, "-o"]);
        command.arg(self.path("out")).args(arguments);
        command.env("NETD_SERVICES_SOCKET", self.path("services.sock"));
        let output = command.output().trying("run netctl")?;
        let done = output.status.success();
        let told = if done { &output.stdout } else { &output.stderr };
        let told = serde_json::from_slice(told).map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            Error::Expectation(format!("netctl fetch {url}: {error}: {said}"))
        })?;
        Ok(Fetched { told, done })
    }

    /// What a command of netctl's prints that netd-services answers and that succeeds.
    pub(crate) fn services(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.tapped.netctl(&["--json"]);
        command.args(arguments).env("NETD_SERVICES_SOCKET", self.path("services.sock"));
        let told = run(&mut command)?;
        serde_json::from_str(&told).trying("understand netctl")
    }

    /// Begins to fetch to `file`, which is there already; back when a part of the body has come.
    pub(crate) fn begin(&self, url: &str, file: &str) -> Result<UnderWay> {
        let part = self.path(&format!("{file}.part"));
        fs::write(self.path(file), PRECIOUS).trying("use our own directory")?;
        let mut command = self.tapped.netctl(&["--json", "fetch", url, "-o"]);
        command.arg(self.path(file)).env("NETD_SERVICES_SOCKET", self.path("services.sock"));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().trying("run netctl")?;
        let begun = |_: &Tapped| Ok(fs::metadata(&part).is_ok_and(|part| part.len() > 0));
        self.tapped.wait("a part of the body", begun)?;
        Ok(UnderWay { child, file: file.to_owned() })
    }

    /// Waits for the end of what [`begin`](Self::begin) began: it must have been refused by this name, and the file left alone.
    pub(crate) fn given_up(&self, UnderWay { child, file }: UnderWay, name: &str) -> Result<()> {
        let output = child.wait_with_output().trying("wait for netctl")?;
        ensure!(!output.status.success(), "{file} was fetched");
        let told: Value = serde_json::from_slice(&output.stderr).trying("understand netctl")?;
        let told_name = told["reason"].as_str().or(told["error"].as_str()).unwrap_or_default();
        ensure!(told_name == name, "{file}: expected {name}, and netctl says: {told:#}");
        let content = fs::read(self.path(&file)).trying("read the file")?;
        ensure!(content == PRECIOUS, "{file}: something was written to the file");
        Ok(())
    }

    /// Fetches what must come, and returns it with what netctl says.
    pub(crate) fn fetched(&self, url: &str, arguments: &[&str]) -> Result<(Vec<u8>, Value)> {
        let _ = fs::remove_file(self.path("out"));
        let Fetched { told, done } = self.fetch(url, arguments)?;
        ensure!(done, "{url} was not fetched: {told:#}");
        Ok((fs::read(self.path("out")).trying("read what was fetched")?, told))
    }

    /// Fetches what must be refused by this name, and with these words; and nothing may be written to the file.
    pub(crate) fn refused(&self, url: &str, arguments: &[&str], name: &str, words: &str) -> Result<()> {
        fs::write(self.path("out"), PRECIOUS).trying("use our own directory")?;
        let Fetched { told, done } = self.fetch(url, arguments)?;
        ensure!(!done, "{url} was fetched: {told:#}");
        let told_name = told["reason"].as_str().or(told["error"].as_str()).unwrap_or_default();
        let message = told["message"].as_str().unwrap_or_default();
        ensure!(told_name == name, "{url}: expected {name}, and netctl says: {told:#}");
        ensure!(message.contains(words), "{url}: expected '{words}' in: {message}");
        let content = fs::read(self.path("out")).trying("read the file")?;
        ensure!(content == PRECIOUS, "{url}: something was written to the file");
        for part in ["out.part", "out.part.json"] {
            let _ = fs::remove_file(self.path(part));
        }
        Ok(())
    }

    /// A program behind the tap, ready when it listens at `port`.
    pub(crate) fn server(&self, program: &str, arguments: &[&str], port: u16) -> Result<Background> {
        let mut command = self.tapped.namespace.command(program);
        command.args(arguments).current_dir(self.path("roots"));
        let mut server = Background::spawn(&mut command, &self.path(&format!("server-{port}.log")))?;
        self.tapped.namespace.wait_for_tcp(&mut server, GATEWAY, port)?;
        Ok(server)
    }
}

/// What something slow may take that is to be given up soon.
pub(crate) const SOON: Duration = Duration::from_secs(1);
