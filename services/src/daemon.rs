//! The life of netd-services: listen, serve until told to stop.

use std::io;
use std::path::PathBuf;

use netd_ipc::server::ListenError;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::Config;
use crate::server;

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

/// Where the socket is unless the configuration says otherwise: for root and for the package's user, whose directory systemd makes, that
/// of the system; else below `$XDG_RUNTIME_DIR`.
fn default_path() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os(netd_ipc::services::SOCKET_VARIABLE) {
        return Ok(path.into());
    }
    let system = PathBuf::from(netd_ipc::services::SYSTEM_SOCKET);
    let ours = system
        .parent()
        .is_some_and(|directory| rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok());
    if rustix::process::geteuid().is_root() || ours {
        return Ok(system);
    }
    netd_ipc::services::user_socket().ok_or(Error::NoDefaultPath)
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from serving.
pub fn run(config: Config) -> Result<(), Error> {
    let system = |step| move |source| Error::System { step, source };
    let path = config.socket.clone().map_or_else(default_path, Ok)?;
    let listener = netd_ipc::server::listen(&path, config.socket_mode)?;
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
        tokio::select! {
            served = server::run(listener, config, stopped) => served.map_err(system("serve")),
            () = stopping => Ok(()),
        }
    });
    // Calls to netd that still run on blocking threads have nobody left to answer to.
    runtime.shutdown_background();
    // Somebody else may have removed it; there is nothing to be done about it now.
    let _ = std::fs::remove_file(&path);
    served
}
