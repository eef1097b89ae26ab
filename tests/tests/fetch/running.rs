//! netd-services beside a netd on a tap, and the servers behind the tap.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netd_tests::netns::wait_for_path;
use netd_tests::process::Background;
use netd_tests::tapped::{GATEWAY, LIMIT, Tapped};
use netd_tests::{Error, Result, ensure};
use serde_json::Value;

use crate::Trying as _;
use crate::certificates::{Certificates, HOST};

/// The server that lies, and how.
const LIAR: &str = include_str!("liar.py");
/// Where it listens: plain, and with TLS and a good certificate.
pub(crate) const LIAR_PORT: u16 = 8099;
/// See [`LIAR_PORT`].
pub(crate) const LIAR_TLS_PORT: u16 = 8443;

/// Names, all of which are the bridge.
pub(crate) fn hosts() -> String {
    format!("{GATEWAY} {HOST} other.host.test secret.test\n")
}

/// What netd's configuration says beside device and addresses: everybody may fetch from names below host.test, and because those have
/// private addresses here, from those as well.
pub(crate) fn configuration(hosts: &Path) -> String {
    format!(
        "[clock]\ntrust = \"host\"\n[dns]\nhosts = {hosts:?}\n\
         [[grant]]\nsubject = \"any\"\nallow = [\"net.http.fetch\"]\nhosts = [\"*.host.test\", \"fixture.local\"]\n\
         [[grant]]\nsubject = \"any\"\nallow = [\"net.http.fetch\"]\nto = [\"{GATEWAY}/32\"]\n\
         [[grant]]\nsubject = \"any\"\nallow = [\"net.http.devnet\"]\n"
    )
}

/// What came of a fetch.
pub(crate) struct Fetched {
    /// The JSON that netctl prints: the result, or the error.
    pub(crate) told: Value,
    /// Whether it succeeded.
    pub(crate) done: bool,
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
        let path = |name: &str| tapped.path(name);
        for directory in ["roots", "fixtures"] {
            fs::create_dir_all(path(directory)).trying("use our own directory")?;
        }
        fs::write(path("roots/root.pem"), certificates.root()).trying("use our own directory")?;
        fs::write(path("fixtures/hello"), "a fixture\n").trying("use our own directory")?;
        let configuration = format!(
            "[ipc]\nsocket = {:?}\n[netd]\nsocket = {:?}\n[trust]\npackaged = {:?}\ninstalled = {:?}\n[fetch]\nfixtures = {:?}\n",
            path("services.sock"),
            path("netd.sock"),
            path("roots"),
            path("installed"),
            path("fixtures"),
        );
        fs::write(path("services.toml"), configuration).trying("use our own directory")?;
        let mut command = tapped.command(path("netd-services"));
        command.args(["run", "--config"]).arg(path("services.toml"));
        let services = Background::spawn(&mut command, &path("services.log"))?;
        wait_for_path(&path("services.sock"), LIMIT)?;
        fs::write(path("liar.py"), LIAR).trying("use our own directory")?;
        let mut command = tapped.namespace.command("/usr/bin/python3");
        command.arg(path("liar.py")).args([LIAR_PORT.to_string(), LIAR_TLS_PORT.to_string()]);
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

    /// Fetches what must come, and returns it with what netctl says.
    pub(crate) fn fetched(&self, url: &str, arguments: &[&str]) -> Result<(Vec<u8>, Value)> {
        let _ = fs::remove_file(self.path("out"));
        let Fetched { told, done } = self.fetch(url, arguments)?;
        ensure!(done, "{url} was not fetched: {told:#}");
        Ok((fs::read(self.path("out")).trying("read what was fetched")?, told))
    }

    /// Fetches what must be refused by this name, and with these words; and nothing may be written to the file.
    pub(crate) fn refused(&self, url: &str, arguments: &[&str], name: &str, words: &str) -> Result<()> {
        fs::write(self.path("out"), "precious").trying("use our own directory")?;
        let Fetched { told, done } = self.fetch(url, arguments)?;
        ensure!(!done, "{url} was fetched: {told:#}");
        let told_name = told["reason"].as_str().or(told["error"].as_str()).unwrap_or_default();
        let message = told["message"].as_str().unwrap_or_default();
        ensure!(told_name == name, "{url}: expected {name}, and netctl says: {told:#}");
        ensure!(message.contains(words), "{url}: expected '{words}' in: {message}");
        let content = fs::read(self.path("out")).trying("read the file")?;
        ensure!(content == b"precious", "{url}: something was written to the file");
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
