//! The real backend: one exchange after the other until there is a body, and what must still hold while it comes.

use std::time::{Duration, Instant};

use netd_ipc::server::Peer;
use netd_ipc::services::{ErrorKind, FetchOptions, Head, Hop};
use netd_ipc::tokio::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::answer::{About, Meaning, understand};
use super::body::{Decoded, Raw};
use super::http::{self, Answer, Version};
use super::pipe::Pipe;
use super::target::Target;
use super::tls::{self, Met, Shown};
use super::{Body, FETCH, Fetcher, Opened, microseconds};
use crate::Failure;
use crate::dial::dial;
use crate::netd::Permission;
use crate::server::Services;

/// Redirects that are followed: as many as clients usually do (RFC 9110, 15.4, leaves it to them); longer ways are loops.
const REDIRECTS_MAX: usize = 10;

/// A body that a server sends.
pub(super) struct Coming {
    decoded: Decoded,
    /// Ends with this.
    _connection: JoinSet<()>,
    shown: Option<Shown>,
    authority: String,
    /// Of the roots, since before the server was believed.
    changes: watch::Receiver<()>,
}

/// One exchange, done but for the body.
struct Exchanged {
    answer: Answer,
    hop: Hop,
    shown: Option<Shown>,
}

impl Fetcher {
    pub(super) async fn open_real(
        &self,
        services: &Services,
        client: &Peer,
        mut target: Target,
        mut permission: Permission,
        options: &FetchOptions,
    ) -> Result<Opened, Failure> {
        let mut hops = Vec::new();
        let changes = services.trust.changes();
        loop {
            let Exchanged { answer, mut hop, shown } =
                self.exchange(services, client, &target, permission.rule, options).await?;
            let Answer { response, connection } = answer;
            let next = match understand(&target, options, hop.status, response.headers())? {
                Meaning::Body(about) => {
                    let About { offset, length, encoding, encoded, validator, content_type } = about;
                    hops.push(hop);
                    let head = Head {
                        hops,
                        offset,
                        length,
                        validator,
                        content_type,
                        encoding: encoded,
                        descriptor: 0,
                    };
                    let decoded = Decoded::new(Raw::new(response.into_body()), encoding);
                    let authority = target.authority();
                    let coming = Coming { decoded, _connection: connection, shown, authority, changes };
                    return Ok(Opened { head, body: Body::Coming(Box::new(coming)) });
                }
                Meaning::NothingLeft => {
                    hops.push(hop);
                    let (offset, validator) = (options.from.unwrap_or(0), options.validator.clone());
                    let (length, content_type, encoding) = (Some(0), None, None);
                    let head =
                        Head { hops, offset, length, validator, content_type, encoding, descriptor: 0 };
                    return Ok(Opened { head, body: Body::Whole(Vec::new()) });
                }
                Meaning::Redirect(next) => next,
            };
            hop.location = Some(next.url().to_owned());
            hops.push(hop);
            if hops.len() > REDIRECTS_MAX {
                let message = format!(
                    "the server redirects more than {REDIRECTS_MAX} times, the last time to {}",
                    next.url()
                );
                return Err(Failure::new(ErrorKind::RedirectRefused, message));
            }
            if next.remote().host != target.remote().host && (!permission.redirects || next.is_fixture()) {
                let message = format!(
                    "'{}' redirects to another host, '{}' ({}): that is followed only if the grant has redirects = \"granted\"; \
                     or fetch it from there",
                    target.remote().host,
                    next.remote().host,
                    next.url()
                );
                return Err(Failure::new(ErrorKind::RedirectRefused, message));
            }
            permission = services.netd.permission(client, FETCH, Some(next.authority())).await?;
            target = next;
        }
    }

