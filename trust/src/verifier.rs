//! The judge of servers.

use std::sync::Arc;

use netd_policy::{HostName, Pins, TimePolicy};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::EndEntityCert;

use crate::Error;
use crate::certificate::shown;
use crate::chain::{Chain, Dates, PinMet};
use crate::date::Date;
use crate::path::{Path, Sent, name_of};
use crate::refusal::Refusal;
use crate::store::Store;

/// Whether the time of this machine can be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clock {
    /// It can.
    Trusted,
    /// It cannot, and why.
    Untrusted {
        /// Half a sentence, such as "the kernel says it is not synchronised".
        why: String,
    },
}

/// What a server's certificate must satisfy beside leading to a root.
#[derive(Debug, Clone)]
pub struct Terms {
    time: TimePolicy,
    clock: Clock,
    pins: Arc<Pins>,
}

impl Terms {
    /// From the configuration, and what is known of the clock.
    ///
    /// # Errors
    /// [`Error::DatesNeedDevnet`]: `ignore-dates` while devnet is off.
    pub fn new(
        time: TimePolicy,
        clock: Clock,
        pins: Arc<Pins>,
        devnet_enabled: bool,
    ) -> Result<Terms, Error> {
        match time {
            TimePolicy::IgnoreDates if !devnet_enabled => Err(Error::DatesNeedDevnet),
            TimePolicy::IgnoreDates | TimePolicy::Strict => Ok(Terms { time, clock, pins }),
        }
    }

    /// Whether dates count for nothing: whoever acts on such terms writes that into the audit.
    pub fn ignores_dates(&self) -> bool {
        self.time == TimePolicy::IgnoreDates
    }
}

/// Judges servers by the roots of one store, on the same terms each time.
#[derive(Debug)]
pub struct Verifier {
    store: Arc<Store>,
    terms: Terms,
}

impl Verifier {
    /// With these roots and no others.
    pub fn new(store: Arc<Store>, terms: Terms) -> Arc<Verifier> {
        Arc::new(Verifier { store, terms })
    }

    /// Judges what a server sent (its own certificate first), and tells the chain that was found.
    ///
    /// # Errors
    /// The first reason against it: its chain, then its name, then its keys.
    pub fn judge(
        &self,
        sent: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<Chain, Refusal> {
        let Some((leaf, others)) = sent.split_first() else {
            return Err(Refusal::Malformed { number: 1, why: "it sent none".to_owned() });
        };
        if let (TimePolicy::Strict, Clock::Untrusted { why }) = (self.terms.time, &self.terms.clock) {
            return Err(Refusal::ClockUntrusted { why: why.clone() });
        }
        let certificates = Sent::read(leaf, others)?;
        if self.store.roots().is_empty() {
            return Err(Refusal::NoRoots);
        }
        let (path, dates) = self.path(&certificates, host, now)?;
        check_name(leaf, host)?;
        let pin = self.check_pins(&path, host)?;
        let Path { certificates, root } = path;
        Ok(Chain { host: name_of(host), certificates, root: root.clone(), pin, dates })
    }

    fn path<'s>(
        &'s self,
        sent: &Sent<'_>,
        host: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(Path<'s>, Dates), Refusal> {
        let today = Date::from(now);
        match self.terms.time {
            TimePolicy::Strict => match sent.chain(&self.store, now, true) {
                Ok(path) => Ok((path, Dates::ValidAt(today))),
                Err(failure) => Err(sent.explain(&self.store, failure, host, today)),
            },
            TimePolicy::IgnoreDates => {
                // If there is a moment at which all certificates of a chain are valid, then the latest of their first ones is such.
                let mut moments: Vec<Date> =
                    sent.certificates.iter().map(|certificate| certificate.not_before).collect();
                moments.sort_unstable();
                moments.dedup();
                let mut refusal = Refusal::NeverTogether;
                for moment in moments.into_iter().rev() {
                    match sent.chain(&self.store, moment.to_unix(), false) {
                        Ok(path) => return Ok((path, Dates::Ignored)),
                        Err(failure) if failure.is_of_dates() => {}
                        Err(failure) => refusal = sent.explain(&self.store, failure, host, moment),
                    }
                }
                Err(refusal)
            }
        }
    }

    fn check_pins(&self, path: &Path<'_>, host: &ServerName<'_>) -> Result<Option<PinMet>, Refusal> {
        // Pins are for names: an address has no pattern.
        let ServerName::DnsName(name) = host else { return Ok(None) };
        let Ok(name) = name.as_ref().parse::<HostName>() else { return Ok(None) };
        let chain = || path.certificates.iter().chain([&path.root.certificate]);
        let mut met = None;
        for (pattern, pins) in self.terms.pins.of(&name) {
            let Some(found) = chain().find(|certificate| pins.contains(&certificate.pin)) else {
                return Err(Refusal::wrong_pin(pattern, pins, path.certificates[0].pin));
            };
            let pattern = pattern.to_string();
            met.get_or_insert(PinMet { pattern, pin: found.pin, subject: found.subject.clone() });
        }
        Ok(met)
    }
}

/// RFC 6125, 6: the subject alternative names, and nothing else.
fn check_name(leaf: &CertificateDer<'_>, host: &ServerName<'_>) -> Result<(), Refusal> {
    let unreadable = |error: webpki::Error| Refusal::Malformed { number: 1, why: error.to_string() };
    let certificate = EndEntityCert::try_from(leaf).map_err(unreadable)?;
    certificate.verify_is_valid_for_subject_name(host).map_err(|error| match error {
        webpki::Error::CertNotValidForName(context) => Refusal::WrongHost {
            host: name_of(host),
            names: context.presented.iter().map(|name| shown(plain(name))).collect(),
        },
        other => Refusal::Other(other.to_string()),
    })
}

/// A name out of webpki's words for it, `DnsName("a.example")`.
fn plain(presented: &str) -> &str {
    let inside = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inside.map_or(presented, |inside| inside.trim_matches('"'))
}
