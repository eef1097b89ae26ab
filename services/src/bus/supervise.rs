//! Network or loopback: follows the devnet switch, and brings the network's half up again after netd was away.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use netd_ipc::services::{BusEvent, BusMode};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::events::{mark, of};
use super::link::Command;
use super::{Bus, State, discover, dns_sd, listen};
use crate::Failure;

/// How often netd is asked for its switch. netd itself denies from the moment that it is off; this is how soon sessions end.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pauses before the network is tried again: the first, doubled up to the last.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

impl Bus {
    /// For as long as the daemon runs.
    pub(crate) async fn supervise(self: Arc<Self>) {
        let rights = Arc::clone(&self.rights).supervise();
        tokio::join!(rights, self.follow_devnet());
    }

    async fn follow_devnet(self: Arc<Self>) {
        if self.config.mode == BusMode::Loopback {
            return std::future::pending().await;
        }
        if let Err(why) = &self.store {
            tracing::error!(%why, "the bus stays in loopback mode");
            self.enter(BusMode::Loopback, Some(why.clone()));
            return std::future::pending().await;
        }
        let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
        let (mut pause, mut retry) = (PAUSE_MIN, Instant::now());
        loop {
            let wanted = self.devnet().await;
            match wanted {
                Err(why) => self.leave(&mut tasks, why).await,
                Ok(()) if !tasks.is_empty() => {}
                Ok(()) if Instant::now() >= retry => match self.start(&mut tasks).await {
                    Ok(()) => {
                        pause = PAUSE_MIN;
                        self.enter(BusMode::Network, None);
                    }
                    Err(failure) => {
                        retry = Instant::now() + pause;
                        pause = (pause * 2).min(PAUSE_MAX);
                        self.leave(&mut tasks, failure.message).await;
                    }
                },
                Ok(()) => {}
            }
            tokio::select! {
                () = sleep(LOOK_INTERVAL) => {}
                Some(ended) = tasks.join_next() => {
                    let why = match ended {
                        Ok(Ok(())) => "it ended".to_owned(),
                        Ok(Err(failure)) => failure.message,
                        Err(error) => error.to_string(),
                    };
                    self.leave(&mut tasks, format!("the bus lost its sockets: {why}")).await;
                    retry = Instant::now() + pause;
                }
            }
        }
    }

    /// Whether there may be a network; otherwise why not.
    async fn devnet(&self) -> Result<(), String> {
        match self.netd.call(netd_ipc::Client::status).await {
            Ok(status) if status.devnet_enabled => Ok(()),
            Ok(_) => Err("the devnet switch is off".to_owned()),
            Err(failure) => Err(format!("netd cannot be asked for its devnet switch: {}", failure.message)),
        }
    }

    async fn start(self: &Arc<Self>, tasks: &mut JoinSet<Result<(), Failure>>) -> Result<(), Failure> {
        let listener = listen::bind(self).await?;
        let socket = discover::bind(self).await?;
        let now = self.clock.now();
        let restarted = self.core().restart_discovery(&self.config, now);
        restarted
            .map_err(|error| Failure::new(netd_ipc::services::ErrorKind::Internal, error.to_string()))?;
        tasks.spawn(discover::run(Arc::clone(self), socket));
        if !self.config.dns_sd.is_empty() {
            tasks.spawn(dns_sd::run(Arc::clone(self)));
        }
        tasks.spawn(listen::run(Arc::clone(self), listener));
        Ok(())
    }

    /// Back to loopback: no sockets, no sessions, nobody heard.
    async fn leave(&self, tasks: &mut JoinSet<Result<(), Failure>>, why: String) {
        tasks.shutdown().await;
        let sessions = self.core().all_sessions();
        for session in sessions {
            // One that is so busy that it takes no command is lost with its connection, which netd cuts.
            let _ = session.try_send(Command::Close);
        }
        let now = self.clock.now();
        // The bounds were right when it was first made.
        let _ = self.core().restart_discovery(&self.config, now);
        self.enter(BusMode::Loopback, Some(why));
    }

    fn enter(&self, mode: BusMode, problem: Option<String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = state.mode != mode || state.problem != problem;
        if !changed {
            return;
        }
        tracing::info!(?mode, why = problem.as_deref().unwrap_or_default(), "the bus's mode");
        if let Some(why) = &problem {
            mark(&format!("discovery placeholder ({why})"));
        }
        *state = State { mode, problem };
        drop(state);
        self.tell(BusEvent { detail: Some(format!("{mode:?}").to_lowercase()), ..of("mode", None, None) });
    }
}
