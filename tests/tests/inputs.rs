//! Wrong input that needs no PCI function: configurations, sockets, and the devnet switch.

use netd_tests::binaries::Binaries;
use netd_tests::embedded::{self, Embedded, Network, Options, private_directory};
use netd_tests::process::{Background, run};
use netd_tests::{Error, Result, ensure};
use std::fs;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(15);

/// The command must fail, and its message must contain all of this.
fn expect_refusal(command: &mut Command, words: &[&str]) -> Result<()> {
    let message = match run(command) {
        Ok(output) => return Err(Error::Expectation(format!("it succeeded:\n{output}"))),
        Err(error) => error.to_string(),
    };
    for word in words {
        ensure!(message.contains(word), "the message does not say {word:?}:\n{message}");
    }
    ensure!(!message.contains("panicked"), "a panic is no message:\n{message}");
    Ok(())
}

fn start(devnet: bool) -> Result<Embedded> {
    let options = Options { devnet, forwarded_port: 7100, judged: Some(&[]) };
    Embedded::start(Network::isolated()?, private_directory()?, options)
}

#[test]
#[ignore = "builds the daemon: cargo xtask test"]
fn wrong_configuration_is_refused_with_file_line_key_and_remedy() -> Result<()> {
    let netd = Binaries::build()?.path("netd");
    let directory = private_directory()?;
    let path = directory.path().join("netd.toml");
    let device = "[device]\nkind = \"vfio\"\nfunction = \"0000:00:03.0\"\n";
    let cases: [(String, &[&str]); 7] = [
        (format!("{device}speed = 7\n"), &[":4:", "speed", "function"]),
        (format!("{device}poll = \"always\"\n"), &[":4:", "always", "busy", "adaptive"]),
        ("[device]\nkind = \"vfio\"\nfunction = \"eth0\"\n".to_owned(), &[":3:", "eth0", "0000:00:03.0"]),
        ("[device]\nkind = \"pci\"\n".to_owned(), &[":2:", "pci", "vfio", "software"]),
        ("[device]\nkind = \"vfio\"\n".to_owned(), &["function"]),
        (format!("{device}[network.devnet]\nenabled = \"yes\"\n"), &[":5:", "enabled", "boolean"]),
        (
            format!("{device}[address]\nmode = \"static\"\ncidr = \"10.0.0.300/24\"\n"),
            &[":6:", "cidr", "10.0.0.2/24"],
        ),
    ];
    for (text, words) in cases {
        fs::write(&path, &text)
            .map_err(|source| Error::Io { action: "write netd.toml".to_owned(), source })?;
        let name = path.display().to_string();
        let words: Vec<&str> = [name.as_str()].into_iter().chain(words.iter().copied()).collect();
        expect_refusal(Command::new(&netd).args(["check", "--config"]).arg(&path), &words)
            .map_err(|error| Error::Expectation(format!("of\n{text}\n{error}")))?;
    }
    let good = embedded::configuration(directory.path(), true);
    fs::write(&path, good).map_err(|source| Error::Io { action: "write netd.toml".to_owned(), source })?;
    run(Command::new(&netd).args(["check", "--config"]).arg(&path)).map(drop)
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn second_netd_on_the_same_socket_is_refused_and_the_first_serves_on() -> Result<()> {
    let embedded = start(true)?;
    let mut second = embedded.network.command(embedded.path("netd"));
    second.args(["run", "--config"]).arg(embedded.path("netd.toml"));
    expect_refusal(&mut second, &["netd.sock"])?;
    let gateway = embedded.host_address()?;
    run(&mut embedded.netctl(&["ping", &gateway]))?;
    embedded.terminate()
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn socket_path_taken_by_something_else_is_refused_and_left_alone() -> Result<()> {
    let embedded = start(true)?;
    let text = fs::read_to_string(embedded.path("netd.toml"));
    let text = text.map_err(|source| Error::Io { action: "read netd.toml".to_owned(), source })?;
    for (name, content) in [("taken.sock", None), ("taken.txt", Some("precious"))] {
        let path = embedded.path(name);
        let mut holder = None;
        match content {
            Some(content) => fs::write(&path, content)
                .map_err(|source| Error::Io { action: "write a file".to_owned(), source })?,
            None => {
                let mut socat = embedded.network.command("socat");
                socat.arg(format!("UNIX-LISTEN:{},fork", path.display())).arg("EXEC:cat");
                let socat = Background::spawn(&mut socat, &embedded.path("socat.log"))?;
                netd_tests::netns::wait_for_path(&path, LIMIT)?;
                holder = Some(socat);
            }
        }
        let other = embedded.path(&format!("{name}.toml"));
        let configuration = text.replace("netd.sock", name).replace("/state\"", "/state-of-another\"");
        fs::write(&other, configuration)
            .map_err(|source| Error::Io { action: "write netd.toml".to_owned(), source })?;
        let mut netd = embedded.network.command(embedded.path("netd"));
        expect_refusal(netd.args(["run", "--config"]).arg(&other), &[name])?;
        ensure!(path.exists(), "{name} was removed");
        if let Some(content) = content {
            ensure!(fs::read_to_string(&path).is_ok_and(|left| left == content), "{name} was changed");
        }
        drop(holder);
    }
    embedded.terminate()
}

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn devnet_off_denies_every_outbound_flow_by_name_in_spite_of_grants() -> Result<()> {
    let embedded = start(false)?;
    let gateway = embedded.host_address()?;
    expect_refusal(&mut embedded.netctl(&["ping", &gateway]), &["DevnetDisabled"])?;
    expect_refusal(&mut embedded.netctl(&["connect", &gateway, "80"]), &["DevnetDisabled"])?;
    expect_refusal(&mut embedded.python(&[&gateway, "80"]), &["DevnetDisabled"])?;
    let log = embedded.netd.output();
    ensure!(log.contains("net: devnet off deny"), "no marker for the denial:\n{log}");
    let status = embedded.json("status")?;
    ensure!(status["devnet_enabled"] == false, "the status hides the switch:\n{status:#}");
    embedded.terminate()
}
