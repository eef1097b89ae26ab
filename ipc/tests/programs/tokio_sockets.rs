//! What sockets of the tokio module do: `tokio_sockets OWN_ADDRESS PEER ECHO_PORT NAME`, with echo servers of TCP and UDP at the
//! peer. Exits with an error, or panics, when one of them does something else.

use std::io::{Error, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netd_ipc::Event;
use netd_ipc::datagram::code;
use netd_ipc::tokio::{TcpListener, TcpStream, UdpSocket, ping, resolve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Longer than a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough to see that nothing comes.
const MOMENT: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [own, peer, port, name] = &arguments[..] else {
        return Err(Error::other("usage: tokio_sockets OWN_ADDRESS PEER ECHO_PORT NAME"));
    };
    let own: IpAddr = own.parse().map_err(Error::other)?;
    let peer: IpAddr = peer.parse().map_err(Error::other)?;
    let echo = SocketAddr::new(peer, port.parse().map_err(Error::other)?);
    timeout(PATIENCE, streams(echo)).await??;
    timeout(PATIENCE, listeners(own)).await??;
    timeout(PATIENCE, datagrams(own, echo)).await??;
    assert_eq!(resolve(name.as_str()).await?, [peer]);
    assert_eq!(resolve("nobody.invalid").await.map_err(|error| error.kind()), Err(ErrorKind::NotFound));
    assert!(ping(peer, Some(PATIENCE)).await?.rtt_us > 0);
    let refused = TcpStream::connect((peer, 1)).await;
    assert_eq!(refused.map(|_| ()).map_err(|error| error.kind()), Err(ErrorKind::ConnectionRefused));
    let late = TcpStream::connect_timeout(echo, Duration::ZERO).await;
    assert_eq!(late.map(|_| ()).map_err(|error| error.kind()), Err(ErrorKind::TimedOut));
    Ok(())
}

async fn streams(echo: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(echo, PATIENCE).await?;
    assert_eq!(stream.peer_addr(), echo);
    stream.set_nodelay(false).await?;
    stream.set_keepalive(Some(Duration::from_secs(30))).await?;
    stream.set_linger(Duration::from_secs(5)).await?;
    // A read that is given up takes nothing.
    let mut bytes = [0; 8];
    assert!(timeout(MOMENT, stream.read(&mut bytes)).await.is_err());
    stream.write_all(b"question").await?;
    stream.read_exact(&mut bytes).await?;
    assert_eq!(&bytes, b"question");
    // Both directions at once, and more than every buffer on the way.
    let (mut reading, mut writing) = tokio::io::split(stream);
    let all = vec![7; 1 << 20];
    let sent = all.clone();
    let writer = tokio::spawn(async move {
        writing.write_all(&sent).await?;
        writing.shutdown().await
    });
    let mut echoed = Vec::new();
    reading.read_to_end(&mut echoed).await?;
    writer.await??;
    assert!(echoed == all, "{} of {} bytes", echoed.len(), all.len());
    Ok(())
}

async fn listeners(own: IpAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(0).await?;
    assert!(timeout(MOMENT, listener.accept()).await.is_err());
    let to = SocketAddr::new(own, listener.local_addr().port());
    let (ours, accepted) = tokio::join!(TcpStream::connect(to), listener.accept());
    let (mut ours, (theirs, remote)) = (ours?, accepted?);
    assert_eq!(remote.port(), ours.local_addr().port());
    // A reset is an error, and never an end.
    theirs.set_linger(Duration::ZERO).await?;
    drop(theirs);
    assert!(ours.read(&mut [0; 8]).await.is_err());
    Ok(())
}

async fn datagrams(own: IpAddr, echo: SocketAddr) -> std::io::Result<()> {
    let (udp, other) = (UdpSocket::bind(0).await?, UdpSocket::bind(0).await?);
    let mut bytes = [0; 64];
    let unconnected = udp.send(b"x").await;
    assert_eq!(unconnected.map_err(|error| error.kind()), Err(ErrorKind::NotConnected));
    udp.connect(echo).await?;
    udp.set_ttl(9);
    assert_eq!(udp.peer_addr(), Some(echo));
    udp.send(b"one").await?;
    assert_eq!(udp.recv(&mut bytes).await?, 3);
    // Connected, it hears nobody else; afterwards it does.
    let here = SocketAddr::new(own, udp.local_addr().port());
    other.send_to(b"stranger", here).await?;
    assert!(timeout(MOMENT, udp.recv_from(&mut bytes)).await.is_err());
    udp.disconnect().await?;
    other.send_to(b"friend", here).await?;
    let (count, from) = udp.recv_from(&mut bytes).await?;
    assert_eq!((&bytes[..count], from.port()), (&b"friend"[..], other.local_addr().port()));
    // What failed is told, with the address that it was sent to.
    let nobody = SocketAddr::new(echo.ip(), 9);
    udp.send_to(b"nobody", nobody).await?;
    let failed = udp.recv_event(&mut bytes).await?;
    assert!(
        matches!(failed, Event::Failed { to, code: code::PORT_UNREACHABLE, .. } if to == nobody),
        "{failed:?}"
    );
    udp.set_broadcast(true).await?;
    udp.set_multicast_ttl(2).await?;
    let group = IpAddr::from([239, 1, 2, 3]);
    udp.join_multicast(group).await?;
    udp.leave_multicast(group).await?;
    let refused = udp.join_multicast(echo.ip()).await;
    assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::InvalidInput));
    Ok(())
}
