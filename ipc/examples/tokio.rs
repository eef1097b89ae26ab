//! An HTTP request with tokio over netd: `tokio HOST:PORT [PATH]`.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(endpoint) = arguments.next() else {
        return Err(std::io::Error::other("usage: tokio HOST:PORT [PATH]"));
    };
    let path = arguments.next().unwrap_or_else(|| "/".to_owned());
    let mut stream = netd_ipc::tokio::TcpStream::connect(endpoint.clone()).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {endpoint}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    // An answer that was cut short is an error here, and never a short answer.
    stream.read_to_end(&mut answer).await?;
    tokio::io::stdout().write_all(&answer).await
}
