//! Each refusal by its name, and beside each what is accepted.

use netd_policy::Pin;
use rcgen::{GeneralSubtree, NameConstraints};
use rustls_pki_types::pem::PemObject as _;

use super::*;
use crate::{Certificate, Dates};

/// A CA below another, and a server below it.
struct Three {
    root: Authority,
    middle: Authority,
    leaf: CertificateDer<'static>,
}

fn three() -> Three {
    let root = root(ca("root"));
    let middle = below(ca("middle"), &root);
    let leaf = leaf(&server("leaf"), &middle);
    Three { root, middle, leaf }
}

fn subject(name: &str) -> String {
    format!("CN={name}")
}

#[test]
fn chain_to_a_root_is_accepted_and_told_with_root_and_dates() {
    let Three { root, middle, leaf } = three();
    let stranger = super::root(ca("stranger"));
    // In any order, with what does not belong, and with the root itself.
    for sent in [
        vec![&leaf, middle.der()],
        vec![&leaf, stranger.der(), middle.der()],
        vec![&leaf, middle.der(), root.der()],
    ] {
        let chain = show(&strict(&root), &sent).unwrap();
        let subjects: Vec<_> = chain.certificates.iter().map(|certificate| &certificate.subject).collect();
        assert_eq!(subjects, ["CN=leaf", "CN=middle"]);
        assert_eq!(chain.root.certificate, Certificate::parse(root.der()).unwrap());
        assert_eq!(chain.root.file, Path::new("/trust/0.pem"));
        assert_eq!(chain.dates.to_string(), "valid at 2026-01-01T00:00:00Z");
        assert_eq!((chain.host.as_str(), chain.pin), (HOST, None));
    }
}

#[test]
fn dates_refuse_by_whose_they_are() {
    let Three { root, middle, leaf } = three();
    let verifier = strict(&root);
    let sent = [&leaf, middle.der()];
    assert!(
        matches!(show_in(&verifier, &sent, 2041), Err(Refusal::Expired { subject, .. }) if subject == "CN=leaf")
    );
    let early = show_in(&verifier, &sent, 2019).unwrap_err();
    assert_eq!(
        early.to_string(),
        "the certificate of 'CN=leaf' is not valid before 2020-01-01T00:00:00Z (it is 2019-01-01T00:00:00Z)"
    );
    let old = below(dated(ca("old"), 2020, 2025), &root);
    let leaf = super::leaf(&server("leaf"), &old);
    assert!(
        matches!(show(&verifier, &[&leaf, old.der()]), Err(Refusal::Expired { subject, .. }) if subject == "CN=old")
    );
}

#[test]
fn root_whose_dates_are_over_signs_no_longer_and_another_with_its_name_does() {
    let old = root(dated(ca("root"), 2010, 2025));
    let sent = leaf(&server("leaf"), &old);
    let refusal = show(&strict(&old), &[&sent]).unwrap_err();
    assert!(
        matches!(&refusal, Refusal::RootExpired { file, .. } if file == Path::new("/trust/0.pem")),
        "{refusal}"
    );
    let coming = root(dated(ca("root"), 2030, 2040));
    let sent = leaf(&server("leaf"), &coming);
    assert!(matches!(show(&strict(&coming), &[&sent]), Err(Refusal::RootNotYetValid { .. })));
    // The same name and key with other dates, as when a CA renews its root.
    let key = key();
    let first = dated(ca("root"), 2010, 2025).self_signed(&key).unwrap();
    let second = CertifiedIssuer::self_signed(ca("root"), key).unwrap();
    let sent = leaf(&server("leaf"), &second);
    let store = store(&[first.der(), second.der()]);
    let verifier = Verifier::new(store, terms(TimePolicy::Strict, Clock::Trusted, Pins::default()));
    assert_eq!(show(&verifier, &[&sent]).unwrap().root.file, Path::new("/trust/1.pem"));
}

