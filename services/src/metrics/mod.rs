//! What Prometheus asks for: `GET /metrics` on a Unix socket, answered with what netd counts at that moment.
//!
//! netd itself speaks no HTTP: it is asked over its own socket, once for each scrape. A netd that does not answer is a metric too.

mod exposition;

use std::convert::Infallible;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use self::exposition::Snapshot;
use crate::netd::Netd;
use crate::publish::Published;

/// As OpenMetrics 1.0 names itself.
const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Scrapes at the same time: one Prometheus, its twin, and somebody who looks.
const SCRAPES_MAX: usize = 4;
/// For one scrape, from its connection to its last byte: Prometheus gives up after 10 s too.
const SCRAPE_MAX: Duration = Duration::from_secs(10);
/// How long to wait after accept(2) failed, which it does when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Answers scrapes for as long as it is polled.
///
/// # Errors
/// The listener cannot be watched.
pub(crate) async fn serve(
    listener: UnixListener,
    netd: Netd,
    published: Arc<Published>,
) -> std::io::Result<Infallible> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let scrapes = Arc::new(Semaphore::new(SCRAPES_MAX));
    loop {
        // Whoever comes when all are taken waits in the kernel's queue.
        let Ok(permit) = Arc::clone(&scrapes).acquire_owned().await else {
            return Err(std::io::Error::other("the semaphore of scrapes was closed"));
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (netd, published) = (netd.clone(), Arc::clone(&published));
                tokio::spawn(async move {
                    let _permit = permit;
                    if timeout(SCRAPE_MAX, converse(stream, netd, published)).await.is_err() {
                        tracing::debug!("a scrape took too long");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a scrape; trying again");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, netd: Netd, published: Arc<Published>) {
    let service = service_fn(|request| answer(request, netd.clone(), &published));
    let connection = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a scrape failed");
    }
}

async fn answer(
    request: Request<Incoming>,
    netd: Netd,
    published: &Published,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |status, text: &'static str| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"));
    }
    if request.method() != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
        return Ok(response);
    }
    let snapshot = netd.call(Snapshot::take).await.inspect_err(|failure| {
        tracing::warn!(message = %failure.message, "netd does not tell what it counts");
    });
    let Ok(text) = exposition::text(snapshot.ok(), published.list()) else {
        return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"));
    };
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(CONTENT));
    Ok(response)
}
