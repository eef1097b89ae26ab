//! What a program does with its connections, the same through the kernel's sockets and through netd's: the load of benchmarks.

use crate::error::{Attempt, Error, Result};
use crate::{bench::report::percentile, ensure};
use netd_ipc::Client;
use netd_ipc::services::{self, FetchOptions};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Read and written at once: two buffers' worth of either stack.
const CHUNK_BYTES: usize = 128 << 10;
/// Round trips before those that count.
const WARM_UP: usize = 200;

/// A connection of either kind.
pub trait Stream: Read + Write + Send {
    /// No more will be written.
    fn finish(&self) -> Result<()>;
}

/// Whose sockets.
#[derive(Debug, Clone)]
pub enum Network {
    /// The kernel's.
    Kernel,
    /// netd's, through the client library.
    Netd(Client),
}

impl Stream for TcpStream {
    fn finish(&self) -> Result<()> {
        self.shutdown(Shutdown::Write).attempt(|| "shut the writing side down".to_owned())
    }
}

impl Stream for netd_ipc::TcpStream {
    fn finish(&self) -> Result<()> {
        self.shutdown_write().map_err(|error| Error::Expectation(format!("cannot shut down: {error}")))
    }
}

impl Network {
    /// Opens a connection, on which small writes do not wait.
    pub fn connect(&self, to: SocketAddr) -> Result<Box<dyn Stream>> {
        match self {
            Network::Kernel => {
                let stream = TcpStream::connect(to).attempt(|| format!("connect to {to}"))?;
                stream.set_nodelay(true).attempt(|| "set TCP_NODELAY".to_owned())?;
                Ok(Box::new(stream))
            }
            Network::Netd(client) => match client.tcp_connect(to, None) {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(Error::Expectation(format!("cannot connect to {to}: {error}"))),
            },
        }
    }
}

/// Ports of the servers below, from the first on.
pub const ECHO: u16 = 0;
/// Reads until the end, then closes.
pub const DISCARD: u16 = 1;
/// Writes until nobody reads any more.
pub const SOURCE: u16 = 2;

/// Round trips of one byte, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RoundTrips {
    /// The median.
    pub p50: f64,
    /// One in a hundred took longer.
    pub p99: f64,
    /// One in a thousand took longer.
    pub p999: f64,
}

/// Sends for this long to a server that discards; bits per second, until the last byte was taken.
pub fn send(network: &Network, to: SocketAddr, duration: Duration) -> Result<f64> {
    let mut stream = network.connect(to)?;
    let chunk = vec![0x5a; CHUNK_BYTES];
    let (start, mut bytes) = (Instant::now(), 0_u64);
    while start.elapsed() < duration {
        stream.write_all(&chunk).attempt(|| "send".to_owned())?;
        bytes += chunk.len() as u64;
    }
    stream.finish()?;
    // The server closes once it has read everything.
    let end = stream.read(&mut [0; 1]).attempt(|| "read the end of file".to_owned())?;
    ensure!(end == 0, "a server that discards sent something");
    Ok(bytes as f64 * 8.0 / start.elapsed().as_secs_f64())
}

/// Receives for this long from a server that sends without end; bits per second.
pub fn receive(network: &Network, from: SocketAddr, duration: Duration) -> Result<f64> {
    let mut stream = network.connect(from)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let (start, mut bytes) = (Instant::now(), 0_u64);
    while start.elapsed() < duration {
        let count = stream.read(&mut chunk).attempt(|| "receive".to_owned())?;
        ensure!(count > 0, "a server that sends without end ended");
        bytes += count as u64;
    }
    Ok(bytes as f64 * 8.0 / start.elapsed().as_secs_f64())
}

/// One byte there and back, `count` times.
pub fn round_trips(network: &Network, to: SocketAddr, count: usize) -> Result<RoundTrips> {
    let mut stream = network.connect(to)?;
    let mut byte = [0];
    let mut times = Vec::with_capacity(count);
    for number in 0..WARM_UP + count {
        let start = Instant::now();
        stream.write_all(&[number as u8]).attempt(|| "send a byte".to_owned())?;
        stream.read_exact(&mut byte).attempt(|| "receive a byte".to_owned())?;
        if number >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        ensure!(byte[0] == number as u8, "another byte came back than was sent");
    }
    Ok(RoundTrips {
        p50: percentile(&times, 50.0),
        p99: percentile(&times, 99.0),
        p999: percentile(&times, 99.9),
    })
}

/// Opens connections to a server that discards, one after the other on each of `threads`, and closes each in order: we first, then
/// the server. Connections per second.
pub fn connections(network: &Network, to: SocketAddr, duration: Duration, threads: usize) -> Result<f64> {
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let mut stream = network.connect(to)?;
            stream.finish()?;
            let end = stream.read(&mut [0; 1]).attempt(|| "read the end of file".to_owned())?;
            ensure!(end == 0, "a server that discards sent something");
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let start = Instant::now();
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        thread::sleep(duration);
        let rate = done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            let ended = worker.join();
            ended.map_err(|_| Error::Expectation("a client of the benchmark panicked".to_owned()))??;
        }
        Ok(rate)
    })
}

/// Has netd-services fetch `url` so many times, and returns the bytes of all.
pub fn fetch(url: &str, count: u32) -> Result<u64> {
    let client = services::Client::default_paths();
    let failed = |error: &dyn std::fmt::Display| Error::Expectation(format!("cannot fetch {url}: {error}"));
    let (mut chunk, mut bytes) = (vec![0; CHUNK_BYTES], 0);
    for _ in 0..count {
        let mut fetching = client.fetch(url, &FetchOptions::default()).map_err(|error| failed(&error))?;
        while let 1.. = fetching.read(&mut chunk).map_err(|error| failed(&error))? {}
        bytes += fetching.finish().map_err(|error| failed(&error))?.bytes;
    }
    Ok(bytes)
}

/// Serves [`ECHO`], [`DISCARD`] and [`SOURCE`] with the kernel's sockets, on three ports from `first` on, until it is killed.
pub fn serve(first: u16) -> Result<()> {
    let listen = |port| TcpListener::bind(("0.0.0.0", port)).attempt(|| format!("listen on port {port}"));
    let (echo, discard, source) = (listen(first + ECHO)?, listen(first + DISCARD)?, listen(first + SOURCE)?);
    thread::scope(|scope| {
        scope.spawn(|| accept(&echo, echo_all));
        scope.spawn(|| accept(&source, send_all));
        // Of these many come in a row; a thread for each would cost more than the connection.
        for _ in 0..4 {
            scope.spawn(|| discard.incoming().flatten().for_each(discard_all));
        }
    });
    Ok(())
}

fn accept(listener: &TcpListener, serve: fn(TcpStream)) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || serve(stream));
    }
}

/// A server's connection ends when its client does, in whatever way; the client is the one who complains.
fn echo_all(mut stream: TcpStream) {
    let mut chunk = vec![0; CHUNK_BYTES];
    let _slow = stream.set_nodelay(true);
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        if stream.write_all(&chunk[..count]).is_err() {
            return;
        }
    }
}

fn discard_all(mut stream: TcpStream) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(1..) = stream.read(&mut chunk) {}
}

fn send_all(mut stream: TcpStream) {
    let chunk = vec![0x5a; CHUNK_BYTES];
    while stream.write_all(&chunk).is_ok() {}
}
