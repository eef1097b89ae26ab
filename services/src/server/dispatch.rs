//! From a request to what answers it.

use std::sync::Arc;

use netd_ipc::call::{BadCall, Request, SERVICE_INTERFACE};
use netd_ipc::services::{Call, INTERFACE};
use serde_json::json;

use super::Services;
use super::connection::{Connection, Gone};
use super::share::Share;
use crate::fetch;

/// Interfaces with their descriptions.
const INTERFACES: [(&str, &str); 2] =
    [("org.varlink.service", SERVICE_INTERFACE), ("io.netd.services", INTERFACE)];

/// Serves one client until it is gone.
pub(super) async fn serve(mut connection: Connection, share: Share, services: Arc<Services>) {
    connection.hold(share);
    loop {
        match next(&mut connection, &services).await {
            Ok(()) => {}
            Err(Gone::Closed) => break,
            Err(gone) => {
                let peer = connection.peer();
                tracing::info!(uid = peer.uid, pid = peer.pid, reason = %gone, "connection closed");
                break;
            }
        }
    }
}

async fn next(connection: &mut Connection, services: &Services) -> Result<(), Gone> {
    let bytes = connection.request().await?;
    let Some(request) = connection.understand(&bytes).await? else { return Ok(()) };
    let Request { more, oneway, .. } = request;
    let call = match Call::parse(request) {
        Ok(call) => call,
        Err(_) if oneway => return Ok(()),
        Err(bad) => return connection.send(&bad.response(), &[]).await,
    };
    match call {
        // Nobody would see what they say, and none of them does anything else.
        _ if oneway => Ok(()),
        Call::GetInfo => connection.reply(info(), false, &[]).await,
        Call::GetInterfaceDescription { interface } => describe(connection, interface).await,
        Call::Fetch { url, options } => fetch::answer(connection, services, &url, &options, more).await,
    }
}

fn info() -> serde_json::Value {
    json!({
        "vendor": "netd",
        "product": "netd-services",
        "version": env!("CARGO_PKG_VERSION"),
        "url": "https://varlink.org",
        "interfaces": INTERFACES.map(|(name, _)| name),
    })
}

async fn describe(connection: &mut Connection, interface: String) -> Result<(), Gone> {
    match INTERFACES.into_iter().find(|(name, _)| *name == interface) {
        Some((_, text)) => connection.reply(json!({ "description": text }), false, &[]).await,
        None => connection.send(&BadCall::InterfaceNotFound(interface).response(), &[]).await,
    }
}
