//! The bus, for a blocking client: who is there, whom to trust, streams and services.

use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::bus::{BusDevice, BusEvent, BusOutcome, BusPeer, BusPin, BusStatus, BusStreamInfo};
use super::bus_remote::BusOffers;
use super::bus_stream::BusStream;
use super::client::{ANSWER_TIMEOUT, Client, object, protocol, returned};
use super::error::Error;
use crate::call::Response;
use crate::client::connection::Connection;
use crate::client::{milliseconds, pick};

/// How long a session and a stream may take unless the caller says otherwise: netd-services' own default.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long somebody who waits for a stream, or for an event, waits at a time; then it asks whether netd-services is there. A day.
pub(super) const PATIENCE: Duration = Duration::from_secs(24 * 3600);

#[derive(Deserialize)]
struct StreamReply {
    stream: BusStreamInfo,
}

impl Client {
    /// The state of the bus.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); so for the calls below.
    pub fn bus(&self) -> Result<BusStatus, Error> {
        #[derive(Deserialize)]
        struct Reply {
            bus: BusStatus,
        }
        self.ask("GetBus", json!({})).map(|Reply { bus }| bus)
    }

    /// The devices on the bus. Takes dsoftbus.discover.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn bus_peers(&self) -> Result<Vec<BusPeer>, Error> {
        #[derive(Deserialize)]
        struct Reply {
            peers: Vec<BusPeer>,
        }
        self.ask("ListBusPeers", json!({})).map(|Reply { peers }| peers)
    }

    /// What happens on the bus from now on. Takes dsoftbus.discover.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); a denial comes with the first event that is asked for.
    pub fn watch_bus(&self) -> Result<BusWatch, Error> {
        let mut connection = self.open()?;
        connection.begin("io.netd.services.WatchBus", object(json!({})), ANSWER_TIMEOUT)?;
        Ok(BusWatch { connection })
    }

    /// Shows a PIN that another device may be paired with. Takes net.trust.manage.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn show_bus_pin(&self) -> Result<BusPin, Error> {
        self.ask("ShowBusPin", json!({}))
    }

    /// Pairs with a device that shows this PIN. Takes net.trust.manage, and dsoftbus.session.open for the device.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn pair_bus(&self, device: &str, pin: &str) -> Result<BusDevice, Error> {
        self.ask_within(OPEN_TIMEOUT + ANSWER_TIMEOUT, "PairBus", json!({ "device": device, "pin": pin }))
    }

    /// Pins a device's key that was learnt elsewhere. Takes net.trust.manage.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn pin_bus(&self, device: &str, key: &str) -> Result<BusDevice, Error> {
        self.ask("PinBus", json!({ "device": device, "key": key }))
    }

    /// Trusts a device and its keys never again. Takes net.trust.manage.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn revoke_bus(&self, device: &str) -> Result<BusDevice, Error> {
        self.ask("RevokeBus", json!({ "device": device }))
    }

    /// Opens a stream to a device's service; `loopback` is this machine. Takes dsoftbus.session.open and dsoftbus.stream.open.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn open_bus(
        &self,
        device: &str,
        service: &str,
        priority: Option<u8>,
        timeout: Option<Duration>,
    ) -> Result<BusStream, Error> {
        let parameters = json!({
            "device": device, "service": service, "priority": priority, "timeout_ms": timeout.map(milliseconds),
        });
        let mut connection = self.open()?;
        let within = timeout.unwrap_or(OPEN_TIMEOUT) + ANSWER_TIMEOUT;
        let reply = connection.call("io.netd.services.OpenBus", object(parameters), within)?;
        stream(self, reply)
    }

    /// Offers a service, to which streams are opened, for as long as what is returned is kept. Takes dsoftbus.share.service.
    ///
    /// # Errors
    /// As [`ask`](Self::ask), and `AlreadyOffered`.
    pub fn serve_bus(&self, service: &str) -> Result<BusService, Error> {
        self.offer_bus(service, BusOffers { streams: true, ..BusOffers::default() })
    }

    /// The same for whatever it can be used for.
    ///
    /// # Errors
    /// As [`ask`](Self::ask), and `AlreadyOffered`.
    pub fn offer_bus(&self, service: &str, offers: BusOffers) -> Result<BusService, Error> {
        let mut connection = self.open()?;
        let BusOffers { streams, calls, topics } = offers;
        let parameters =
            object(json!({ "service": service, "streams": streams, "calls": calls, "topics": topics }));
        let (response, _) = connection.call("io.netd.services.ServeBus", parameters, ANSWER_TIMEOUT)?;
        returned::<Value>(response)?;
        Ok(BusService { client: self.clone(), connection, service: service.to_owned() })
    }

    /// How a stream of this user ended.
    ///
    /// # Errors
    /// As [`ask`](Self::ask), and `NotFound` once it is forgotten.
    pub fn bus_outcome(&self, id: u64) -> Result<BusOutcome, Error> {
        #[derive(Deserialize)]
        struct Reply {
            outcome: BusOutcome,
        }
        self.ask("GetBusOutcome", json!({ "id": id })).map(|Reply { outcome }| outcome)
    }
}

fn stream(
    client: &Client,
    (response, mut descriptors): (Response, Vec<OwnedFd>),
) -> Result<BusStream, Error> {
    let StreamReply { stream } = returned(response)?;
    let socket = pick(&mut descriptors, stream.descriptor)?;
    Ok(BusStream::new(client.clone(), socket, stream))
}

/// A service that is offered. It ends when this is dropped; its streams do not.
#[derive(Debug)]
pub struct BusService {
    client: Client,
    pub(super) connection: Connection,
    pub(super) service: String,
}

impl BusService {
    /// Waits for a stream.
    ///
    /// # Errors
    /// As [`Client::ask`]; after one the service is not offered any more.
    pub fn accept(&mut self) -> Result<BusStream, Error> {
        let parameters = object(json!({ "service": self.service }));
        let reply = self.connection.call("io.netd.services.AcceptBus", parameters, PATIENCE)?;
        stream(&self.client, reply)
    }

    /// What is offered.
    pub fn name(&self) -> &str {
        &self.service
    }
}

/// What happens on the bus.
#[derive(Debug)]
pub struct BusWatch {
    connection: Connection,
}

impl BusWatch {
    /// Waits for the next event.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn next_event(&mut self) -> Result<BusEvent, Error> {
        #[derive(Deserialize)]
        struct Reply {
            event: Option<BusEvent>,
        }
        loop {
            let (response, _) = self.connection.next(PATIENCE)?;
            let ended = !response.continues && response.error.is_none();
            match returned::<Reply>(response)?.event {
                Some(event) => return Ok(event),
                None if ended => return Err(protocol("netd-services ended the watch")),
                // The first reply says that the watch has begun.
                None => {}
            }
        }
    }
}
