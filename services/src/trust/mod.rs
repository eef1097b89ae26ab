//! The store of roots, kept for whoever speaks TLS here, and what clients may do with it: look, install, remove, and look at a server.
//!
//! Who may install and remove, netd decides (net.trust.manage) and records. A root that was installed and whose record netd did not take
//! is removed again: nothing is trusted that nobody can read of.

mod check;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use netd_ipc::policy::TrustChange;
use netd_ipc::server::Peer;
use netd_ipc::services::{ErrorKind, TrustList, TrustProblem, TrustRemoval};
use netd_trust::{Chain, Clock, Date, Error, Problem, Root, Stamp, Store, Terms, Verifier};
use rustls_pki_types::ServerName;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use url::Host;

pub(crate) use self::check::check;
use crate::Failure;
use crate::config;
use crate::netd::Netd;

/// What installing and removing takes.
const MANAGE: &str = "net.trust.manage";
/// How often the directories are looked at for what others put there.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The store, as of a moment ago at most.
#[derive(Debug)]
pub(crate) struct Trust {
    config: config::Trust,
    loaded: Mutex<Option<Loaded>>,
    /// Told when roots are installed or removed here. What others do to the directories shows when it is looked for.
    changes: watch::Sender<()>,
    /// Held while the directory is changed: what is checked first holds until it is done.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Loaded {
    store: Arc<Store>,
    stamp: Stamp,
    looked_at: Instant,
}