    /// Connects, secures and asks.
    async fn exchange(
        &self,
        services: &Services,
        client: &Peer,
        target: &Target,
        rule: String,
        options: &FetchOptions,
    ) -> Result<Exchanged, Failure> {
        let started = Instant::now();
        let connect = options.connect.unwrap_or(self.config.connect);
        let deadline = started + connect;
        let late = |doing: &str, after: Duration| {
            let message =
                format!("{doing} {} took longer than {} s", target.authority(), after.as_secs_f32());
            Failure::new(ErrorKind::TimedOut, message)
        };
        let stream =
            timeout_at(deadline.into(), dial(&services.netd, client, FETCH, target.remote(), deadline))
                .await
                .map_err(|_| late("connecting to", connect))??;
        let stream = TcpStream::new(stream)?;
        let peer = Some(stream.peer_addr().into());
        let connected = Instant::now();
        let first_byte = options.first_byte.unwrap_or(self.config.first_byte);
        let asked = |stream: Secured| async move {
            let secured = Instant::now();
            let (version, tls, shown) = (stream.version(), stream.tls(), stream.shown());
            let exchange = async {
                match stream {
                    Secured::Plain(stream) => http::exchange(stream, version, target, options).await,
                    Secured::Tls(stream, ..) => http::exchange(*stream, version, target, options).await,
                }
            };
            let answer = tokio::time::timeout(first_byte, exchange)
                .await
                .map_err(|_| late("the head of the answer of", first_byte))??;
            let hop = Hop {
                url: target.url().to_owned(),
                status: answer.response.status().as_u16(),
                protocol: version.name().to_owned(),
                rule,
                peer,
                tls_us: tls.is_some().then(|| microseconds(secured - connected)),
                tls,
                location: None,
                connect_us: Some(microseconds(connected - started)),
                first_byte_us: microseconds(secured.elapsed()),
            };
            Ok(Exchanged { answer, hop, shown })
        };
        if !target.is_secure() {
            return asked(Secured::Plain(stream)).await;
        }
        let verifier = services.trust.verifier(&services.netd).await?;
        let Met { stream, tls, shown, chain } =
            timeout_at(deadline.into(), tls::secure(stream, target, &verifier))
                .await
                .map_err(|_| late("the TLS handshake with", connect))??;
        // Before anything is asked: what is not recorded does not happen.
        services.trust.accepted(&services.netd, client, &chain).await?;
        asked(Secured::Tls(Box::new(stream), tls, shown)).await
    }
}

/// A connection that is ready to be asked.
enum Secured {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>, netd_ipc::services::Tls, Shown),
}

impl Secured {
    /// What the server chose; HTTP/1.1 if it knows no ALPN (RFC 9113, 3.2).
    fn version(&self) -> Version {
        match self {
            Secured::Tls(stream, ..) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => Version::Two,
            _ => Version::One,
        }
    }

    fn tls(&self) -> Option<netd_ipc::services::Tls> {
        match self {
            Secured::Plain(_) => None,
            Secured::Tls(_, tls, _) => Some(tls.clone()),
        }
    }

    fn shown(&self) -> Option<Shown> {
        match self {
            Secured::Plain(_) => None,
            Secured::Tls(.., shown) => Some(shown.clone()),
        }
    }
}

impl Coming {
    /// Carries the body to the client while everything that was decided still holds.
    pub(super) async fn carry(
        self,
        pipe: &mut Pipe,
        services: &Services,
        client: &Peer,
        idle: Duration,
    ) -> Result<u64, Failure> {
        let Coming { mut decoded, _connection, shown, authority, changes } = self;
        let still = || async {
            services.netd.permit(client, "net.http.devnet", None).await?;
            services.netd.permit(client, FETCH, Some(authority.clone())).await?;
            if let Some(shown) = &shown {
                shown.judge(&*services.trust.verifier(&services.netd).await?)?;
            }
            Ok(())
        };
        let carried = decoded.carry(pipe, idle, changes, still).await;
        if carried.is_err() {
            // netd cuts by itself what is no longer allowed: then that is why, and not that the server broke off.
            still().await?;
        }
        carried
    }
}
