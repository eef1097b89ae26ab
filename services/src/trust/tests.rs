//! What is done about roots is done only if it is recorded: with a netd that takes records, or does not.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use netd_ipc::call::Request;
use netd_ipc::framing::{self, Decoder};
use netd_policy::TimePolicy;
use netd_trust::Directories;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::UnixTime;
use serde_json::{Value, json};

use super::*;

const HOST: &str = "www.host.test";

/// What netd says.
#[derive(Clone, Copy)]
struct Says {
    allowed: bool,
    devnet_enabled: bool,
    /// How many records it takes.
    records: usize,
}

const WILLING: Says = Says { allowed: true, devnet_enabled: true, records: 100 };

/// A netd, what it was asked to record, and what is asked of it.
struct Lab {
    trust: Trust,
    netd: Netd,
    recorded: Arc<Mutex<Vec<(String, String)>>>,
    directories: Directories,
    _directory: tempfile::TempDir,
}

fn answer(says: Says, recorded: &Mutex<Vec<(String, String)>>, request: &Request) -> Value {
    let parameters = request.parameters.clone().unwrap_or_default();
    let text = |key: &str| parameters.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    match request.method.as_str() {
        "io.netd.Decide" => {
            let decision = json!({
                "allowed": says.allowed, "error": (!says.allowed).then_some("PolicyDenied"),
                "reason": "so it is", "rule": "test.toml:1",
            });
            json!({ "parameters": { "decision": decision } })
        }
        "io.netd.GetStatus" => {
            let status = json!({
                "version": "0", "pid": 1, "uptime_seconds": 1, "devnet_enabled": says.devnet_enabled, "rules_generation": 1, "device": "ready",
                "link_up": true, "address_source": "static", "addresses": [], "gateway": null, "sockets": 0,
                "received": { "frames": 0, "bytes": 0 }, "sent": { "frames": 0, "bytes": 0 },
                "clock": { "trusted": true, "by": "operator", "reason": "so it is" }, "counters": {},
            });
            json!({ "parameters": { "status": status } })
        }
        "io.netd.RecordTrust" => {
            let mut recorded = recorded.lock().unwrap();
            if recorded.len() == says.records {
                return json!({ "error": "io.netd.Internal", "parameters": { "message": "the log is full" } });
            }
            recorded.push((text("change"), text("detail")));
            json!({ "parameters": {} })
        }
        other => panic!("{other}"),
    }
}

impl Lab {
    fn new(says: Says, time: TimePolicy) -> Lab {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("netd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let records = Arc::clone(&recorded);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, records) = (stream.unwrap(), Arc::clone(&records));
                std::thread::spawn(move || {
                    let (mut decoder, mut bytes) = (Decoder::new(1 << 16), [0; 4096]);
                    while let Ok(count @ 1..) = stream.read(&mut bytes) {
                        decoder.push(&bytes[..count]);
                        while let Some(request) = decoder.take().unwrap() {
                            let request: Request = serde_json::from_slice(&request).unwrap();
                            let reply = answer(says, &records, &request);
                            stream.write_all(&framing::encode(&reply).unwrap()).unwrap();
                        }
                    }
                });
            }
        });
        let directories = Directories {
            packaged: directory.path().join("packaged"),
            installed: directory.path().join("installed"),
        };
        std::fs::create_dir(&directories.packaged).unwrap();
        let config = config::Trust { directories: directories.clone(), time, pins: Arc::default() };
        Lab {
            trust: Trust::new(config),
            netd: Netd::new(Some(socket)),
            recorded,
            directories,
            _directory: directory,
        }
    }

    fn recorded(&self) -> Vec<(String, String)> {
        self.recorded.lock().unwrap().clone()
    }

    fn installed(&self) -> usize {
        std::fs::read_dir(&self.directories.installed).map_or(0, Iterator::count)
    }
}

fn client() -> Peer {
    Peer { uid: 1, gid: 1, pid: 1, unit: None }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test]
