//! Two daemons and the wire between them.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use netd_ipc::{Client, ErrorKind};

/// Nothing here takes longer, except on a machine that is busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Where the peers are.
pub(crate) const PEER: &str = "10.9.0.2";

/// What the lab's hosts file calls it.
pub(crate) const PEER_NAME: &str = "peer.test";

const GRANT: &str = r#"
[[grant]]
subject = "any"
allow = ["net.tcp.connect", "net.tcp.listen", "net.udp.bind", "net.udp.send", "net.icmp.ping", "net.dns.resolve", "net.capture"]
"#;

/// A daemon that ends with this.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) config: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) log: PathBuf,
}

impl Daemon {
    fn start(directory: &Path, name: &str, address: &str, link: &Path, more: &str) -> Daemon {
        let file = |ending: &str| directory.join(format!("{name}.{ending}"));
        let (config, socket, log) = (file("toml"), file("sock"), file("log"));
        let daemon_config = configuration(directory, name, address, link, true, more);
        fs::write(&config, daemon_config).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_netd"))
            .args(["run", "--config"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Daemon { child, config, socket, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Connects once it serves.
    pub(crate) fn client(&self) -> Client {
        wait("the daemon", || Client::connect(&self.socket).ok())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends SIGHUP.
    pub(crate) fn hang_up(&self) {
        let done = Command::new("kill").args(["-HUP", &self.pid().to_string()]).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.pid().to_string()).status();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("---- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// A configuration of the lab.
pub(crate) fn configuration(
    directory: &Path,
    name: &str,
    address: &str,
    link: &Path,
    devnet: bool,
    more: &str,
) -> String {
    let socket = directory.join(format!("{name}.sock"));
    let mut text = String::new();
    let lines = [
        format!("[network.devnet]\nenabled = {devnet}"),
        format!("[device]\nkind = \"software\"\nlink = {{ kind = \"socket\", path = {link:?} }}"),
        format!("[address]\nmode = \"static\"\ncidr = \"{address}/24\""),
        format!("[dns]\nhosts = {:?}", directory.join("hosts")),
        format!("[ipc]\nsocket = {socket:?}\nmode = \"0666\""),
        format!("[state]\ndirectory = {:?}", directory.join(name)),
        more.to_owned(),
        GRANT.to_owned(),
    ];
    for line in lines {
        writeln!(text, "{line}").unwrap();
    }
    text
}

/// The two daemons.
pub(crate) struct Lab {
    /// The one whose clients are tried.
    pub(crate) ours: Daemon,
    /// The one behind which their peers are.
    pub(crate) theirs: Daemon,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) link: PathBuf,
}

impl Lab {
    pub(crate) fn start() -> Lab {
        Lab::with("")
    }

    /// With more lines in our daemon's configuration.
    pub(crate) fn with(more: &str) -> Lab {
        let directory = tempfile::tempdir().unwrap();
        // Other users connect in some tests.
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fs::write(directory.path().join("hosts"), format!("{PEER} {PEER_NAME}\n")).unwrap();
        let [one, two] = ["one", "two"].map(|name| directory.path().join(format!("{name}.link")));
        let ends = [&one, &two].map(|path| UnixListener::bind(path).unwrap());
        thread::spawn(move || {
            let [one, two] = ends.map(|end| end.accept().unwrap().0);
            let back = (two.try_clone().unwrap(), one.try_clone().unwrap());
            thread::spawn(move || carry(back.0, back.1));
            carry(one, two);
        });
        let ours = Daemon::start(directory.path(), "ours", "10.9.0.1", &one, more);
        let theirs = Daemon::start(directory.path(), "theirs", PEER, &two, "");
        let lab = Lab { ours, theirs, directory, link: one };
        let client = lab.ours.client();
        lab.theirs.client();
        wait("the wire", || client.ping(PEER.parse().unwrap(), None, None).ok());
        lab
    }

    /// An HTTP server behind the other daemon; returns its port.
    pub(crate) fn http_server(&self) -> u16 {
        let listener = self.theirs.client().tcp_listen(None, None).unwrap();
        let port = listener.local_addr().port();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                thread::spawn(move || {
                    let mut request = Vec::new();
                    let mut bytes = [0; 1024];
                    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                        match stream.read(&mut bytes) {
                            Ok(0) | Err(_) => return,
                            Ok(count) => request.extend_from_slice(&bytes[..count]),
                        }
                    }
                    let body = "the answer\n".repeat(10_000);
                    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    let _ =
                        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
                    let _ = stream.shutdown_write();
                    let _ = stream.read_to_end(&mut Vec::new());
                });
            }
        });
        port
    }

    /// A stream from our daemon to the other one, both ends.
    pub(crate) fn stream(&self, client: &Client) -> (netd_ipc::TcpStream, netd_ipc::TcpStream) {
        let listener = self.theirs.client().tcp_listen(None, None).unwrap();
        let remote = format!("{PEER}:{}", listener.local_addr().port()).parse().unwrap();
        let stream = client.tcp_connect(remote, None).unwrap();
        (stream, listener.accept().unwrap().0)
    }
}

/// Carries bytes one way.
fn carry(mut from: UnixStream, mut to: UnixStream) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

pub(crate) fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// That somebody else is served: a status, and a stream that carries bytes both ways.
pub(crate) fn assert_serves(lab: &Lab) {
    let client = Client::connect(&lab.ours.socket).unwrap();
    client.status().unwrap();
    let (mut ours, mut theirs) = lab.stream(&client);
    ours.write_all(b"question").unwrap();
    let mut bytes = [0; 8];
    theirs.read_exact(&mut bytes).unwrap();
    theirs.write_all(b"answered").unwrap();
    ours.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"answered");
}

/// The named error of a result that has one.
pub(crate) fn kind<T: std::fmt::Debug>(result: Result<T, netd_ipc::Error>) -> ErrorKind {
    result.unwrap_err().kind().unwrap()
}
