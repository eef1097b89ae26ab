//! From a request to what answers it.

use std::sync::Arc;

use netd_ipc::call::{BadCall, Request, SERVICE_INTERFACE};
use netd_ipc::services::{Call, ErrorKind, INTERFACE};
use serde_json::json;

use super::Services;
use super::connection::{Connection, Gone};
use super::share::Share;
use crate::{Failure, bus, fetch, trust};

/// Interfaces with their descriptions.
const INTERFACES: [(&str, &str); 2] =
    [("org.varlink.service", SERVICE_INTERFACE), ("io.netd.services", INTERFACE)];

/// Serves one client until it is gone.
pub(super) async fn serve(mut connection: Connection, share: Share, services: Arc<Services>) {
    connection.hold(share);
    // Services that it offers to the bus, for as long as it is there.
    let mut offered = bus::Registrations::new();
    loop {
        match next(&mut connection, &services, &mut offered).await {
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

async fn next(
    connection: &mut Connection,
    services: &Services,
    offered: &mut bus::Registrations,
) -> Result<(), Gone> {
    let bytes = connection.request().await?;
    let Some(request) = connection.understand(&bytes).await? else { return Ok(()) };
    let Request { more, oneway, .. } = request;
    let call = match Call::parse(request) {
        Ok(call) => call,
        Err(_) if oneway => return Ok(()),
        Err(bad) => return connection.send(&bad.response(), &[]).await,
    };
    match call {
        // Nobody would see what they say.
        _ if oneway => Ok(()),
        Call::GetInfo => connection.reply(info(), false, &[]).await,
        Call::GetInterfaceDescription { interface } => describe(connection, interface).await,
        Call::Fetch { url, options } => fetch::answer(connection, services, &url, &options, more).await,
        Call::ListTrust => {
            let listed = services.trust.list(&services.netd).await;
            connection.answer(listed.map(|list| json!(list))).await
        }
        Call::AddTrust { pem } => {
            let peer = connection.peer().clone();
            let added = services.trust.add(&services.netd, &peer, pem).await;
            connection.answer(added.map(|roots| json!({ "roots": roots }))).await
        }
        Call::RemoveTrust { id } => {
            let peer = connection.peer().clone();
            let removed = services.trust.remove(&services.netd, &peer, id).await;
            connection.answer(removed.map(|removal| json!(removal))).await
        }
        Call::CheckTrust { target, timeout } => {
            let peer = connection.peer().clone();
            let share = services.fetches.take(peer.uid);
            let checked = match share {
                Ok(_share) => trust::check(&services.trust, &services.netd, &peer, &target, timeout).await,
                Err(message) => Err(Failure::new(ErrorKind::QuotaExceeded, message)),
            };
            connection.answer(checked.map(|check| json!({ "check": check }))).await
        }
        Call::ListPublished => {
            connection.reply(json!({ "ports": services.published.list() }), false, &[]).await
        }
        call @ (Call::GetBus
        | Call::ListBusPeers
        | Call::WatchBus
        | Call::ShowBusPin
        | Call::PairBus { .. }
        | Call::PinBus { .. }
        | Call::RevokeBus { .. }
        | Call::ServeBus { .. }
        | Call::AcceptBus { .. }
        | Call::OpenBus { .. }
        | Call::TakeBusCall { .. }
        | Call::AnswerBusCall { .. }
        | Call::AwaitBusCall { .. }
        | Call::CallBus { .. }
        | Call::PublishBus { .. }
        | Call::SubscribeBus { .. }
        | Call::ListBusServices { .. }
        | Call::GetBusOutcome { .. }
        | Call::ListBusFiles { .. }
        | Call::StatBusFile { .. }
        | Call::ReadBusFile { .. }
        | Call::GetBusState { .. }
        | Call::PutBusState { .. }
        | Call::DeleteBusState { .. }
        | Call::ListBusState { .. }
        | Call::SyncBusState { .. }) => bus::answer(connection, &services.bus, offered, call, more).await,
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
