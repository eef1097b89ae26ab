//! Two daemons and the wire between them.
//!
//! Where root runs the tests, the daemons and hostile clients run as ordinary users, each as one of its own: neither needs
//! any privilege, and several of the kernel's bounds (descriptors under way, for one) hold for ordinary users only.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use netd_ipc::{Client, ErrorKind};

/// Nothing here takes longer, except on a machine that is busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Where our clients are.
pub(crate) const OURS: &str = "10.9.0.1";
/// Where the peers are.
pub(crate) const PEER: &str = "10.9.0.2";

/// Whom the daemons run as: like the one of hostile clients, above the range that Debian gives to people, and below that of
/// dynamic service users (61184).
const DAEMON_UID: u32 = 60998;
/// Whom hostile clients run as.
pub(crate) const HOSTILE_UID: u32 = 60999;

/// What the lab's hosts file calls it.
pub(crate) const PEER_NAME: &str = "peer.test";

const GRANT: &str = r#"
[[grant]]
subject = "any"
allow = ["net.tcp.connect", "net.tcp.listen", "net.udp.bind", "net.udp.send", "net.icmp.ping", "net.dns.resolve", "net.raw", "net.capture"]
"#;

/// Whether root runs the tests, who may become others.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes a command run as this user, where we may.
pub(crate) fn run_as(command: &mut Command, uid: u32) -> &mut Command {
    if is_root() {
        // Without supplementary groups, which the standard library drops with the user.
        command.gid(uid).uid(uid);
    }
    command
}

/// A daemon that ends with this.
pub(crate) struct Daemon {
    child: Child,
    program: PathBuf,
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
        let program = directory.join("netd");
        let child = spawn(&program, &config, &log);
        Daemon { child, program, config, socket, log }
    }

    /// Kills it, so that it tells nobody, and starts another one in its place.
    pub(crate) fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.program, &self.config, &self.log);
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

fn spawn(program: &Path, config: &Path, log: &Path) -> Child {
    let log = fs::File::options().append(true).create(true).open(log).unwrap();
    let mut command = Command::new(program);
    command.args(["run", "--config"]).arg(config).stdout(Stdio::null()).stderr(log);
    run_as(&mut command, DAEMON_UID).spawn().unwrap()
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
        // Root starts the daemon as another user, and the tests speak for netd-services.
        format!("[services]\nuser = {}", rustix::process::geteuid().as_raw()),
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
        prepare(directory.path());
        fs::write(directory.path().join("hosts"), format!("{PEER} {PEER_NAME}\n")).unwrap();
        let [one, two] = ["one", "two"].map(|name| directory.path().join(format!("{name}.link")));
        let ends = [&one, &two].map(|path| {
            let listener = UnixListener::bind(path).unwrap();
            fs::set_permissions(path, PermissionsExt::from_mode(0o666)).unwrap();
            listener
        });
        thread::spawn(move || wire(ends));
        let ours = Daemon::start(directory.path(), "ours", OURS, &one, more);
        let theirs = Daemon::start(directory.path(), "theirs", PEER, &two, "");
        let lab = Lab { ours, theirs, directory, link: one };
        lab.theirs.client();
        lab.wait_for_wire();
        lab
    }

    fn wait_for_wire(&self) {
        let client = self.ours.client();
        wait("the wire", || client.ping(PEER.parse().unwrap(), None, None).ok());
    }

    /// Kills our daemon and starts another one in its place.
    pub(crate) fn restart(&mut self) {
        self.ours.restart();
        self.wait_for_wire();
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

    /// Servers behind the other daemon that send back what they get, of TCP and UDP at the port returned.
    pub(crate) fn echo_servers(&self) -> u16 {
        let listener = self.theirs.client().tcp_listen(None, None).unwrap();
        let port = listener.local_addr().port();
        let udp = self.theirs.client().udp_bind(Some(port)).unwrap();
        thread::spawn(move || {
            let mut bytes = [0; 2048];
            // Errors of datagrams that found nobody do not end it.
            while let Ok(event) = udp.recv_event(&mut bytes) {
                if let netd_ipc::Event::Datagram(received) = event {
                    let _ = udp.send_to(&bytes[..received.len], received.from);
                }
            }
        });
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                thread::spawn(move || {
                    let mut writer = stream.try_clone().unwrap();
                    let _ = std::io::copy(&mut stream, &mut writer).map(|_| writer.shutdown_write());
                });
            }
        });
        port
    }

    /// A server behind the other daemon that sends without end to whoever connects; returns its port.
    pub(crate) fn flood_server(&self) -> u16 {
        let listener = self.theirs.client().tcp_listen(None, None).unwrap();
        let port = listener.local_addr().port();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                thread::spawn(move || while stream.write_all(&[7; 1 << 16]).is_ok() {});
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

/// A directory for the daemons: theirs, and open to other users, who connect in some tests. With the program, which may be
/// where only root can reach it.
fn prepare(directory: &Path) {
    let program = (env!("CARGO_BIN_EXE_netd"), directory.join("netd"));
    if fs::hard_link(program.0, &program.1).is_err() {
        fs::copy(program.0, &program.1).unwrap();
    }
    fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    if is_root() {
        chown(directory, Some(DAEMON_UID), Some(DAEMON_UID)).unwrap();
    }
}

/// The wire: carries the frames of whoever is connected to one end to whoever is at the other. An end may come again.
fn wire(ends: [UnixListener; 2]) {
    let [one, two] = ends;
    let ends = [Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None))];
    for (listener, this, that) in [(one, 0, 1), (two, 1, 0)] {
        let (this, that) = (Arc::clone(&ends[this]), Arc::clone(&ends[that]));
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                *this.lock().unwrap() = Some(stream.try_clone().unwrap());
                carry(stream, &that);
            }
        });
    }
}

/// Carries frames one way until the sender is gone: each is a length of 4 bytes in network order, and that many bytes. What nobody
/// is there for is lost, as on any wire.
fn carry(from: UnixStream, to: &Mutex<Option<UnixStream>>) {
    let mut from = BufReader::with_capacity(1 << 16, from);
    let mut frame = vec![0; 4];
    while from.read_exact(&mut frame[..4]).is_ok() {
        let len = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
        frame.resize(4 + len, 0);
        if from.read_exact(&mut frame[4..]).is_err() {
            return;
        }
        let mut to = to.lock().unwrap();
        if to.as_mut().is_some_and(|to| to.write_all(&frame).is_err()) {
            *to = None;
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
