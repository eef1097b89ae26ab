//! What `netctl fetch -v` tells: each exchange with its rule, address, chain and times. On standard error, where the body may have the other.

use netd_ipc::services::{Certificate, End, Head, Hop, Tls};

use crate::output::{Output, bytes, milliseconds};

pub(super) fn hops(output: &Output, head: &Head) {
    for hop in &head.hops {
        lines(hop).iter().for_each(|line| output.note(line));
    }
    if head.offset > 0 {
        output.note(&format!("* going on at byte {}", head.offset));
    }
}

pub(super) fn end(output: &Output, end: End) {
    let End { bytes: handed, received_bytes, total_us } = end;
    output.note(&format!(
        "* {} of body from {} received, in {}",
        bytes(handed),
        bytes(received_bytes),
        milliseconds(total_us)
    ));
}

fn lines(hop: &Hop) -> Vec<String> {
    let Hop { url, status, protocol, rule, peer, tls, location, connect_us, tls_us, first_byte_us } = hop;
    let time = |time: &Option<u64>| time.map(|us| format!(" in {}", milliseconds(us))).unwrap_or_default();
    let mut lines = vec![format!("* {url}"), format!("*   allowed by {rule}")];
    lines.extend(peer.map(|peer| format!("*   connected to {peer}{}", time(connect_us))));
    if let Some(Tls { version, cipher_suite, chain, root, pin }) = tls {
        lines.push(format!("*   {version}, {cipher_suite}{}", time(tls_us)));
        for (number, certificate) in chain.iter().enumerate() {
            let Certificate { subject, issuer, not_before, not_after, spki_sha256 } = certificate;
            lines.push(format!("*   certificate {}: {subject}, by {issuer}", number + 1));
            lines.push(format!("*     from {not_before} to {not_after}, {spki_sha256}"));
        }
        lines.push(format!("*   root: {root}"));
        lines.push(match pin {
            Some(pin) => format!("*   pin: {pin}"),
            None => "*   pin: none for this host".to_owned(),
        });
    }
    lines.push(format!("*   {protocol} {status} in {}", milliseconds(*first_byte_us)));
    lines.extend(location.iter().map(|location| format!("*   redirects to {location}")));
    lines
}
