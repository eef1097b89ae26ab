//! Chains made for the purpose: one that holds, and each way in which one does not.

mod files;
mod handshake;
mod refusals;

use std::path::Path;
use std::sync::Arc;

use netd_policy::{Pins, TimePolicy};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate::owned;
use crate::store::Builder;
use crate::{Chain, Clock, Date, Origin, Refusal, Store, Terms, Verifier};

/// Who servers are asked for.
const HOST: &str = "www.host.test";

/// A moment in `year`, at its beginning.
fn in_year(year: i32) -> UnixTime {
    Date::from_seconds(date_time_ymd(year, 1, 1).unix_timestamp()).to_unix()
}

/// A name, and dates from 2020 to 2040.
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    dated(params, 2020, 2040)
}

fn dated(mut params: CertificateParams, from: i32, to: i32) -> CertificateParams {
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    params
}

fn ca(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A server's, for [`HOST`].
fn server(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.subject_alt_names = vec![rcgen::SanType::DnsName(HOST.try_into().unwrap())];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn root(params: CertificateParams) -> Authority {
    CertifiedIssuer::self_signed(params, key()).unwrap()
}

fn below(params: CertificateParams, issuer: &Authority) -> Authority {
    CertifiedIssuer::signed_by(params, key(), issuer).unwrap()
}

fn leaf(params: &CertificateParams, issuer: &Authority) -> CertificateDer<'static> {
    owned(params.signed_by(&key(), issuer).unwrap().der())
}

fn store(roots: &[&CertificateDer<'_>]) -> Arc<Store> {
    let mut builder = Builder::new(None);
    for (index, der) in roots.iter().enumerate() {
        builder.add(Path::new(&format!("/trust/{index}.pem")), Origin::Packaged, 1, der);
    }
    let (store, problems) = builder.finish();
    assert!(problems.is_empty(), "{problems:?}");
    Arc::new(store)
}

fn terms(time: TimePolicy, clock: Clock, pins: Pins) -> Terms {
    Terms::new(time, clock, Arc::new(pins), true).unwrap()
}

/// With dates that count, no pins, and this one root.
fn strict(root: &Authority) -> Arc<Verifier> {
    Verifier::new(store(&[root.der()]), terms(TimePolicy::Strict, Clock::Trusted, Pins::default()))
}

/// Shows these to a judge, in 2026.
fn show(verifier: &Verifier, sent: &[&CertificateDer<'_>]) -> Result<Chain, Refusal> {
    show_in(verifier, sent, 2026)
}

fn show_in(verifier: &Verifier, sent: &[&CertificateDer<'_>], year: i32) -> Result<Chain, Refusal> {
    let sent: Vec<_> = sent.iter().map(|der| owned(der)).collect();
    verifier.judge(&sent, &ServerName::try_from(HOST).unwrap(), in_year(year))
}
