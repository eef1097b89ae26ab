//! netd, asked from tokio: decisions about clients, and records of what changed for them. It is looked for when it is needed, so that
//! netd-services starts before it and survives its restarts.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use netd_ipc::policy::{Decision, TrustChange};
use netd_ipc::server::Peer;
use netd_ipc::services::ErrorKind;
use netd_policy::Redirects;
use tokio::task::spawn_blocking;

use crate::Failure;

/// What a client was allowed something by.
#[derive(Debug)]
pub(crate) struct Permission {
    /// The rule, with its place.
    pub(crate) rule: String,
    /// Of a fetch: whether redirects to other hosts are followed, as far as these are granted.
    pub(crate) redirects: bool,
}

/// A way to netd. Clones share it.
#[derive(Debug, Clone)]
pub struct Netd {
    path: Option<PathBuf>,
    client: Arc<Mutex<Option<netd_ipc::Client>>>,
}

impl Netd {
    /// At this path, or where netd is by default.
    pub fn new(path: Option<PathBuf>) -> Netd {
        Netd { path, client: Arc::default() }
    }

    /// The client library's handle.
    fn client(&self) -> Result<netd_ipc::Client, netd_ipc::Error> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let found = match &self.path {
            Some(path) => netd_ipc::Client::connect(path)?,
            None => netd_ipc::Client::connect_default()?,
        };
        Ok(client.insert(found).clone())
    }

    /// Makes a call to netd on a thread that may block.
    pub async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&netd_ipc::Client) -> Result<T, netd_ipc::Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let netd = self.clone();
        spawn_blocking(move || netd.call_here(call))
            .await
            .map_err(|error| Failure::new(ErrorKind::Internal, format!("a call to netd failed: {error}")))?
    }

    /// The same on this thread, which may block.
    fn call_here<T>(
        &self,
        call: impl FnOnce(&netd_ipc::Client) -> Result<T, netd_ipc::Error>,
    ) -> Result<T, Failure> {
        self.client().and_then(|client| call(&client)).map_err(Failure::from)
    }

    /// Has a change of the bus's state recorded in netd's audit, on a thread that may block.
    ///
    /// # Errors
    /// netd cannot be asked, or refuses.
    pub(crate) fn record_state(
        &self,
        client: &Peer,
        device: Option<&str>,
        detail: &str,
    ) -> Result<(), Failure> {
        self.call_here(|netd| netd.record_state(client, device, detail))
    }

    /// Asks whether `client` may; returns the rule that says so.
    ///
    /// # Errors
    /// It may not, in netd's words; or netd cannot be asked.
    pub async fn permit(
        &self,
        client: &Peer,
        capability: &'static str,
        target: Option<String>,
    ) -> Result<String, Failure> {
        self.permission(client, capability, target).await.map(|permission| permission.rule)
    }

    /// The same, with what the rule says of redirects.
    ///
    /// # Errors
    /// It may not, in netd's words; or netd cannot be asked.
    pub(crate) async fn permission(
        &self,
        client: &Peer,
        capability: &'static str,
        target: Option<String>,
    ) -> Result<Permission, Failure> {
        let client = client.clone();
        let decision = self.call(move |netd| {
            netd.decide(&client, capability, target.as_deref()).map_err(|error| match error.kind() {
                Some(netd_ipc::ErrorKind::PolicyDenied) => netd_ipc::Error::Refused {
                    kind: netd_ipc::ErrorKind::Internal,
                    message: format!("netd does not answer netd-services: {error}"),
                },
                _ => error,
            })
        });
        let Decision { allowed, error, reason, rule, redirects, .. } = decision.await?;
        if allowed {
            let redirects = redirects.as_deref() == Some(Redirects::Granted.name());
            return Ok(Permission { rule, redirects });
        }
        let kind = match error {
            Some(netd_ipc::ErrorKind::DevnetDisabled) => ErrorKind::DevnetDisabled,
            _ => ErrorKind::PolicyDenied,
        };
        Err(Failure::new(kind, reason))
    }

    /// Has a change of trust recorded in netd's audit.
    ///
    /// # Errors
    /// netd cannot be asked, or refuses.
    pub async fn record_trust(
        &self,
        client: &Peer,
        change: TrustChange,
        detail: String,
    ) -> Result<(), Failure> {
        let client = client.clone();
        self.call(move |netd| netd.record_trust(&client, change, &detail)).await
    }
}
