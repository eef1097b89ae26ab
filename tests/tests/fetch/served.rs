//! What is fetched: over HTTP/1.1 and HTTP/2, compressed, resumed, redirected, from three servers.

use std::fs;

use netd_tests::process::Background;
use netd_tests::tapped::{GATEWAY, GATEWAY6};
use netd_tests::{Result, ensure};

use crate::Trying as _;
use crate::certificates::{HOST, OTHER_HOSTS};
use crate::encodings;
use crate::running::{LIAR_PORT, Running};

const HTTP: u16 = 8080;
const HTTPS: u16 = 8081;
/// Lines that compress well, and are not the same.
fn text() -> String {
    (0..20_000).map(|number| format!("line {number} of a text\n")).collect()
}

/// nginx with HTTP/1.1 at one port, HTTP/2 over TLS at the other.
fn nginx(running: &Running<'_>) -> Result<Background> {
    let root = running.path("nginx");
    fs::create_dir_all(root.join("files")).trying("use our own directory")?;
    fs::write(root.join("files/text"), text()).trying("use our own directory")?;
    let configuration = format!(
        "daemon off; worker_processes 1; pid {root}/nginx.pid; error_log stderr; user root;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;\n\
         fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;\n\
         gzip on; gzip_types *; gzip_min_length 1;\n\
         server {{ listen {HTTP}; listen [::]:{HTTP}; root {root}/files; location = /moved {{ return 301 /text; }} \n\
           location = /secure {{ return 301 https://{HOST}:{HTTPS}/text; }}\n\
           {encoded} }}\n\
         server {{ listen {HTTPS} ssl http2; listen [::]:{HTTPS} ssl http2; ssl_protocols TLSv1.2 TLSv1.3; root {root}/files; ssl_certificate {chain}; ssl_certificate_key {key}; }} }}\n",
        root = root.display(),
        encoded = encodings::locations(),
        chain = running.certificates.chain("good").display(),
        key = running.certificates.key("good").display(),
    );
    encodings::make(&root.join("files"))?;
    fs::write(root.join("nginx.conf"), configuration).trying("use our own directory")?;
    let root = root.display().to_string();
    running.server("nginx", &["-p", &root, "-c", "nginx.conf", "-e", "stderr"], HTTPS)
}

pub(crate) fn check(running: &Running<'_>) -> Result<()> {
    let _nginx = nginx(running)?;
    let text = text();
    for host in ["b\u{fc}cher.host.test", "XN--BCHER-KVA.HOST.test.", &format!("[::ffff:{GATEWAY}]")] {
        running.fetched(&format!("HTTP://{host}:{LIAR_PORT}/ok"), &[])?;
    }
    let plain = format!("http://{HOST}:{HTTP}");
    let (body, told) = running.fetched(&format!("{plain}/text"), &[])?;
    ensure!(body == text.as_bytes(), "another text came");
    ensure!(told["hops"][0]["protocol"] == "HTTP/1.1", "{told:#}");
    ensure!(told["hops"][0]["peer"]["address"] == GATEWAY, "{told:#}");
    let digest = told["sha256"].as_str().unwrap_or_default().to_owned();

    let (body, told) = running.fetched(&format!("https://{HOST}:{HTTPS}/text"), &["--sha256", &digest])?;
    ensure!(body == text.as_bytes(), "another text came over TLS");
    let hop = &told["hops"][0];
    ensure!(hop["protocol"] == "HTTP/2" && hop["tls"]["version"] == "TLSv1.3", "{told:#}");
    let chain = hop["tls"]["chain"].as_array().map(Vec::len);
    let root = hop["tls"]["root"].as_str().unwrap_or_default();
    ensure!(chain == Some(2) && root.contains("trusted root") && root.contains("root.pem"), "{told:#}");

    let (body, told) = running.fetched(&format!("{plain}/text"), &["--compressed"])?;
    ensure!(body == text.as_bytes(), "another text came compressed");
    ensure!(told["bytes"] == text.len(), "{told:#}");

    let (_, told) = running.fetched(&format!("{plain}/moved"), &[])?;
    ensure!(told["hops"].as_array().map(Vec::len) == Some(2), "{told:#}");
    let (_, told) = running.fetched(&format!("{plain}/secure"), &[])?;
    ensure!(told["hops"][1]["protocol"] == "HTTP/2", "{told:#}");

    resumed(running, &format!("{plain}/text"), &text)?;
    let (body, told) = running.fetched("https://fixture.local/hello", &[])?;
    ensure!(body == b"a fixture\n" && told["hops"][0]["protocol"] == "fixture", "{told:#}");
    running.fetched(&format!("http://{GATEWAY}:{LIAR_PORT}/ok"), &[])?;
    encodings::check(running, &plain, &text)?;
    families(running, &text)?;
    others(running)
}

