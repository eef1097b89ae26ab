//! The life of netd-services: listen, serve until told to stop.

use std::io;
use std::sync::Arc;

use netd_ipc::server::{ListenError, own_path};
use netd_ipc::services::{SOCKET_VARIABLE, SYSTEM_SOCKET, user_socket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::Config;
use crate::netd::Netd;
use crate::publish::Published;
use crate::{metrics, server};

/// Threads that serve: one is enough for what netd carries, and the second keeps others served while it decompresses or decrypts.
const THREADS: usize = 2;

/// What ends the daemon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There is no path to listen at.
    #[error("no path for the socket: XDG_RUNTIME_DIR is not set, so give one with '[ipc] socket'")]
    NoDefaultPath,
    /// Something that the system should give was not to be had.
    #[error("cannot {step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from serving.
pub fn run(config: Config) -> Result<(), Error> {
    let system = |step| move |source| Error::System { step, source };
    let default = || own_path(SOCKET_VARIABLE, SYSTEM_SOCKET, user_socket());
    let path = config.socket.clone().or_else(default).ok_or(Error::NoDefaultPath)?;
    let listener = netd_ipc::server::listen(&path, config.socket_mode)?;
    let scraped = config.metrics.clone();
    let scrapes = scraped
        .as_ref()
        .map(|(path, mode)| {
            netd_ipc::server::listen(path, *mode).map(|listener| (listener, Netd::new(config.netd.clone())))
        })
        .transpose()?;
    // Before anything else runs: systemd may have to be asked.
    let published = Arc::new(Published::new(config.publish.clone()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(system("start a runtime"))?;
    let served = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(system("watch for signals"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system("watch for signals"))?;
        let (stop, stopped) = watch::channel(false);
        let stopping = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            // The server may have ended already.
            let _ = stop.send(true);
            std::future::pending::<()>().await;
        };
        tracing::info!(socket = %path.display(), "serving");
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
        let scraping = async {
            match scrapes {
                Some((listener, netd)) => metrics::serve(listener, netd, Arc::clone(&published)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            failed = scraping => match failed.map_err(system("serve metrics"))? {},
            served = server::run(listener, config, Arc::clone(&published), stopped) => served.map_err(system("serve")),
            () = stopping => Ok(()),
        }
    });
    // Calls to netd that still run on blocking threads have nobody left to answer to.
    runtime.shutdown_background();
    // Somebody else may have removed it; there is nothing to be done about it now.
    for path in [Some(path), scraped.map(|(path, _)| path)].into_iter().flatten() {
        let _ = std::fs::remove_file(&path);
    }
    served
}