#[test]
fn ignored_dates_need_devnet_and_a_moment_at_which_all_were_valid() {
    let pins = Arc::new(Pins::default());
    let off = Terms::new(TimePolicy::IgnoreDates, Clock::Trusted, Arc::clone(&pins), false);
    assert!(matches!(off, Err(crate::Error::DatesNeedDevnet)));
    assert!(!Terms::new(TimePolicy::Strict, Clock::Trusted, pins, false).unwrap().ignores_dates());

    let clock = || Clock::Untrusted { why: "nobody set it".to_owned() };
    let lenient = || terms(TimePolicy::IgnoreDates, clock(), Pins::default());
    assert!(lenient().ignores_dates());
    let root = root(dated(ca("root"), 2000, 2001));
    let middle = below(dated(ca("middle"), 2010, 2020), &root);
    let verifier = Verifier::new(store(&[root.der()]), lenient());
    let together = leaf(&dated(server("leaf"), 2015, 2030), &middle);
    let chain = show(&verifier, &[&together, middle.der()]).unwrap();
    assert_eq!(chain.dates, Dates::Ignored);
    let apart = leaf(&dated(server("leaf"), 2021, 2030), &middle);
    assert_eq!(show(&verifier, &[&apart, middle.der()]), Err(Refusal::NeverTogether));
    // Everything else counts.
    let stranger = super::root(ca("root"));
    let sent = leaf(&server("leaf"), &stranger);
    assert!(matches!(show(&verifier, &[&sent]), Err(Refusal::BadSignature { .. })));
}

#[test]
fn clock_that_is_not_trusted_refuses_everything_by_its_name() {
    let Three { root, middle, leaf } = three();
    let why = "the kernel says it is not synchronised".to_owned();
    let terms = terms(TimePolicy::Strict, Clock::Untrusted { why: why.clone() }, Pins::default());
    let verifier = Verifier::new(store(&[root.der()]), terms);
    assert_eq!(show(&verifier, &[&leaf, middle.der()]), Err(Refusal::ClockUntrusted { why }));
}

#[test]
fn stranger_is_told_apart_from_an_incomplete_chain_and_from_itself() {
    let Three { root, middle, leaf } = three();
    let verifier = strict(&root);
    assert_eq!(
        show(&verifier, &[&leaf]),
        Err(Refusal::MissingIntermediate { subject: subject("leaf"), issuer: subject("middle") })
    );
    let stranger = super::root(ca("stranger"));
    let sent = super::leaf(&server("leaf"), &stranger);
    let unknown = Err(Refusal::UnknownRoot { issuer: subject("stranger") });
    assert_eq!(show(&verifier, &[&sent, stranger.der()]), unknown);
    let between = below(ca("between"), &stranger);
    let sent = super::leaf(&server("leaf"), &between);
    assert_eq!(show(&verifier, &[&sent, between.der()]), unknown);
    let own = owned(server("own").self_signed(&key()).unwrap().der());
    assert_eq!(show(&verifier, &[&own]), Err(Refusal::SelfSigned { subject: subject("own") }));
    let mut params = ca("own");
    params.subject_alt_names = server("own").subject_alt_names;
    let own = owned(params.self_signed(&key()).unwrap().der());
    assert_eq!(show(&verifier, &[&own]), Err(Refusal::SelfSigned { subject: subject("own") }));
    // One with a trusted root's name, and another key.
    let impostor = super::root(ca("root"));
    let sent = super::leaf(&server("leaf"), &impostor);
    assert_eq!(
        show(&verifier, &[&sent, impostor.der()]),
        Err(Refusal::Impostor { subject: subject("root") })
    );
    let bad = Refusal::BadSignature { subject: subject("leaf"), issuer: subject("root") };
    assert_eq!(show(&verifier, &[&sent]), Err(bad));
    let nobody = Verifier::new(store(&[]), terms(TimePolicy::Strict, Clock::Trusted, Pins::default()));
    assert_eq!(show(&nobody, &[&leaf, middle.der()]), Err(Refusal::NoRoots));
}

#[test]
fn certificate_for_another_host_is_refused_with_whom_it_is_for() {
    let root = root(ca("root"));
    let mut params = server(HOST);
    params.subject_alt_names = vec![
        rcgen::SanType::DnsName("*.other.test".try_into().unwrap()),
        rcgen::SanType::IpAddress("192.0.2.1".parse().unwrap()),
    ];
    let sent = leaf(&params, &root);
    let verifier = strict(&root);
    let refusal = show(&verifier, &[&sent]).unwrap_err().to_string();
    assert!(refusal.starts_with("the certificate is not for 'www.host.test' but for '"), "{refusal}");
    assert!(refusal.contains("*.other.test"), "{refusal}");
    let judge = |name: &'static str| {
        verifier
            .judge(std::slice::from_ref(&sent), &ServerName::try_from(name).unwrap(), in_year(2026))
            .map(drop)
    };
    assert_eq!(judge("a.other.test"), Ok(()));
    assert_eq!(judge("A.OTHER.TEST"), Ok(()));
    assert_eq!(judge("192.0.2.1"), Ok(()));
    for other in ["other.test", "a.b.other.test", "192.0.2.2", "2001:db8::1"] {
        assert!(matches!(judge(other), Err(Refusal::WrongHost { .. })), "{other}");
    }
}

