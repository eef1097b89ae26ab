//! The programs on the other side of the wire: real ones, started inside a namespace, ended with their handle.

mod avahi;
mod chrony;
mod identity;
mod kea;
mod radvd;
mod ssh;
mod unbound;

use crate::error::{Attempt, Result};
use crate::install;
use crate::netns::Namespace;
use crate::process::{Background, READY_LIMIT};
pub use avahi::Avahi;
pub use chrony::Chrony;
pub use identity::Identity;
pub use kea::Kea;
pub use radvd::Radvd;
pub use ssh::{SshKey, Sshd};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
pub use unbound::Unbound;

/// What dnsmasq hands out on a bridge.
#[derive(Clone, Copy, Debug)]
pub struct LeasePlan {
    /// The bridge's own address with its prefix: gateway and DHCP server.
    pub gateway: &'static str,
    /// Prefix length of the bridge.
    pub prefix: u8,
    /// Further addresses of the bridge, with prefixes.
    pub further: &'static [&'static str],
    /// An address behind the gateway, reached through it.
    pub remote: &'static str,
    /// The client's MAC address.
    pub mac: &'static str,
    /// The one address that the client gets.
    pub client: &'static str,
    /// The prefix length that the client is told.
    pub client_prefix: u8,
    /// The name server that the client is told.
    pub dns: &'static str,
    /// Arguments of dnsmasq for what else the client is told.
    pub options: &'static [&'static str],
}

/// As an office network hands out leases: a /24 with a router.
pub const OFFICE: LeasePlan = LeasePlan {
    gateway: "10.77.0.1",
    prefix: 24,
    further: &[],
    remote: "10.200.0.1",
    mac: "52:54:00:77:00:32",
    client: "10.77.0.50",
    client_prefix: 24,
    dns: "10.77.0.1",
    options: &[],
};

/// As GCE was captured handing out leases: a /32, whose gateway is reached by an on-link route of option 121; MTU 1460; the MAC
/// address spells the IPv4 address.
pub const GCE: LeasePlan = LeasePlan {
    gateway: "10.128.0.1",
    prefix: 20,
    further: &["169.254.169.254/32"],
    remote: "10.200.0.1",
    mac: "42:01:0a:80:00:02",
    client: "10.128.0.2",
    client_prefix: 32,
    dns: "169.254.169.254",
    options: &[
        "--dhcp-option-force=1,255.255.255.255",
        "--dhcp-option=26,1460",
        "--dhcp-option=121,10.128.0.1/32,0.0.0.0,0.0.0.0/0,10.128.0.1",
        "--dhcp-option=42,169.254.169.254",
        "--dhcp-option=12,netd-test",
        "--dhcp-option=15,c.example.internal",
    ],
};

/// dnsmasq as DHCP and DNS server on a bridge.
#[derive(Debug)]
pub struct Dnsmasq {
    process: Background,
    _directory: TempDir,
}

impl Dnsmasq {
    /// Starts it on `bridge`; ready when its DNS port answers.
    pub fn start(namespace: &Namespace, bridge: &str, plan: &LeasePlan) -> Result<Dnsmasq> {
        install::ensure(install::PEERS)?;
        let directory = temporary_directory()?;
        let mut command = namespace.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
        ]);
        command.args([
            "--log-facility=-",
            "--log-dhcp",
            "--pid-file=",
            "--bind-interfaces",
            "--dhcp-authoritative",
            "--no-ping",
        ]);
        command.arg(format!("--interface={bridge}"));
        command.arg(format!("--dhcp-leasefile={}", directory.path().join("leases").display()));
        command.arg(format!("--dhcp-range={},static,12h", plan.client));
        command.arg(format!("--dhcp-host={},{}", plan.mac, plan.client));
        command.arg(format!("--dhcp-option=3,{}", plan.gateway));
        command.arg(format!("--dhcp-option=6,{}", plan.dns));
        command.arg(format!("--address=/peer.test/{}", plan.remote));
        command.args(plan.options);
        let mut process = Background::spawn(&mut command, &directory.path().join("dnsmasq.log"))?;
        namespace.wait_for_tcp(&mut process, plan.gateway, 53)?;
        Ok(Dnsmasq { process, _directory: directory })
    }

    /// Its log: every DHCP exchange with its options.
    pub fn log(&self) -> String {
        self.process.output()
    }
}

/// What `/who` tells, of a connection with a PROXY header: both of its ends.
const WHO: &str =
    "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port";

/// nginx with one directory of files, on every address of the namespace.
#[derive(Debug)]
pub struct Nginx {
    _process: Background,
    directory: TempDir,
    /// Its port.
    pub port: u16,
}

impl Nginx {
    /// Starts it; ready when its port answers.
    pub fn start(namespace: &Namespace, port: u16) -> Result<Nginx> {
        Nginx::start_with(namespace, port, "", "")
    }

