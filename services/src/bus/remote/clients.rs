//! What clients ask: to call, to take and answer calls, to publish and to subscribe.

use std::sync::Arc;
use std::time::Duration;

use netd_ipc::server::Peer as ClientPeer;
use netd_ipc::services::{
    BusCall, BusCallError, BusPayload, BusPublication, BusServiceInfo, CALL_BYTES_MAX, Call, ErrorKind,
};
use netd_softbus::remote::call::Call as CallHead;
use netd_softbus::remote::gateway::{Entry, Query, parse_entries};
use netd_softbus::remote::topic::{Event, Subscribe};
use netd_softbus::remote::{PAYLOAD_BYTES_MAX, Status, Target};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::Bus;
use super::super::calls::{DISCOVER, Registrations, service_name};
use super::super::trust::SESSION;
use super::calls::TAKEN_MAX;
use super::{Bulk, DEADLINE, Named, Question, Refusal, Subscription, refusal};
use crate::Failure;
use crate::rights::Right;
use crate::server::{Connection, Gone};

/// What calling, and subscribing, take besides a session.
const CALL: &str = "dsoftbus.rpc.call";

// What the interface says of payloads is what the bus carries.
const _: () = assert!(CALL_BYTES_MAX == PAYLOAD_BYTES_MAX);
const _: () =
    assert!(netd_ipc::services::PUBLICATION_BYTES_MAX == netd_softbus::remote::topic::EVENT_BYTES_MAX);

/// Answers a call about calls and topics.
pub(in crate::bus) async fn answer(
    connection: &mut Connection,
    bus: &Arc<Bus>,
    offered: &mut Registrations,
    call: Call,
    more: bool,
) -> Result<(), Gone> {
    let client = connection.peer().clone();
    let result = match call {
        Call::CallBus { device, service, method, payload, timeout } => {
            let calling = call_service(bus, &client, &device, &service, &method, payload, timeout);
            tokio::select! {
                answer = calling => answer,
                () = connection.gone() => return Err(Gone::Closed),
            }
        }
        Call::ListBusServices { device, timeout } => {
            let listing = list(bus, &client, &device, timeout);
            tokio::select! {
                listed = listing => listed.map(|services| json!({ "services": services })),
                () = connection.gone() => return Err(Gone::Closed),
            }
        }
        Call::TakeBusCall { service } => {
            let taking = take(bus, offered, &client, &service);
            tokio::select! {
                taken = taking => taken.map(|call| json!({ "call": call })),
                () = connection.gone() => return Err(Gone::Closed),
            }
        }
        Call::AnswerBusCall { id, answer } => answer_call(bus, &client, id, answer).map(|()| json!({})),
        Call::AwaitBusCall { id } => {
            let waiting = await_call(bus, &client, id);
            tokio::select! {
                end = waiting => end,
                () = connection.gone() => return Err(Gone::Closed),
            }
        }
        Call::PublishBus { service, topic, payload } => {
            publish(offered, &service, &topic, payload).map(|count| json!({ "subscribers": count }))
        }
        Call::SubscribeBus { .. } if !more => return connection.expected_more().await,
        Call::SubscribeBus { device, service, topic, timeout } => {
            let subscribing = subscribe(bus, &client, &device, &service, topic.as_deref(), timeout);
            let subscribed = tokio::select! {
                subscribed = subscribing => subscribed,
                () = connection.gone() => return Err(Gone::Closed),
            };
            match subscribed {
                Ok((device, subscription, right)) => {
                    return deliver(connection, &device, &subscription, right).await;
                }
                Err(failure) => Err(failure),
            }
        }
        _ => Err(Failure::new(ErrorKind::Internal, "this is no call about the bus")),
    };
    connection.answer(result).await
}

fn wrong(error: impl std::fmt::Display) -> Failure {
    Failure::new(ErrorKind::InvalidInput, error.to_string())
}