#[test]
fn ca_with_constraints_vouches_only_within_them() {
    let root = root(ca("root"));
    let limited = |permitted: &str| {
        let mut params = ca("limited");
        let permitted_subtrees = vec![GeneralSubtree::DnsName(permitted.to_owned())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
        let middle = below(params, &root);
        let sent = leaf(&server("leaf"), &middle);
        show(&strict(&root), &[&sent, middle.der()]).map(drop)
    };
    assert_eq!(limited("host.test"), Ok(()));
    assert_eq!(limited("other.test"), Err(Refusal::NameConstraints { host: HOST.to_owned() }));
    // Those of the root itself count too.
    let mut params = ca("root");
    let excluded_subtrees = vec![GeneralSubtree::DnsName("host.test".to_owned())];
    params.name_constraints = Some(NameConstraints { permitted_subtrees: Vec::new(), excluded_subtrees });
    let root = super::root(params);
    let sent = leaf(&server("leaf"), &root);
    assert!(matches!(show(&strict(&root), &[&sent]), Err(Refusal::NameConstraints { .. })));
}

#[test]
fn whoever_may_not_sign_does_not() {
    let root = root(ca("root"));
    let verifier = strict(&root);
    let refused = |params: CertificateParams| {
        let middle = below(params, &root);
        let sent = leaf(&server("leaf"), &middle);
        show(&verifier, &[&sent, middle.der()]).unwrap_err()
    };
    assert_eq!(refused(server("server")), Refusal::NotACa { subject: subject("server") });
    let mut params = ca("other usage");
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    assert_eq!(refused(params), Refusal::NotACa { subject: subject("other usage") });

    let mut params = ca("last");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let last = below(params, &root);
    let beyond = below(ca("beyond"), &last);
    let sent = leaf(&server("leaf"), &beyond);
    assert_eq!(show(&verifier, &[&sent, beyond.der(), last.der()]), Err(Refusal::PathLength));
}

#[test]
fn certificate_for_something_else_is_refused() {
    let root = root(ca("root"));
    let verifier = strict(&root);
    let mut params = server("mail");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    assert_eq!(show(&verifier, &[&leaf(&params, &root)]), Err(Refusal::NotForServers));
    let mut params = ca("shows itself");
    params.subject_alt_names = server("").subject_alt_names;
    let subject = subject("shows itself");
    assert_eq!(show(&verifier, &[&leaf(&params, &root)]), Err(Refusal::CaAsServer { subject }));
    let mut params = server("odd");
    let mut odd = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55555, 1], vec![5, 0]);
    odd.set_criticality(true);
    params.custom_extensions = vec![odd];
    assert_eq!(show(&verifier, &[&leaf(&params, &root)]), Err(Refusal::CriticalExtension));
}

/// Made with OpenSSL, since ring does not: `openssl req -x509 -newkey rsa:2048 -addext keyUsage=critical,keyCertSign`, and below it, with
/// the names of their files, leaves of `openssl x509 -req` with a key of 1024 bits, `-sha1` and `-md5`, valid for a hundred years.
#[test]
fn short_key_and_forgeable_signature_are_refused() {
    let der = |pem: &[u8]| CertificateDer::from_pem_slice(pem).unwrap();
    let store = store(&[&der(include_bytes!("fixtures/root.pem"))]);
    let verifier = Verifier::new(store, terms(TimePolicy::Strict, Clock::Trusted, Pins::default()));
    let refused = |pem: &[u8]| show_in(&verifier, &[&der(pem)], 2030).unwrap_err();
    let subject = |name: &str| format!("CN={name}");
    assert_eq!(
        refused(include_bytes!("fixtures/short-key.pem")),
        Refusal::WeakKey { subject: subject("short-key"), key: "RSA 1024".to_owned() }
    );
    for (pem, name, digest) in [
        (&include_bytes!("fixtures/sha1.pem")[..], "sha1", "sha1WithRSAEncryption"),
        (&include_bytes!("fixtures/md5.pem")[..], "md5", "md5WithRSAEncryption"),
    ] {
        let refusal = Refusal::WeakSignature { subject: subject(name), algorithm: digest.to_owned() };
        assert_eq!(refused(pem), refusal);
    }
}