    /// The same over TLS, with HTTP/2 for whoever wants it.
    pub fn start_tls(namespace: &Namespace, port: u16, identity: &Identity) -> Result<Nginx> {
        let files = format!(
            "ssl_certificate {}; ssl_certificate_key {};",
            identity.certificate().display(),
            identity.key().display()
        );
        Nginx::start_with(namespace, port, " ssl http2", &files)
    }

    /// With more words for its `listen`, and more in its `server`.
    fn start_with(namespace: &Namespace, port: u16, listen: &str, server: &str) -> Result<Nginx> {
        install::ensure(install::PEERS)?;
        let directory = temporary_directory()?;
        let root = directory.path();
        let configuration = format!(
            "daemon off; worker_processes 1; pid {root}/nginx.pid; error_log stderr; user root;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;\n\
             fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;\n\
             server {{ listen 0.0.0.0:{port}{listen}; listen [::]:{port}{listen} ipv6only=on; listen unix:{root}/proxied.sock proxy_protocol;\n\
             {server} root {root}/files; location = /who {{ return 200 \"{WHO}\\n\"; }} }} }}\n",
            root = root.display()
        );
        // Whoever reaches the Unix socket need not be root.
        fs::set_permissions(root, fs::Permissions::from_mode(0o755))
            .attempt(|| "open nginx's directory".to_owned())?;
        fs::create_dir(root.join("files")).attempt(|| "make nginx's directory of files".to_owned())?;
        let path = root.join("nginx.conf");
        fs::write(&path, configuration).attempt(|| format!("write {}", path.display()))?;
        let mut command = namespace.command("nginx");
        command.arg("-p").arg(root).arg("-c").arg(&path).args(["-e", "stderr"]);
        let mut process = Background::spawn(&mut command, &root.join("nginx.log"))?;
        namespace.wait_for_tcp(&mut process, "127.0.0.1", port)?;
        Ok(Nginx { _process: process, directory, port })
    }

    /// Where it takes connections that begin with a header of the PROXY protocol, besides.
    pub fn proxied_socket(&self) -> PathBuf {
        self.directory.path().join("proxied.sock")
    }

    /// Offers a file of this many zeros, which take no place on the disk.
    pub fn offer_zeros(&self, name: &str, bytes: u64) -> Result<()> {
        let path = self.directory.path().join("files").join(name);
        let file = fs::File::create(&path).attempt(|| format!("create {}", path.display()))?;
        file.set_len(bytes).attempt(|| format!("lengthen {}", path.display()))
    }

    /// Offers a file.
    pub fn offer(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.directory.path().join("files").join(name);
        fs::write(&path, content).attempt(|| format!("write {}", path.display()))
    }
}

/// socat between a listening TCP port and something else.
#[derive(Debug)]
pub struct Socat {
    /// The process; its output is what socat wrote to standard output.
    pub process: Background,
    directory: TempDir,
}

impl Socat {
    /// Starts `socat ARGUMENTS`; ready when the kernel of the namespace lists the port as listening (a probe by
    /// connecting would be taken for the one connection that is served).
    pub fn listen(namespace: &Namespace, port: u16, arguments: &[&str]) -> Result<Socat> {
        install::ensure(install::PEERS)?;
        let directory = temporary_directory()?;
        let mut command = namespace.command("socat");
        command.args(arguments).current_dir(directory.path());
        let mut process = Background::spawn(&mut command, &directory.path().join("socat.log"))?;
        wait_for_listener(namespace, &mut process, port)?;
        Ok(Socat { process, directory })
    }

    /// A path in its working directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// Waits until a TCP port of the namespace listens, without touching it.
pub fn wait_for_listener(namespace: &Namespace, process: &mut Background, port: u16) -> Result<()> {
    let filter = format!("sport = :{port}");
    process.wait_until_ready(READY_LIMIT, |_| {
        let listing = crate::process::run(namespace.command("ss").args(["-Hltn", &filter]))?;
        Ok(!listing.trim().is_empty())
    })
}

/// A copy of a program for which Debian has an AppArmor profile: one of another path may read the files that tests make for it.
fn outside_apparmor(program: &str, directory: &Path) -> Result<PathBuf> {
    let program = Path::new(program);
    let copy = directory.join(program.file_name().unwrap_or_default());
    fs::copy(program, &copy).attempt(|| format!("copy {}", program.display()))?;
    Ok(copy)
}

fn temporary_directory() -> Result<TempDir> {
    tempfile::Builder::new().prefix("netd-peer-").tempdir().attempt(|| "make a peer's directory".to_owned())
}

/// Makes a file of `bytes` bytes and returns its SHA-256, as the system's own sha256sum says.
pub fn file_of(path: &Path, bytes: u64, seed: u64) -> Result<String> {
    let file = fs::File::create(path).attempt(|| format!("create {}", path.display()))?;
    let sum = crate::digest::generate(bytes, seed, &file).attempt(|| format!("fill {}", path.display()))?;
    let independent = crate::process::run(std::process::Command::new("sha256sum").arg(path))?;
    crate::ensure!(independent.starts_with(&sum), "our SHA-256 is {sum}, sha256sum says {independent}");
    Ok(sum)
}