impl Bus {
    /// The device and service that a client names, if it may use them, and our own rules do not forbid it; with the right to it.
    async fn permitted(
        &self,
        client: &ClientPeer,
        device: &str,
        service: &str,
    ) -> Result<(Named, netd_softbus::ServiceName, Right), Failure> {
        let device = self.named(device)?;
        let named = service_name(service)?;
        let asks = vec![
            (SESSION, Some(device.as_str().to_owned())),
            (CALL, Some(format!("{}/{service}", device.as_str()))),
        ];
        let right = self.rights.hold(client, asks).await?;
        if let Named::Peer(peer) = &device {
            self.may_ask_for(peer, &named)?;
        }
        Ok((device, named, right))
    }
}

async fn call_service(
    bus: &Arc<Bus>,
    client: &ClientPeer,
    device: &str,
    service: &str,
    method: &str,
    payload: BusPayload,
    limit: Option<Duration>,
) -> Result<Value, Failure> {
    let method = method.parse().map_err(wrong)?;
    if payload.len() > CALL_BYTES_MAX {
        let message = format!(
            "a payload of {} bytes: a call takes at most {CALL_BYTES_MAX}; more goes over a stream (OpenBus)",
            payload.len()
        );
        return Err(Failure::new(ErrorKind::TooLarge, message));
    }
    let (device, service, mut right) = bus.permitted(client, device, service).await?;
    let head = CallHead { service, method }.encode();
    let deadline = limit.unwrap_or(DEADLINE);
    let question = Question { target: Target::Call, head, payload: payload.into(), deadline };
    let asking = async {
        let answer = bus.ask_remote(&device, question).await?;
        match answer.bulk {
            None => Ok(answer.body),
            Some(bulk) => read(&device, bulk, deadline).await,
        }
    };
    let payload = tokio::select! {
        payload = asking => payload?,
        lost = right.lost() => return Err(lost),
    };
    Ok(json!({ "payload": BusPayload::from(payload) }))
}

/// The answer that did not fit into an envelope.
async fn read(device: &Named, bulk: Bulk, limit: Duration) -> Result<Vec<u8>, Failure> {
    let late = |_| Failure::new(ErrorKind::TimedOut, "the answer did not arrive in time");
    let read = tokio::time::timeout(limit, bulk.read_all(CALL_BYTES_MAX)).await.map_err(late)?;
    read.map_err(|refusal| device.failure(refusal))
}

async fn list(
    bus: &Arc<Bus>,
    client: &ClientPeer,
    device: &str,
    limit: Option<Duration>,
) -> Result<Vec<BusServiceInfo>, Failure> {
    let device = bus.named(device)?;
    bus.netd.permit(client, DISCOVER, None).await?;
    bus.netd.permit(client, SESSION, Some(device.as_str().to_owned())).await?;
    let (head, deadline) = (Query::List.encode(), limit.unwrap_or(DEADLINE));
    let question = Question { target: Target::Gateway, head, payload: Vec::new(), deadline };
    let answer = bus.ask_remote(&device, question).await?;
    let entries = parse_entries(&answer.body)
        .map_err(|error| Failure::new(ErrorKind::ProtocolError, error.to_string()))?;
    let info = |Entry { service, offers }: Entry| BusServiceInfo {
        service: service.to_string(),
        streams: offers.streams,
        calls: offers.calls,
        topics: offers.topics,
    };
    Ok(entries.into_iter().map(info).collect())
}

fn not_offered(service: &str, what: &str) -> Failure {
    let message =
        format!("this connection does not offer '{service}' for {what}: call ServeBus with \"{what}\" first");
    Failure::new(ErrorKind::NotFound, message)
}

/// Waits for a call, and takes it; what is over by then is passed over.
async fn take(
    bus: &Arc<Bus>,
    offered: &mut Registrations,
    client: &ClientPeer,
    service: &str,
) -> Result<BusCall, Failure> {
    let none = || not_offered(service, "calls");
    let registration = offered.get_mut(service).ok_or_else(none)?;
    registration.check()?;
    let given = &mut registration.given;
    let calls = given.calls.as_mut().ok_or_else(none)?;
    bus.core().taken.retain(&mut given.taken);
    if given.taken.len() >= TAKEN_MAX {
        let message = format!("{TAKEN_MAX} calls were taken and not answered: answer them first");
        return Err(Failure::new(ErrorKind::QuotaExceeded, message));
    }
    loop {
        let Some(pending) = calls.recv().await else { return Err(registration.withdrawn()) };
        let Some((id, call)) = bus.core().taken.take(client.uid, pending) else { continue };
        given.taken.push(id);
        let left = call.deadline.saturating_duration_since(Instant::now());
        return Ok(BusCall {
            id,
            device: call.caller,
            method: call.method,
            payload: call.payload.into(),
            timeout_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        });
    }
}

