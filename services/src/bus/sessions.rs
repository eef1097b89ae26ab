//! Sessions that we make: one for each device that a client wants something of, used by all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use netd_ipc::services::{BusMode, ErrorKind};
use netd_ipc::tokio::TcpStream;
use netd_softbus::discovery::Transport;
use netd_softbus::mux::Role;
use netd_softbus::session::{Deframer, Peer, Session};
use netd_softbus::{DeviceId, Error};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Bus;
use super::link::{Command, Ended, Link, Parts};
use crate::Failure;

/// Commands that wait for a session's task.
pub(super) const COMMANDS_MAX: usize = 64;
/// How soon a device is tried again that was dialled too often.
const LIMITED_PAUSE: Duration = Duration::from_millis(500);
/// How long a connection to a peer may take: two lost SYNs (RFC 6298, 2.1: 1, 2 and 4 seconds), and some.
const CONNECT: Duration = Duration::from_secs(10);

impl Bus {
    /// Asks something of the session with a device, which is made if there is none.
    ///
    /// While the device is left alone for a while after failed attempts, this waits; the caller says for how long.
    pub(super) async fn ask(self: &Arc<Self>, device: &DeviceId, command: Command) -> Result<(), Failure> {
        let state = self.state();
        if state.mode != BusMode::Network {
            let why = state.problem.unwrap_or_else(|| "'[bus] mode' in services.toml is loopback".to_owned());
            let message = format!("no other device can be reached, since the bus is in loopback mode: {why}");
            return Err(Failure::new(ErrorKind::Unreachable, message));
        }
        let busy =
            || Failure::new(ErrorKind::QuotaExceeded, "too much waits for the session with this device");
        let session = loop {
            let known = self.core().session_with(device);
            let dialled = match known {
                Some(session) => Ok(session),
                None => self.dial(device),
            };
            match dialled {
                Ok(session) => break session,
                Err(Refusal::Later(pause)) => sleep(pause).await,
                Err(Refusal::For(failure)) => return Err(failure),
            }
        };
        session.try_send(command).map_err(|_| busy())
    }

    fn dial(self: &Arc<Self>, device: &DeviceId) -> Result<mpsc::Sender<Command>, Refusal> {
        let now = self.clock.now();
        let refused = |error: netd_softbus::Error| match error {
            Error::BackingOff { milliseconds } => Refusal::Later(Duration::from_millis(milliseconds)),
            Error::RateLimited { .. } => Refusal::Later(LIMITED_PAUSE),
            error => Refusal::For(Ended::from(error).why()),
        };
        let (own_commands, commands) = mpsc::channel(COMMANDS_MAX);
        let mut core = self.core();
        let key = core.discovery.announced(device).ok_or_else(|| {
            let message = format!("'{device}' was not heard on the bus lately (netctl bus peers)");
            Refusal::For(Failure::new(ErrorKind::NotFound, message))
        })?;
        let remote = core.discovery.dial(now, &key, Transport::Tcp).map_err(refused)?;
        let target = Peer { device: device.clone(), key };
        let number = core.hold_dialled(target.clone(), own_commands.clone()).map_err(refused)?;
        drop(core);
        let dialled = Dialled { number, target, remote, commands, own_commands: own_commands.clone() };
        tokio::spawn(connect(Arc::clone(self), dialled));
        Ok(own_commands)
    }
}

/// Why a device is not dialled.
enum Refusal {
    /// Not before this.
    Later(Duration),
    For(Failure),
}

/// A session that has no connection yet.
struct Dialled {
    number: u64,
    target: Peer,
    remote: SocketAddr,
    commands: mpsc::Receiver<Command>,
    own_commands: mpsc::Sender<Command>,
}

/// Makes the connection, then runs the session to its end.
async fn connect(bus: Arc<Bus>, dialled: Dialled) {
    let Dialled { number, target, remote, mut commands, own_commands } = dialled;
    let connected = bus.netd.call(move |netd| netd.tcp_connect(remote, Some(CONNECT))).await;
    let connected = connected.and_then(|stream| Ok(TcpStream::new(stream)?));
    let tcp = match connected {
        Ok(tcp) => tcp,
        Err(failure) => {
            let now = bus.clock.now();
            let mut core = bus.core();
            // It may be forgotten by now.
            let _ = core.discovery.dial_failed(now, &target.key, &mut super::clock::random);
            core.forget(number);
            drop(core);
            commands.close();
            let message = format!("'{}' at {remote} cannot be reached: {}", target.device, failure.message);
            let why = Failure { message, ..failure };
            while let Ok(command) = commands.try_recv() {
                command.failed(&why);
            }
            return;
        }
    };
    let mut session = Session::dial(bus.session_config.clone(), Transport::Tcp, target);
    let up = session.link_up(bus.clock.now());
    let (role, deframer, ticket) = (Role::Dialer, Deframer::new(), None);
    let parts = Parts { number, session, role, tcp, remote, deframer, commands, own_commands, ticket };
    let link = Link::new(&bus, parts);
    match up {
        Ok(()) => link.run().await,
        Err(error) => link.abandon(&error.into()),
    }
}
