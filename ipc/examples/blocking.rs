//! An HTTP request with the blocking library: `blocking HOST:PORT [PATH]`. It reads as with `std::net`.

use std::io::{Read, Write};

use netd_ipc::TcpStream;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(endpoint) = arguments.next() else {
        return Err(std::io::Error::other("usage: blocking HOST:PORT [PATH]"));
    };
    let path = arguments.next().unwrap_or_else(|| "/".to_owned());
    let mut stream = TcpStream::connect(&endpoint)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {endpoint}\r\n\r\n")?;
    stream.shutdown_write()?;
    let mut answer = Vec::new();
    // An answer that was cut short is an error here, and never a short answer.
    stream.read_to_end(&mut answer)?;
    std::io::stdout().write_all(&answer)
}
