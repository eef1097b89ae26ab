//! Independent implementations of Noise, from PyPI, as peers of our sessions, in both roles.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in helpers")]

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use netd_softbus::discovery::Transport;
use netd_softbus::session::{
    Config, Context, Deframer, Directory, Event, Identity, Peer, Session, StaticKey, Trust, frame,
};
use netd_softbus::{DeviceId, Error, Instant, PublicKey};

/// Small, so that our keys change as well: after three frames of [`FRAME_BYTES`].
const REKEY_BYTES: usize = 1 << 16;
const FRAME_BYTES: usize = 30_000;
const FRAMES: u8 = 12;

/// The peer announces the key that it has.
struct Announced(PublicKey);

impl Directory for Announced {
    fn announced(&self, device: &DeviceId) -> Option<PublicKey> {
        (device.as_str() == "python").then_some(self.0)
    }

    fn accept(&mut self, _: Instant, _: &PublicKey, _: Transport) -> Result<(), Error> {
        Ok(())
    }
}

/// An environment with both packages, made once.
fn python() -> PathBuf {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("noise-python");
    let python = environment.join("bin/python3");
    let works = |python: &Path| {
        let output = Command::new(python).args(["-c", "import noise.connection, dissononce"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !works(&python) {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment));
        let packages = ["install", "--quiet", "noiseprotocol", "dissononce"];
        run(Command::new(environment.join("bin/pip")).args(packages));
        assert!(works(&python), "the packages were installed, and do not work");
    }
    python
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// Our session, and the program on the other side of two pipes.
struct Link {
    session: Session,
    identity: Identity,
    trust: Trust,
    directory: Announced,
    random: fastrand::Rng,
    program: Child,
    deframer: Deframer,
}

impl Link {
    fn new(library: &str, we_dial: bool) -> Link {
        let ours = StaticKey::from_bytes([11; 32]).unwrap();
        let theirs = StaticKey::from_bytes([22; 32]).unwrap();
        let (own_key, key) = (ours.public(), theirs.public());
        let private: String = theirs.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let device: DeviceId = "python".parse().unwrap();
        let mut trust = Trust::new();
        trust.pin(device.clone(), key).unwrap();
        let config = Config { rekey_bytes: REKEY_BYTES, ..Config::default() }.check().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/noise_peer.py");
        let mut command = Command::new(python());
        command.arg(script).args([library, if we_dial { "responder" } else { "initiator" }, &private]);
        let mut session = if we_dial {
            Session::dial(config, Transport::Tcp, Peer { device, key })
        } else {
            command.arg(own_key.to_string());
            Session::listen(config, Transport::Tcp)
        };
        session.link_up(Instant::ZERO).unwrap();
        Link {
            session,
            identity: Identity::new("rust".parse().unwrap(), ours),
            trust,
            directory: Announced(key),
            random: fastrand::Rng::with_seed(1),
            program: command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap(),
            deframer: Deframer::new(),
        }
    }

    fn with<R>(&mut self, call: impl FnOnce(&mut Session, &mut Context<'_>) -> R) -> R {
        let Link { session, identity, trust, directory, random, .. } = self;
        let mut fill = |bytes: &mut [u8]| random.fill(bytes);
        call(session, &mut Context { identity, trust, directory, random: &mut fill })
    }

    /// Carries frames until something happens that is not the dialling itself.
    fn next_event(&mut self) -> Event {
        let now = Instant::ZERO;
        loop {
            self.with(|session, context| session.poll(now, context)).unwrap();
            while let Some(bytes) = self.session.poll_transmit() {
                self.program.stdin.as_mut().unwrap().write_all(&frame(&bytes).unwrap()).unwrap();
            }
            if let Some(event) = self.session.poll_event().filter(|event| *event != Event::Dial) {
                return event;
            }
            if let Some(received) = self.deframer.next_frame().unwrap().map(<[u8]>::to_vec) {
                self.with(|session, context| session.handle_frame(now, &received, context)).unwrap();
                continue;
            }
            let mut bytes = [0; 4096];
            let len = self.program.stdout.as_mut().unwrap().read(&mut bytes).unwrap();
            assert!(len > 0, "the peer ended");
            self.deframer.push(&bytes[..len]);
        }
    }
}

fn talk(library: &str, we_dial: bool) {
    let mut link = Link::new(library, we_dial);
    assert!(matches!(link.next_event(), Event::Ready(peer) if peer.device.as_str() == "python"));
    for number in 0..FRAMES {
        let mut said = vec![number; FRAME_BYTES];
        said[0] = 0xff;
        link.session.send(Instant::ZERO, &said).unwrap();
        said.reverse();
        assert_eq!(link.next_event(), Event::Data(said), "frame {number}");
    }
    drop(link.program.stdin.take());
    assert!(link.program.wait().unwrap().success());
}

#[test]
#[ignore = "installs packages from PyPI: cargo xtask test"]
fn noiseprotocol_of_pypi_dials_us_and_changes_keys() {
    talk("noiseprotocol", false);
}

#[test]
#[ignore = "installs packages from PyPI: cargo xtask test"]
fn noiseprotocol_of_pypi_is_dialled_and_changes_keys() {
    talk("noiseprotocol", true);
}

#[test]
#[ignore = "installs packages from PyPI: cargo xtask test"]
fn dissononce_of_pypi_dials_us_and_changes_keys() {
    talk("dissononce", false);
}

#[test]
#[ignore = "installs packages from PyPI: cargo xtask test"]
fn dissononce_of_pypi_is_dialled_and_changes_keys() {
    talk("dissononce", true);
}
