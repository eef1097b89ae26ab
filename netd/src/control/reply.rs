//! Replies of the worker, and the control thread's own, as they go to the client.

use std::os::fd::OwnedFd;

use netd_ipc::ErrorKind;
use netd_ipc::call::{
    BoundReply, CaptureReply, FramesReply, INTERFACE, Response, SERVICE_INTERFACE, StreamReply,
    UdpOptionsReply,
};
use netd_ipc::framing::{self, REPLY_BYTES_MAX};
use netd_vfio::Mac;
use serde::Serialize;
use serde_json::json;

use crate::command::Reply;

/// A reply with its descriptors, ready to be written.
pub(super) type Message = (Vec<u8>, Vec<OwnedFd>);

/// Interfaces with their descriptions.
const INTERFACES: [(&str, &str); 2] = [("org.varlink.service", SERVICE_INTERFACE), ("io.netd", INTERFACE)];

/// What the worker answered.
pub(super) fn of_worker(reply: Reply) -> Message {
    match reply {
        Reply::Status(status) => returns(&json!({ "status": status })),
        Reply::Device(device) => returns(&json!({ "device": device })),
        Reply::Interfaces(interfaces) => returns(&json!({ "interfaces": interfaces })),
        Reply::Sockets(sockets) => returns(&json!({ "sockets": sockets })),
        Reply::Neighbors(neighbors) => returns(&json!({ "neighbors": neighbors })),
        Reply::Statistics(statistics) => returns(&json!({ "statistics": statistics })),
        Reply::Clients(clients) => returns(&clients),
        Reply::Stream { id, local, remote, rule, tls, descriptor } => {
            let (local, remote, tls) = (local.into(), remote.into(), tls.map(|tls| tls.to_string()));
            let reply = StreamReply { id, local, remote, rule, tls, descriptor: 0 };
            (returns(&reply).0, vec![descriptor])
        }
        Reply::Listener { id, local, descriptor } | Reply::Udp { id, local, descriptor } => {
            (returns(&BoundReply { id, local: local.into(), descriptor: 0 }).0, vec![descriptor])
        }
        Reply::Ping(pong) => returns(&pong),
        Reply::Poll(previous) => returns(&json!({ "previous": previous })),
        Reply::Done => returns(&json!({})),
        Reply::UdpSet(local) => returns(&UdpOptionsReply { local: local.map(Into::into) }),
        Reply::Resolved(resolved) => returns(&resolved),
        Reply::Capture(descriptor) => (returns(&CaptureReply { descriptor: 0 }).0, vec![descriptor]),
        Reply::Frames { id, mac, mtu, descriptor } => {
            let reply = FramesReply { id, mac: Mac(mac).to_string(), mtu, descriptor: 0 };
            (returns(&reply).0, vec![descriptor])
        }
        Reply::Outcome(outcome) => returns(&outcome),
        Reply::Failed(kind, message) => failed(kind, &message),
    }
}

/// To `SetLogLevel`.
pub(super) fn previous(filter: &str) -> Message {
    returns(&json!({ "previous": filter }))
}

/// An error of the interface `io.netd`.
pub(super) fn failed(kind: ErrorKind, message: &str) -> Message {
    of_response(&Response {
        parameters: Some(json!({ "message": message })),
        error: Some(format!("io.netd.{kind}")),
        continues: false,
    })
}

/// Any response without descriptors.
pub(super) fn of_response(response: &Response) -> Message {
    bounded(framing::encode(response))
}

fn bounded(encoded: Result<Vec<u8>, serde_json::Error>) -> Message {
    match encoded {
        Ok(bytes) if bytes.len() <= REPLY_BYTES_MAX => (bytes, Vec::new()),
        Ok(bytes) => {
            let message = format!("the reply has {} bytes, and {REPLY_BYTES_MAX} is the most", bytes.len());
            failed(ErrorKind::NoBufs, &message)
        }
        Err(error) => failed(ErrorKind::Internal, &format!("the reply is no JSON: {error}")),
    }
}

/// `org.varlink.service.GetInfo`
pub(super) fn info() -> Message {
    returns(&json!({
        "vendor": "netd",
        "product": "netd",
        "version": env!("CARGO_PKG_VERSION"),
        "url": "https://varlink.org",
        "interfaces": INTERFACES.map(|(name, _)| name),
    }))
}

/// `org.varlink.service.GetInterfaceDescription`; none for an interface that does not exist.
pub(super) fn description(interface: &str) -> Option<Message> {
    let (_, text) = INTERFACES.into_iter().find(|(name, _)| *name == interface)?;
    Some(returns(&json!({ "description": text })))
}

/// [`Response`] without error, of parameters that need not become a value first.
#[derive(Serialize)]
struct Returns<'a, P> {
    parameters: &'a P,
}

/// What a method returns.
pub(super) fn returns(parameters: &impl Serialize) -> Message {
    bounded(framing::encode(&Returns { parameters }))
}