impl Trust {
    pub(crate) fn new(config: config::Trust) -> Trust {
        Trust {
            config,
            loaded: Mutex::default(),
            changes: watch::Sender::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// A judge of servers by the roots that are there now, on the configured terms, with what netd says of the clock and of devnet.
    ///
    /// # Errors
    /// netd cannot be asked; `ignore-dates` while devnet is off.
    pub(crate) async fn verifier(&self, netd: &Netd) -> Result<Arc<Verifier>, Failure> {
        let status = netd.call(netd_ipc::Client::status).await?;
        let clock = match status.clock.trusted {
            true => Clock::Trusted,
            false => Clock::Untrusted { why: status.clock.reason },
        };
        let pins = Arc::clone(&self.config.pins);
        let terms = Terms::new(self.config.time, clock, pins, status.devnet_enabled)?;
        Ok(Verifier::new(self.store().await?, terms))
    }

    /// Has it recorded if a server was accepted without regard to its dates.
    ///
    /// # Errors
    /// netd does not take the record: the server is not to be spoken with.
    pub(crate) async fn accepted(&self, netd: &Netd, client: &Peer, chain: &Chain) -> Result<(), Failure> {
        if chain.dates != netd_trust::Dates::Ignored {
            return Ok(());
        }
        let [leaf, ..] = &chain.certificates[..] else { return Ok(()) };
        let detail = format!("{}: {} ({} to {})", chain.host, leaf.subject, leaf.not_before, leaf.not_after);
        netd.record_trust(client, TrustChange::DatesIgnored, detail).await
    }

    /// All roots, and what is wrong with the rest.
    pub(crate) async fn list(&self, netd: &Netd) -> Result<TrustList, Failure> {
        let now = now(netd).await?;
        let directories = self.config.directories.clone();
        let (store, problems) = blocking(move || directories.load(now)).await?;
        Ok(TrustList {
            roots: store.roots().iter().map(root).collect(),
            problems: problems.iter().map(problem).collect(),
            time: self.config.time.name().to_owned(),
            pins: self
                .config
                .pins
                .iter()
                .map(|(pattern, pins)| (pattern.to_string(), pins.iter().map(ToString::to_string).collect()))
                .collect(),
        })
    }

    /// Installs the certificates of a PEM text for `client`, if it may.
    pub(crate) async fn add(
        &self,
        netd: &Netd,
        client: &Peer,
        pem: String,
    ) -> Result<Vec<netd_ipc::services::Root>, Failure> {
        netd.permit(client, MANAGE, None).await?;
        let now = now(netd).await?;
        let _changing = self.changing.lock().await;
        let directories = self.config.directories.clone();
        let added = blocking(move || directories.add(pem.as_bytes(), now)).await??;
        for new in &added {
            if let Err(failure) = netd.record_trust(client, TrustChange::Added, described(new)).await {
                self.take_back(&added).await;
                return Err(failure);
            }
            tracing::info!(uid = client.uid, root = %described(new), "a root was installed");
        }
        self.forget();
        Ok(added.iter().map(root).collect())
    }

    /// Removes an installed root, or an installed file, for `client`, if it may.
    pub(crate) async fn remove(
        &self,
        netd: &Netd,
        client: &Peer,
        id: String,
    ) -> Result<TrustRemoval, Failure> {
        netd.permit(client, MANAGE, None).await?;
        let _changing = self.changing.lock().await;
        let directories = self.config.directories.clone();
        let removed = blocking(move || directories.remove(&id)).await??;
        self.forget();
        let file = removed.file.display().to_string();
        // A file without a root in it is a line too.
        let details = match removed.roots.is_empty() {
            true => vec![file.clone()],
            false => removed.roots.iter().map(described).collect(),
        };
        for detail in details {
            tracing::info!(uid = client.uid, root = %detail, "a root was removed");
            netd.record_trust(client, TrustChange::Removed, detail).await?;
        }
        Ok(TrustRemoval { file, roots: removed.roots.iter().map(root).collect() })
    }

    async fn take_back(&self, added: &[Root]) {
        for new in added {
            let (directories, id) = (self.config.directories.clone(), new.certificate.sha256.to_string());
            if let Ok(Err(error)) = blocking(move || directories.remove(&id)).await {
                tracing::error!(%error, file = %new.file.display(), "a root whose record failed is still there");
            }
        }
        // They may have been read meanwhile.
        self.forget();
    }

    /// The roots, read again if the directories changed.
    async fn store(&self) -> Result<Arc<Store>, Failure> {
        if let Some(store) = self.recent() {
            return Ok(store);
        }
        let directories = self.config.directories.clone();
        let stamp = blocking(move || directories.stamp()).await?;
        if let Some(loaded) = &mut *self.lock()
            && loaded.stamp == stamp
        {
            loaded.looked_at = Instant::now();
            return Ok(Arc::clone(&loaded.store));
        }
        let directories = self.config.directories.clone();
        let (store, problems) = blocking(move || directories.load(None)).await?;
        for problem in &problems {
            tracing::warn!(%problem, "a file of roots is not used as it stands");
        }
        let store = Arc::new(store);
        // If the directories changed in between, the next look finds another stamp.
        let loaded = Loaded { store: Arc::clone(&store), stamp, looked_at: Instant::now() };
        *self.lock() = Some(loaded);
        Ok(store)
    }

    fn recent(&self) -> Option<Arc<Store>> {
        let loaded = self.lock();
        let loaded = loaded.as_ref().filter(|loaded| loaded.looked_at.elapsed() < LOOK_INTERVAL)?;
        Some(Arc::clone(&loaded.store))
    }

    /// Hears from now on when the roots change; as long as there is a trust store, it will not hear that there is none.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn forget(&self) {
        *self.lock() = None;
        self.changes.send_replace(());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Loaded>> {
        // A panic elsewhere while the lock was held leaves one whole value or the other.
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads and writes files on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    spawn_blocking(work).await.map_err(|error| Failure::new(ErrorKind::Internal, error.to_string()))
}

/// The time, if the clock is trusted.
async fn now(netd: &Netd) -> Result<Option<Date>, Failure> {
    let status = netd.call(netd_ipc::Client::status).await?;
    Ok(status.clock.trusted.then(|| SystemTime::now().into()))
}

fn described(root: &Root) -> String {
    let Root { certificate, file, origin: _ } = root;
    format!("{} sha256:{} {}", certificate.subject, certificate.sha256, file.display())
}

fn root(root: &Root) -> netd_ipc::services::Root {
    let Root { certificate, file, origin } = root;
    netd_ipc::services::Root {
        certificate: shown(certificate),
        sha256: certificate.sha256.to_string(),
        key: certificate.key.clone(),
        file: file.display().to_string(),
        origin: origin.to_string(),
    }
}

/// What a certificate must be for, if it is to be this host's.
///
/// # Errors
/// `InvalidInput`: no certificate can be for it.
pub(crate) fn server_name(host: &Host<String>) -> Result<ServerName<'static>, Failure> {
    match host {
        Host::Ipv4(address) => Ok(ServerName::IpAddress(IpAddr::V4(*address).into())),
        Host::Ipv6(address) => Ok(ServerName::IpAddress(IpAddr::V6(*address).into())),
        Host::Domain(name) => ServerName::try_from(name.clone()).map_err(|_| {
            Failure::new(ErrorKind::InvalidInput, format!("'{name}' is no name that a certificate can have"))
        }),
    }
}

/// A certificate as the interface has it.
pub(crate) fn shown(certificate: &netd_trust::Certificate) -> netd_ipc::services::Certificate {
    netd_ipc::services::Certificate {
        subject: certificate.subject.clone(),
        issuer: certificate.issuer.clone(),
        not_before: certificate.not_before.to_string(),
        not_after: certificate.not_after.to_string(),
        spki_sha256: certificate.pin.to_string(),
    }
}

fn problem(problem: &Problem) -> TrustProblem {
    TrustProblem { file: problem.file.display().to_string(), what: problem.what.to_string() }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let kind = match &error {
            Error::Unknown { .. } => ErrorKind::NotFound,
            Error::DatesNeedDevnet => ErrorKind::DevnetDisabled,
            Error::Write { .. } | Error::Tls(_) => ErrorKind::Internal,
            Error::Refused(_) | Error::Ambiguous { .. } | Error::Packaged { .. } | Error::InBundle { .. } => {
                ErrorKind::InvalidInput
            }
        };
        // What the system said is the source.
        let source = std::error::Error::source(&error).filter(|_| matches!(error, Error::Write { .. }));
        let message = source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        Failure::new(kind, message)
    }
}
