//! Calls and topics of the bus, for a blocking client.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::bus_client::{BusService, OPEN_TIMEOUT, PATIENCE};
use super::bus_remote::{BusCall, BusCallEnd, BusCallError, BusPayload, BusPublication, BusServiceInfo};
use super::client::{ANSWER_TIMEOUT, Client, object, protocol, returned};
use super::error::Error;
use crate::client::connection::Connection;
use crate::client::milliseconds;

impl Client {
    /// Calls a method of a device's service, and waits for the answer; `loopback` is this machine. Takes dsoftbus.session.open and
    /// dsoftbus.rpc.call.
    ///
    /// # Errors
    /// As [`ask`](Self::ask): among others `NotFound` (no such service or method), `CallFailed` (in its own words), `Gone` (whoever was to answer
    /// went away), `TimedOut`, and `QuotaExceeded` (too much is asked there).
    pub fn call_bus(
        &self,
        device: &str,
        service: &str,
        method: &str,
        payload: &[u8],
        timeout: Option<Duration>,
    ) -> Result<Vec<u8>, Error> {
        #[derive(Deserialize)]
        struct Reply {
            payload: BusPayload,
        }
        let parameters = json!({
            "device": device,
            "service": service,
            "method": method,
            "payload": BusPayload::from(payload.to_vec()),
            "timeout_ms": timeout.map(milliseconds),
        });
        let within = timeout.unwrap_or(OPEN_TIMEOUT) + ANSWER_TIMEOUT;
        self.ask_within(within, "CallBus", parameters).map(|Reply { payload }| payload.into())
    }

    /// What a device has for this one, asked of the device itself. Takes dsoftbus.discover and dsoftbus.session.open.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn bus_services(
        &self,
        device: &str,
        timeout: Option<Duration>,
    ) -> Result<Vec<BusServiceInfo>, Error> {
        #[derive(Deserialize)]
        struct Reply {
            services: Vec<BusServiceInfo>,
        }
        let parameters = json!({ "device": device, "timeout_ms": timeout.map(milliseconds) });
        let within = timeout.unwrap_or(OPEN_TIMEOUT) + ANSWER_TIMEOUT;
        self.ask_within(within, "ListBusServices", parameters).map(|Reply { services }| services)
    }

    /// Subscribes to what a device's service publishes, about one topic or about everything. Takes what [`call_bus`](Self::call_bus) takes.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn subscribe_bus(
        &self,
        device: &str,
        service: &str,
        topic: Option<&str>,
    ) -> Result<BusSubscription, Error> {
        let mut connection = self.open()?;
        let parameters = json!({ "device": device, "service": service, "topic": topic });
        connection.begin("io.netd.services.SubscribeBus", object(parameters), ANSWER_TIMEOUT)?;
        let mut subscription = BusSubscription { connection };
        match subscription.next(OPEN_TIMEOUT + ANSWER_TIMEOUT)? {
            None => Ok(subscription),
            Some(_) => Err(protocol("a publication before the subscription began")),
        }
    }

    /// Waits until a call that a service of this user took is over; how, or none if it has been for a while.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn await_bus_call(&self, id: u64) -> Result<Option<BusCallEnd>, Error> {
        #[derive(Deserialize)]
        struct Reply {
            end: BusCallEnd,
        }
        match self.ask_within(PATIENCE, "AwaitBusCall", json!({ "id": id })) {
            Ok(Reply { end }) => Ok(Some(end)),
            Err(error) if error.kind() == Some(super::ErrorKind::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl BusService {
    /// Waits for a call. It was offered with `calls`.
    ///
    /// # Errors
    /// As [`Client::ask`]; after one that is no `QuotaExceeded` the service is not offered any more.
    pub fn next_call(&mut self) -> Result<BusCall, Error> {
        #[derive(Deserialize)]
        struct Reply {
            call: BusCall,
        }
        let parameters = object(json!({ "service": self.service }));
        let (response, _) = self.connection.call("io.netd.services.TakeBusCall", parameters, PATIENCE)?;
        returned(response).map(|Reply { call }| call)
    }

    /// Answers a call: with a payload, or with an error and a message for people.
    ///
    /// # Errors
    /// As [`Client::ask`]: `NotFound` if the call is over by now, after which others can be taken.
    pub fn answer(&mut self, id: u64, answer: Result<&[u8], (BusCallError, &str)>) -> Result<(), Error> {
        let parameters = match answer {
            Ok(payload) => json!({ "id": id, "payload": BusPayload::from(payload.to_vec()) }),
            Err((error, message)) => json!({ "id": id, "error": error, "message": message }),
        };
        let method = "io.netd.services.AnswerBusCall";
        let (response, _) = self.connection.call(method, object(parameters), ANSWER_TIMEOUT)?;
        returned::<Value>(response).map(drop)
    }

    /// Publishes something: how many wanted it. It was offered with `topics`.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn publish(&mut self, topic: &str, payload: &[u8]) -> Result<usize, Error> {
        #[derive(Deserialize)]
        struct Reply {
            subscribers: usize,
        }
        let payload = BusPayload::from(payload.to_vec());
        let parameters = object(json!({ "service": self.service, "topic": topic, "payload": payload }));
        let (response, _) =
            self.connection.call("io.netd.services.PublishBus", parameters, ANSWER_TIMEOUT)?;
        returned(response).map(|Reply { subscribers }| subscribers)
    }
}

/// What a service publishes. It ends when this is dropped.
#[derive(Debug)]
pub struct BusSubscription {
    connection: Connection,
}

impl BusSubscription {
    /// Waits for the next publication.
    ///
    /// # Errors
    /// As [`Client::ask`]: `Gone` when the service is.
    pub fn next_publication(&mut self) -> Result<BusPublication, Error> {
        loop {
            if let Some(publication) = self.next(PATIENCE)? {
                return Ok(publication);
            }
        }
    }

    fn next(&mut self, within: Duration) -> Result<Option<BusPublication>, Error> {
        #[derive(Deserialize)]
        struct Reply {
            publication: Option<BusPublication>,
        }
        let (response, _) = self.connection.next(within)?;
        let ended = !response.continues && response.error.is_none();
        match returned::<Reply>(response)?.publication {
            None if ended => Err(protocol("netd-services ended the subscription")),
            publication => Ok(publication),
        }
    }
}