#[test]
fn pinned_host_needs_a_pinned_key_anywhere_in_its_chain() {
    let Three { root, middle, leaf } = three();
    let pin_of = |der: &CertificateDer<'_>| Certificate::parse(der).unwrap().pin;
    let judged = |pins: Vec<(&str, Vec<Pin>)>| {
        let pins =
            Pins::new(pins.into_iter().map(|(pattern, pins)| (pattern.parse().unwrap(), pins))).unwrap();
        let verifier = Verifier::new(store(&[root.der()]), terms(TimePolicy::Strict, Clock::Trusted, pins));
        show(&verifier, &[&leaf, middle.der()])
    };
    let wrong = Pin::of(b"another key");
    for (der, whose) in [(&leaf, "CN=leaf"), (middle.der(), "CN=middle"), (root.der(), "CN=root")] {
        let met = judged(vec![("*.host.test", vec![wrong, pin_of(der)])]).unwrap().pin.unwrap();
        assert_eq!(
            (met.subject.as_str(), met.pin, met.pattern.as_str()),
            (whose, pin_of(der), "*.host.test")
        );
    }
    let refused = Refusal::WrongPin { pattern: HOST.to_owned(), pins: vec![wrong], leaf: pin_of(&leaf) };
    assert_eq!(judged(vec![(HOST, vec![wrong])]), Err(refused.clone()));
    // Each pattern that covers the host must be satisfied; others do not matter.
    assert_eq!(judged(vec![("*.host.test", vec![pin_of(&leaf)]), (HOST, vec![wrong])]), Err(refused));
    assert_eq!(judged(vec![("host.test", vec![wrong])]).unwrap().pin, None);
}

#[test]
fn damaged_and_endless_chains_are_refused() {
    let Three { root, middle, leaf } = three();
    let verifier = strict(&root);
    let cut = CertificateDer::from(leaf[..leaf.len() - 1].to_vec());
    assert!(matches!(show(&verifier, &[&cut, middle.der()]), Err(Refusal::Malformed { number: 1, .. })));
    let mut longer = leaf.to_vec();
    longer.push(0);
    let longer = CertificateDer::from(longer);
    assert!(matches!(show(&verifier, &[&longer, middle.der()]), Err(Refusal::Malformed { number: 1, .. })));
    // A damaged certificate that the chain does without harms nobody.
    assert!(show(&verifier, &[&leaf, &cut, middle.der()]).is_ok());
    assert!(matches!(show(&verifier, &[]), Err(Refusal::Malformed { number: 1, .. })));
    let many: Vec<_> = std::iter::once(&leaf).chain(std::iter::repeat_n(middle.der(), 16)).collect();
    assert_eq!(show(&verifier, &many), Err(Refusal::TooMany { sent: 17 }));
    // One bit of the signature.
    let mut forged = leaf.to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let forged = CertificateDer::from(forged);
    assert!(matches!(show(&verifier, &[&forged, middle.der()]), Err(Refusal::BadSignature { .. })));
}

#[test]
fn search_among_certificates_that_all_fit_each_other_is_given_up() {
    // CAs with one name and different keys: each may have signed each.
    let params = ca("same");
    let all: Vec<_> = (0..12).map(|_| root(params.clone())).collect();
    let mut middle = params.clone();
    middle.serial_number = Some(7.into());
    let sent: Vec<_> = all.iter().map(|issuer| below(middle.clone(), issuer)).collect();
    let leaf = leaf(&server("leaf"), &sent[0]);
    let roots = root(ca("root"));
    let shown: Vec<_> = std::iter::once(&leaf).chain(sent.iter().map(|one| one.der())).collect();
    let refusal = show(&strict(&roots), &shown).unwrap_err();
    assert!(matches!(refusal, Refusal::TooComplex | Refusal::UnknownRoot { .. }), "{refusal}");
}

#[test]
fn name_with_control_characters_and_without_end_is_shown_harmlessly() {
    let root = root(ca("root"));
    let name = format!("evil\u{1b}[2J\n{}", "x".repeat(500));
    let shown = Certificate::parse(&leaf(&server(&name), &root)).unwrap().subject;
    assert!(shown.starts_with("CN=evil\u{fffd}[2J\u{fffd}x") && shown.ends_with("x..."), "{shown}");
    assert!(shown.chars().count() < 210 && !shown.contains(char::is_control));
}