fn answer_call(
    bus: &Bus,
    client: &ClientPeer,
    id: u64,
    answer: Result<BusPayload, (BusCallError, String)>,
) -> Result<(), Failure> {
    let answer = match answer {
        Ok(payload) if payload.len() > CALL_BYTES_MAX => {
            let message = format!(
                "an answer of {} bytes: at most {CALL_BYTES_MAX} are taken; more goes over a stream",
                payload.len()
            );
            return Err(Failure::new(ErrorKind::TooLarge, message));
        }
        Ok(payload) => Ok(payload.into()),
        Err((error, message)) => Err(refusal(status(error), message)),
    };
    bus.core().taken.answer(client.uid, id, answer)
}

fn status(error: BusCallError) -> Status {
    match error {
        BusCallError::NotFound => Status::NotFound,
        BusCallError::Invalid => Status::Invalid,
        BusCallError::Conflict => Status::Conflict,
        BusCallError::Failed => Status::Failed,
    }
}

async fn await_call(bus: &Bus, client: &ClientPeer, id: u64) -> Result<Value, Failure> {
    let mut end = bus.core().taken.end_of(client.uid, id)?;
    let over = end.wait_for(Option::is_some).await;
    // Whoever could say is gone only when the call is.
    let gone = |_| Failure::new(ErrorKind::NotFound, format!("call {id} is over"));
    Ok(json!({ "end": *over.map_err(gone)? }))
}

fn publish(
    offered: &Registrations,
    service: &str,
    topic: &str,
    payload: BusPayload,
) -> Result<usize, Failure> {
    let none = || not_offered(service, "topics");
    let registration = offered.get(service).ok_or_else(none)?;
    registration.check()?;
    let hub = registration.given.topics.as_ref().ok_or_else(none)?;
    let event = Event { topic: topic.parse().map_err(wrong)?, payload: payload.into() };
    hub.publish(&event).map_err(|error| Failure::new(ErrorKind::TooLarge, error.to_string()))
}

async fn subscribe(
    bus: &Arc<Bus>,
    client: &ClientPeer,
    device: &str,
    service: &str,
    topic: Option<&str>,
    limit: Option<Duration>,
) -> Result<(Named, Subscription, Right), Failure> {
    let topic = topic.map(str::parse).transpose().map_err(wrong)?;
    let (device, service, right) = bus.permitted(client, device, service).await?;
    let head = Subscribe { service, topic }.encode();
    let deadline = limit.unwrap_or(DEADLINE);
    let question = Question { target: Target::Topic, head, payload: Vec::new(), deadline };
    let subscription = bus.subscribe_remote(&device, question).await?;
    Ok((device, subscription, right))
}

/// Sends what is published until the service, or the client, is gone.
async fn deliver(
    connection: &mut Connection,
    device: &Named,
    subscription: &Subscription,
    mut right: Right,
) -> Result<(), Gone> {
    connection.reply(json!({}), true, &[]).await?;
    loop {
        let next = tokio::select! {
            next = subscription.next() => next,
            lost = right.lost() => return connection.fail(&lost).await,
            () = connection.gone() => return Err(Gone::Closed),
        };
        let event = next.and_then(|(lost, body)| {
            let Event { topic, payload } = Event::parse(&body).map_err(unreadable)?;
            Ok(BusPublication { topic: topic.as_str().to_owned(), payload: payload.into(), lost })
        });
        match event {
            Ok(publication) => connection.reply(json!({ "publication": publication }), true, &[]).await?,
            Err(end) => return connection.fail(&device.failure(end)).await,
        }
    }
}

fn unreadable(error: impl std::fmt::Display) -> Refusal {
    refusal(Status::Failed, error.to_string())
}
