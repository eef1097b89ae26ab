//! Megabytes between a program of the host and a client in the guest: what arrives has the digest of what was sent.

use std::time::Duration;

use crate::error::{Attempt, Result};
use crate::lab::{Lab, scratch};
use crate::netns::wait_for_path;
use crate::peers::{Socat, file_of};
use crate::process::wait_until;
use crate::{digest, ensure};

const PORT: u16 = 7100;
/// For what is left when the client has ended: the last acknowledgements, and the host's digest.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A file of the host's, read by a client in the guest within `limit`.
pub(crate) fn receive(lab: &Lab, bytes: u64, limit: Duration) -> Result<()> {
    let directory = scratch()?;
    let blob = directory.path().join("blob");
    let sum = file_of(&blob, bytes, 1)?;
    let (file, listen) = (format!("FILE:{}", blob.display()), format!("TCP-LISTEN:{PORT},reuseaddr"));
    let mut socat = Socat::listen(&lab.namespace, PORT, &["-u", &file, &listen])?;
    let receive = format!("netctl connect {} {PORT} </dev/null | netd-peer digest", lab.plan.gateway);
    let received = lab.vm.guest().script(&receive).limit(limit).run()?;
    socat.process.finish(END_LIMIT)?;
    ensure!(received.trim() == format!("{sum} {bytes}"), "sent {sum} {bytes}, received {received}");
    Ok(())
}

/// What a client in the guest generates, read by the host; sent within `limit`.
pub(crate) fn send(lab: &Lab, bytes: u64, limit: Duration) -> Result<()> {
    let listen = format!("TCP-LISTEN:{PORT},reuseaddr");
    let mut socat = Socat::listen(&lab.namespace, PORT, &["-u", &listen, "SYSTEM:sha256sum > sum"])?;
    let gateway = lab.plan.gateway;
    let send = format!("set -o pipefail; netd-peer generate {bytes} 2 | netctl connect {gateway} {PORT}");
    lab.vm.guest().script(&send).limit(limit).run()?;
    socat.process.finish(END_LIMIT)?;
    let file = socat.file("sum");
    wait_for_path(&file, END_LIMIT)?;
    let expected = digest::generate(bytes, 2, std::io::sink()).attempt(|| "digest".to_owned())?;
    wait_until("sha256sum's answer", END_LIMIT, || {
        let sum = std::fs::read_to_string(&file).attempt(|| "read the sum".to_owned())?;
        ensure!(sum.is_empty() || sum.starts_with(&expected), "sent {expected}, received {sum}");
        Ok(!sum.is_empty())
    })
}
