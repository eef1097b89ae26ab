//! The certificates of the scenario: a root that is trusted, and servers of every bad kind. rcgen makes them; what it refuses to make (short
//! keys, SHA-1) openssl does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use netd_tests::Result;
use netd_tests::process::run;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyPair, KeyUsagePurpose, NameConstraints, SanType, date_time_ymd,
};

use crate::Trying as _;

/// The name that servers are fetched from; everything below `.test` leads to the bridge.
pub(crate) const HOST: &str = "www.host.test";
/// What the good certificate is for beside it: a host with the wrong pin, one with the right one, one with an IPv6 address alone, and one
/// with both.
pub(crate) const OTHER_HOSTS: [&str; 4] =
    ["wrongly-pinned.host.test", "pinned.host.test", "six.host.test", "both.host.test"];

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A directory with a pair of files for each server: NAME.pem, its chain, and NAME.key.
pub(crate) struct Certificates {
    directory: PathBuf,
    root: String,
}

fn params(name: &str, from: i32, to: i32) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).trying("name a certificate")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    Ok(params)
}

fn authority(name: &str) -> Result<CertificateParams> {
    let mut params = params(name, 2020, 2040)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn server(name: &str, host: &str, from: i32, to: i32) -> Result<CertificateParams> {
    let mut params = params(name, from, to)?;
    params.subject_alt_names = vec![SanType::DnsName(host.try_into().trying("name a host")?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn key() -> Result<KeyPair> {
    KeyPair::generate().trying("make a key")
}

fn root(name: &str) -> Result<Authority> {
    CertifiedIssuer::self_signed(authority(name)?, key()?).trying("make a root")
}

impl Certificates {
    /// Makes all of them.
    pub(crate) fn new(directory: &Path) -> Result<Certificates> {
        fs::create_dir_all(directory).trying("use our own directory")?;
        let trusted = root("trusted root")?;
        let stranger = root("unknown root")?;
        let middle = CertifiedIssuer::signed_by(authority("middle")?, key()?, &trusted)
            .trying("make an intermediate")?;
        let mut elsewhere = authority("constrained")?;
        elsewhere.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("elsewhere.test".to_owned())],
            excluded_subtrees: Vec::new(),
        });
        let constrained =
            CertifiedIssuer::signed_by(elsewhere, key()?, &trusted).trying("make an intermediate")?;
        let certificates = Certificates { directory: directory.to_owned(), root: trusted.pem() };

        let mut good = server("good", HOST, 2020, 2040)?;
        for host in OTHER_HOSTS {
            good.subject_alt_names.push(SanType::DnsName(host.try_into().trying("name a host")?));
        }
        certificates.leaf("good", &good, &middle, &[&middle])?;
        certificates.leaf("wrong_host", &server("wrong", "other.test", 2020, 2040)?, &trusted, &[])?;
        certificates.leaf("expired", &server("old", HOST, 2020, 2022)?, &trusted, &[])?;
        certificates.leaf("not_yet_valid", &server("young", HOST, 2038, 2040)?, &trusted, &[])?;
        certificates.leaf("unknown_root", &server("strange", HOST, 2020, 2040)?, &stranger, &[&stranger])?;
        certificates.leaf("missing_intermediate", &server("short", HOST, 2020, 2040)?, &middle, &[])?;
        let constrained_leaf = server("outside", HOST, 2020, 2040)?;
        certificates.leaf("name_constraints", &constrained_leaf, &constrained, &[&constrained])?;
        let own = key()?;
        let alone = server("alone", HOST, 2020, 2040)?.self_signed(&own).trying("make a certificate")?;
        certificates.write("self_signed", &alone.pem(), &own.serialize_pem())?;
        certificates.write("ca", &trusted.pem(), &trusted.key().serialize_pem())?;
        certificates.by_openssl("weak_key", "rsa:1024", "-sha256")?;
        certificates.by_openssl("weak_signature", "rsa:2048", "-sha1")?;
        Ok(certificates)
    }

    fn write(&self, name: &str, chain: &str, key: &str) -> Result<()> {
        fs::write(self.chain(name), chain).trying("use our own directory")?;
        fs::write(self.key(name), key).trying("use our own directory")
    }

    fn leaf(
        &self,
        name: &str,
        params: &CertificateParams,
        issuer: &Authority,
        chain: &[&Authority],
    ) -> Result<()> {
        let own = key()?;
        let leaf = params.signed_by(&own, issuer).trying("make a certificate")?;
        let others: String = chain.iter().map(|authority| authority.pem()).collect();
        self.write(name, &(leaf.pem() + &others), &own.serialize_pem())
    }

    fn by_openssl(&self, name: &str, key: &str, digest: &str) -> Result<()> {
        let script = format!(
            "cd {}; openssl req -newkey {key} -nodes -keyout {name}.key -subj /CN={name} -out {name}.csr \
             -addext subjectAltName=DNS:{HOST} 2>&1
             openssl x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -days 300 {digest} -copy_extensions copy \
             -out {name}.pem 2>&1",
            self.directory.display()
        );
        run(Command::new("sh").args(["-ec", &script])).map(drop)
    }

    /// The certificate of a server, with what it sends beside it.
    pub(crate) fn chain(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }

    /// Its key.
    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }

    /// The pin of its key, as openssl reckons it.
    pub(crate) fn pin(&self, name: &str) -> Result<String> {
        let script = format!(
            "openssl x509 -in {} -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64",
            self.chain(name).display()
        );
        run(Command::new("sh").args(["-ec", &script])).map(|digest| format!("sha256/{}", digest.trim()))
    }

    /// The one that is trusted.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }
}