async fn root_is_installed_and_removed_with_a_record_of_each() {
    let lab = Lab::new(WILLING, TimePolicy::Strict);
    let added = lab.trust.add(&lab.netd, &client(), authority("one").pem()).await.unwrap();
    assert_eq!((added.len(), lab.installed()), (1, 1));
    let listed = lab.trust.list(&lab.netd).await.unwrap().roots;
    assert_eq!(listed.iter().map(|root| &root.sha256).collect::<Vec<_>>(), [&added[0].sha256]);
    lab.trust.remove(&lab.netd, &client(), added[0].sha256.clone()).await.unwrap();
    assert_eq!(lab.installed(), 0);
    let recorded = lab.recorded();
    assert_eq!(recorded.iter().map(|(change, _)| change.as_str()).collect::<Vec<_>>(), ["added", "removed"]);
    assert!(recorded.iter().all(|(_, detail)| detail.contains(&added[0].sha256)), "{recorded:?}");
}

#[tokio::test]
async fn roots_of_which_one_is_not_recorded_are_all_taken_back() {
    let lab = Lab::new(Says { records: 1, ..WILLING }, TimePolicy::Strict);
    let both = authority("one").pem() + &authority("two").pem();
    let failure = lab.trust.add(&lab.netd, &client(), both).await.unwrap_err();
    assert!(failure.to_string().contains("the log is full"), "{failure}");
    assert_eq!((lab.recorded().len(), lab.installed()), (1, 0));
    assert!(lab.trust.list(&lab.netd).await.unwrap().roots.is_empty());
}

#[tokio::test]
async fn root_of_whoever_may_not_manage_trust_is_not_installed() {
    let lab = Lab::new(Says { allowed: false, ..WILLING }, TimePolicy::Strict);
    let failure = lab.trust.add(&lab.netd, &client(), authority("one").pem()).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::PolicyDenied);
    assert_eq!((lab.recorded().len(), lab.installed()), (0, 0));
}

/// What a server shows whose certificate is out of its dates, or in them, as it is judged now.
async fn accept(lab: &Lab, expired: bool) -> Result<(), Failure> {
    let root = authority("root");
    std::fs::write(lab.directories.packaged.join("root.pem"), root.pem()).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::DnsName(HOST.try_into().unwrap())];
    if expired {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }
    let leaf = params.signed_by(&KeyPair::generate().unwrap(), &root).unwrap();
    let verifier = lab.trust.verifier(&lab.netd).await?;
    let name = ServerName::try_from(HOST).unwrap();
    let chain = verifier
        .judge(&[leaf.der().clone()], &name, UnixTime::now())
        .unwrap_or_else(|refusal| panic!("{refusal}"));
    lab.trust.accepted(&lab.netd, &client(), &chain).await
}

#[tokio::test]
async fn server_is_accepted_without_its_dates_only_with_devnet_and_a_record() {
    let lab = Lab::new(WILLING, TimePolicy::IgnoreDates);
    accept(&lab, true).await.unwrap();
    let [(change, detail)] = &lab.recorded()[..] else { panic!("one record") };
    assert!(
        change == "dates_ignored" && detail.starts_with(HOST) && detail.contains("2002"),
        "{change}: {detail}"
    );

    let lab = Lab::new(Says { records: 0, ..WILLING }, TimePolicy::IgnoreDates);
    assert!(accept(&lab, true).await.unwrap_err().to_string().contains("the log is full"));

    let lab = Lab::new(Says { devnet_enabled: false, ..WILLING }, TimePolicy::IgnoreDates);
    assert_eq!(accept(&lab, true).await.unwrap_err().kind, ErrorKind::DevnetDisabled);
}

#[tokio::test]
async fn server_within_its_dates_is_accepted_without_a_record() {
    let lab = Lab::new(Says { records: 0, ..WILLING }, TimePolicy::Strict);
    accept(&lab, false).await.unwrap();
    assert!(lab.recorded().is_empty());
}
