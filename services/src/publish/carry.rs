//! One connection: bytes both ways, each no faster than its receiver takes them, and no slower than the port allows.
//!
//! | | |
//! | --- | --- |
//! | first bytes | so many from the peer within `request_read`, or it is dropped: a client that drips holds a place no longer than that |
//! | afterwards | silence is no fault: an SSH session may idle for days. Netd's keepalive finds peers that are gone |
//! | to the peer | while something waits for it, it takes some within `response_send`, or it is dropped |
//! | half-close | the end of either side is passed on, and the other direction goes on |
//! | after the server's end | a peer that sends nothing for [`CLOSE_WAIT`] is let go |

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::config::Publish;
use super::counters::{Counters, Ended};

/// Bytes moved at a time, in each direction.
const CHUNK_BYTES: usize = 16 * 1024;
/// How often it is looked whether a peer is still there from which nothing is being read.
const GONE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a peer may stay silent after the server was done with it: a round trip, and a TCP's patience with losses.
const CLOSE_WAIT: Duration = Duration::from_secs(60);

/// Carries until both sides are done, or one breaks a rule. `first` goes to the server before anything of the peer's; `is_gone` says
/// whether the peer's connection is over although it was not read to its end.
pub(super) async fn carry(
    peer: &mut (impl AsyncRead + AsyncWrite + Unpin),
    target: &mut (impl AsyncRead + AsyncWrite + Unpin),
    first: &[u8],
    port: &Publish,
    counters: &Counters,
    is_gone: impl Fn() -> bool,
) -> Ended {
    let (from_peer, to_peer) = split(peer);
    let (from_target, to_target) = split(target);
    let responded = AtomicBool::new(false);
    let both = async {
        tokio::try_join!(
            async {
                let mut to_target = to_target;
                to_target.write_all(first).await.map_err(|_| Ended::TargetReset)?;
                requests(from_peer, to_target, port, &responded, &counters.received_bytes).await
            },
            responses(from_target, to_peer, port, &responded, &counters.sent_bytes),
        )
    };
    tokio::select! {
        done = both => done.map_or_else(|ended| ended, |_| Ended::Finished),
        () = gone(is_gone, &responded) => Ended::PeerReset,
    }
}

/// From the peer to the server.
async fn requests(
    mut peer: impl AsyncRead + Unpin,
    mut target: impl AsyncWrite + Unpin,
    port: &Publish,
    responded: &AtomicBool,
    count: &AtomicU64,
) -> Result<(), Ended> {
    let deadline = port.request_read.map(|limit| Instant::now() + limit);
    let (mut chunk, mut received) = (vec![0; CHUNK_BYTES], 0);
    loop {
        let read = match deadline.filter(|_| received < port.request_read_bytes) {
            Some(deadline) => {
                timeout_at(deadline, peer.read(&mut chunk)).await.map_err(|_| Ended::RequestLate)?
            }
            None => match unless_over(peer.read(&mut chunk), responded).await {
                Some(read) => read,
                None => return Ok(()),
            },
        };
        let bytes = match read {
            Ok(0) => break,
            Ok(read) => chunk.get(..read).unwrap_or_default(),
            Err(_) => return Err(Ended::PeerReset),
        };
        received += bytes.len();
        match target.write_all(bytes).await {
            Ok(()) => count.fetch_add(bytes.len() as u64, Ordering::Relaxed),
            // The server was done and has closed: what it said before still goes to the peer.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(_) => return Err(Ended::TargetReset),
        };
    }
    // A server that is gone does not need it.
    let _ = target.shutdown().await;
    Ok(())
}

/// A read, or none if the server was done and the peer stays silent for long.
async fn unless_over(
    read: impl Future<Output = io::Result<usize>>,
    responded: &AtomicBool,
) -> Option<io::Result<usize>> {
    tokio::pin!(read);
    loop {
        let was_over = responded.load(Ordering::Relaxed);
        match timeout(CLOSE_WAIT, &mut read).await {
            Ok(read) => return Some(read),
            Err(_) if was_over => return None,
            Err(_) => {}
        }
    }
}

/// From the server to the peer.
async fn responses(
    mut target: impl AsyncRead + Unpin,
    mut peer: impl AsyncWrite + Unpin,
    port: &Publish,
    responded: &AtomicBool,
    count: &AtomicU64,
) -> Result<(), Ended> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = target.read(&mut chunk).await.map_err(|_| Ended::TargetReset)?;
        let mut left = chunk.get(..read).unwrap_or_default();
        if left.is_empty() {
            break;
        }
        while !left.is_empty() {
            let written = timeout(port.response_send, peer.write(left)).await;
            let written = written.map_err(|_| Ended::ResponseStalled)?.map_err(|_| Ended::PeerReset)?;
            left = left.get(written..).unwrap_or_default();
            count.fetch_add(written as u64, Ordering::Relaxed);
        }
    }
    responded.store(true, Ordering::Relaxed);
    peer.shutdown().await.map_err(|_| Ended::PeerReset)
}

