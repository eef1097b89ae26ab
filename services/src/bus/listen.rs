//! Peers that dial us: their first frame goes to the gate, and only then to a session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use netd_ipc::tokio::{TcpListener, TcpStream};
use netd_softbus::discovery::Transport;
use netd_softbus::mux::Role;
use netd_softbus::session::{Admission, Deframer, Session, Ticket, frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Bus;
use super::clock::random;
use super::link::{Ended, Link, Parts};
use super::sessions::COMMANDS_MAX;
use crate::Failure;

/// Connections that have not brought their first frame yet. As many again as there may be half-open handshakes; more are closed at once.
const NEWCOMERS_MAX: usize = 64;
/// How long a connection has for its first frame, a cookie included.
const FIRST_FRAME: Duration = Duration::from_secs(10);
/// What the first read may bring: message 1 with its cookie, and whatever follows at once.
const FIRST_BYTES: usize = 1024;

pub(super) async fn bind(bus: &Bus) -> Result<TcpListener, Failure> {
    let port = bus.config.port;
    let listener = bus.netd.call(move |netd| netd.tcp_listen(Some(port), None)).await?;
    Ok(TcpListener::new(listener)?)
}

/// Until the listener fails. What came of it goes on by itself.
pub(super) async fn run(bus: Arc<Bus>, listener: TcpListener) -> Result<(), Failure> {
    let places = Arc::new(Semaphore::new(NEWCOMERS_MAX));
    let mut newcomers = JoinSet::new();
    loop {
        let (tcp, remote) = tokio::select! {
            accepted = listener.accept() => accepted?,
            Some(_) = newcomers.join_next() => continue,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let bus = Arc::clone(&bus);
        newcomers.spawn(async move {
            let met = timeout(FIRST_FRAME, meet(&bus, tcp, remote)).await.unwrap_or(Err(Ended::Slow));
            drop(place);
            match met {
                // A task of its own: it outlives the listener, until it is told to end.
                Ok(link) => drop(tokio::spawn(link.run())),
                Err(ended) => tracing::debug!(%remote, %ended, "a connection to the bus came to nothing"),
            }
        });
    }
}

/// Reads the first frame, and asks the gate: at most twice, since a cookie is asked for once.
async fn meet(bus: &Arc<Bus>, mut tcp: TcpStream, remote: SocketAddr) -> Result<Link, Ended> {
    let mut deframer = Deframer::new();
    for _ in 0..2 {
        let first = first_frame(&mut tcp, &mut deframer).await?;
        let now = bus.clock.now();
        let admission = bus.core().gate.admit(now, remote, &first, &mut random)?;
        match admission {
            Admission::Challenge(cookie) => {
                let cookie = frame(&cookie)?;
                tcp.write_all(&cookie).await.map_err(Ended::Lost)?;
            }
            Admission::Proceed { ticket, message } => {
                return begin(bus, tcp, remote, deframer, ticket, &message);
            }
        }
    }
    Err(Ended::Slow)
}

async fn first_frame(tcp: &mut TcpStream, deframer: &mut Deframer) -> Result<Vec<u8>, Ended> {
    let mut bytes = [0; FIRST_BYTES];
    loop {
        if let Some(first) = deframer.next_frame()? {
            return Ok(first.to_vec());
        }
        match tcp.read(&mut bytes).await.map_err(Ended::Lost)? {
            0 => return Err(Ended::PeerLeft),
            count => deframer.push(bytes.get(..count).unwrap_or_default()),
        }
    }
}

fn begin(
    bus: &Arc<Bus>,
    tcp: TcpStream,
    remote: SocketAddr,
    deframer: Deframer,
    ticket: Ticket,
    message: &[u8],
) -> Result<Link, Ended> {
    let (own_commands, commands) = mpsc::channel(COMMANDS_MAX);
    let held = bus.core().hold_accepted(remote.ip(), own_commands.clone());
    let number = match held {
        Ok(number) => number,
        Err(error) => {
            bus.core().gate.done(ticket);
            return Err(error.into());
        }
    };
    let mut session = Session::listen(bus.session_config.clone(), Transport::Tcp);
    let ready = session.link_up(bus.clock.now());
    let (role, ticket) = (Role::Listener, Some(ticket));
    let mut link = Link::new(
        bus,
        Parts { number, session, role, tcp, remote, deframer, commands, own_commands, ticket },
    );
    match ready.and_then(|()| link.begin(message)) {
        Ok(()) => Ok(link),
        Err(error) => {
            let ended = Ended::from(error);
            link.abandon(&ended);
            Err(ended)
        }
    }
}