/// By IPv6, and by the family that answers.
fn families(running: &Running<'_>, text: &str) -> Result<()> {
    let [.., six, both] = OTHER_HOSTS;
    for url in [
        format!("http://{six}:{HTTP}/text"),
        format!("https://{six}:{HTTPS}/text"),
        format!("http://[{GATEWAY6}]:{HTTP}/text"),
    ] {
        let (body, told) = running.fetched(&url, &[])?;
        ensure!(body == text.as_bytes(), "another text came over IPv6");
        ensure!(told["hops"][0]["peer"]["address"] == GATEWAY6, "{told:#}");
    }
    // The liar listens on IPv4 alone, and IPv6 is tried first (RFC 8305, 4).
    for (port, address) in [(HTTP, GATEWAY6), (LIAR_PORT, GATEWAY)] {
        let (_, told) = running.fetched(&format!("http://{both}:{port}/text"), &[])?;
        ensure!(told["hops"][0]["peer"]["address"] == address, "{told:#}");
    }
    Ok(())
}

/// A part that is there is gone on with, and one of another version is not.
fn resumed(running: &Running<'_>, url: &str, text: &str) -> Result<()> {
    let head = running.tapped.peer("curl", &["-sI", &url.replace(HOST, GATEWAY)])?;
    let tag = head.lines().find_map(|line| line.strip_prefix("ETag: ")).unwrap_or_default().trim();
    for (tag, offset) in [(tag, 1000), ("\"another\"", 0)] {
        fs::write(running.path("out.part"), &text[..1000]).trying("use our own directory")?;
        let about = serde_json::json!({ "url": url, "validator": tag });
        fs::write(running.path("out.part.json"), about.to_string()).trying("use our own directory")?;
        netd_tests::process::run(
            std::process::Command::new("chown")
                .arg(netd_tests::embedded::UNPRIVILEGED_UID.to_string())
                .args([running.path("out.part"), running.path("out.part.json")]),
        )?;
        let (body, told) = running.fetched(url, &[])?;
        ensure!(told["resumed_from"] == offset, "from {offset} on: {told:#}");
        ensure!(body == text.as_bytes(), "another text came from {offset} on");
    }
    Ok(())
}

/// openssl over TLS 1.2, and GnuTLS.
fn others(running: &Running<'_>) -> Result<()> {
    let (chain, key) = (running.certificates.chain("good"), running.certificates.key("good"));
    let (chain, key) = (chain.display().to_string(), key.display().to_string());
    let options = ["s_server", "-quiet", "-www", "-tls1_2", "-accept", "8201", "-cert", &chain, "-key", &key];
    let _openssl = running.server("openssl", &[&options[..], &["-cert_chain", &chain]].concat(), 8201)?;
    let (_, told) = running.fetched(&format!("https://{HOST}:8201/"), &[])?;
    ensure!(told["hops"][0]["tls"]["version"] == "TLSv1.2", "{told:#}");
    let options = ["--http", "--port", "8202", "--x509certfile", &chain, "--x509keyfile", &key];
    let _gnutls = running.server("gnutls-serv", &options, 8202)?;
    let (_, told) = running.fetched(&format!("https://{HOST}:8202/"), &[])?;
    ensure!(told["hops"][0]["protocol"] == "HTTP/1.1", "{told:#}");
    Ok(())
}