/// Until the peer is gone, while its connection should still be open both ways: once our side is shut, a hang-up is what an orderly end
/// looks like as well, and reading tells the two apart.
async fn gone(is_gone: impl Fn() -> bool, responded: &AtomicBool) {
    loop {
        sleep(GONE_INTERVAL).await;
        if is_gone() && !responded.load(Ordering::Relaxed) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::config::Config;

    fn port(more: &str) -> Publish {
        let text = format!("[[publish]]\nlisten = \"22\"\nto = \"127.0.0.1:22\"\n{more}\n");
        Config::parse(Path::new("services.toml"), &text).unwrap().publish.remove(0)
    }

    /// A peer's end, a server's end, and how it ends between them.
    struct Between {
        peer: DuplexStream,
        server: DuplexStream,
        counters: std::sync::Arc<Counters>,
        carried: tokio::task::JoinHandle<Ended>,
    }

    impl Between {
        fn start(port: Publish, first: &'static [u8]) -> Between {
            let (peer, mut from_peer) = duplex(1024);
            let (server, mut to_server) = duplex(1024);
            let counters = std::sync::Arc::new(Counters::default());
            let counted = std::sync::Arc::clone(&counters);
            let carried = tokio::spawn(async move {
                carry(&mut from_peer, &mut to_server, first, &port, &counted, || false).await
            });
            Between { peer, server, counters, carried }
        }
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn header_goes_first_and_each_side_may_end_before_the_other() {
        run(async {
            let Between { mut peer, mut server, counters, carried } = Between::start(port(""), b"header ");
            peer.write_all(b"a request").await.unwrap();
            peer.shutdown().await.unwrap();
            let mut request = String::new();
            server.read_to_string(&mut request).await.unwrap();
            assert_eq!(request, "header a request");
            let response = vec![7; 100_000];
            let (written, read) = tokio::join!(
                async {
                    server.write_all(&response).await.unwrap();
                    server.shutdown().await.unwrap();
                },
                async {
                    let mut all = Vec::new();
                    peer.read_to_end(&mut all).await.unwrap();
                    all
                }
            );
            assert_eq!((written, read == response), ((), true));
            assert_eq!(carried.await.unwrap(), Ended::Finished);
            let bytes =
                [&counters.received_bytes, &counters.sent_bytes].map(|count| count.load(Ordering::Relaxed));
            assert_eq!(bytes, [9, 100_000]);
        });
    }

    #[test]
    fn peer_that_drips_its_first_bytes_is_dropped_and_one_that_idles_after_them_is_not() {
        run(async {
            let mut impatient = port("request_read_bytes = 4");
            impatient.request_read = Some(Duration::from_millis(50));
            let mut dripping = Between::start(impatient.clone(), b"");
            dripping.peer.write_all(b"GET").await.unwrap();
            assert_eq!(dripping.carried.await.unwrap(), Ended::RequestLate);

            let mut idling = Between::start(impatient, b"");
            idling.peer.write_all(b"SSH-2.0\r\n").await.unwrap();
            sleep(Duration::from_millis(200)).await;
            idling.server.write_all(b"later").await.unwrap();
            let mut later = [0; 5];
            idling.peer.read_exact(&mut later).await.unwrap();
            assert_eq!(&later, b"later");
            drop((idling.peer, idling.server));
            assert_eq!(idling.carried.await.unwrap(), Ended::Finished);
        });
    }

    #[test]
    fn peer_that_takes_nothing_is_dropped() {
        run(async {
            let mut impatient = port("");
            impatient.response_send = Duration::from_millis(50);
            let Between { peer, mut server, carried, .. } = Between::start(impatient, b"");
            let flood = tokio::spawn(async move { while server.write_all(&[0; 4096]).await.is_ok() {} });
            assert_eq!(carried.await.unwrap(), Ended::ResponseStalled);
            flood.await.unwrap();
            drop(peer);
        });
    }

    /// A side whose reads fail, as a socket's after a reset.
    struct Reset;

    impl AsyncRead for Reset {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }

    impl AsyncWrite for Reset {
        fn poll_write(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            bytes: &[u8],
        ) -> std::task::Poll<io::Result<usize>> {
            std::task::Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn poll_shutdown(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn reset_of_either_side_is_told_apart() {
        run(async {
            let (counters, port) = (Counters::default(), port(""));
            let (mut near, _far) = duplex(64);
            let by_target = carry(&mut near, &mut Reset, b"", &port, &counters, || false).await;
            let by_peer = carry(&mut Reset, &mut near, b"", &port, &counters, || false).await;
            assert_eq!((by_target, by_peer), (Ended::TargetReset, Ended::PeerReset));
        });
    }
}
