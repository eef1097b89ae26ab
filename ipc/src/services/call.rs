//! Calls of `io.netd.services`, parsed into types that cannot be wrong.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bus_remote::{BusCallError, BusOffers, BusPayload};
use crate::call::{BadCall, Fields, Request, TIMEOUT_MAX};

/// The interface file.
pub const INTERFACE: &str = include_str!("../../io.netd.services.varlink");

/// Longest URL: what servers and caches are advised to take at least (RFC 9110, 4.1), and nobody is known to need more.
pub const URL_BYTES_MAX: usize = 8000;
/// Longest validator: an ETag is some 40 bytes.
const VALIDATOR_BYTES_MAX: usize = 1024;
/// Longest name of a root: a file's name (Linux, NAME_MAX).
const ROOT_ID_BYTES_MAX: usize = 255;
/// Longest HOST:PORT: a name of 253 characters and a port.
const TARGET_BYTES_MAX: usize = 260;

/// Longest name of a device or a service, in bytes: the bus's own bound.
const BUS_NAME_BYTES_MAX: usize = 64;
/// Digits of a PIN at most, and of a key.
const PIN_BYTES_MAX: usize = 12;
const KEY_BYTES_MAX: usize = 64;
/// Longest path of a shared file, and key of the state, in bytes: the bus's own bounds.
const BUS_PATH_BYTES_MAX: usize = 192;
const BUS_KEY_BYTES_MAX: usize = 128;
/// Bytes of a SHA-256.
const SHA256_BYTES: usize = 32;
/// The class of a stream whose client names none: in the middle of those that take turns.
pub const BUS_PRIORITY_DEFAULT: u8 = 4;

/// One call, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `org.varlink.service.GetInfo`
    GetInfo,
    /// `org.varlink.service.GetInterfaceDescription`
    GetInterfaceDescription {
        /// Of which interface.
        interface: String,
    },
    /// `io.netd.services.Fetch`
    Fetch {
        /// Of what; not yet understood.
        url: String,
        /// How.
        options: FetchOptions,
    },
    /// `io.netd.services.ListTrust`
    ListTrust,
    /// `io.netd.services.AddTrust`
    AddTrust {
        /// Certificates in PEM; not yet understood.
        pem: String,
    },
    /// `io.netd.services.RemoveTrust`
    RemoveTrust {
        /// The beginning of a digest, or a file's name.
        id: String,
    },
    /// `io.netd.services.CheckTrust`
    CheckTrust {
        /// HOST:PORT; not yet understood.
        target: String,
        /// For connecting and the handshake.
        timeout: Option<Duration>,
    },
    /// `io.netd.services.ListPublished`
    ListPublished,
    /// `io.netd.services.GetBus`
    GetBus,
    /// `io.netd.services.ListBusPeers`
    ListBusPeers,
    /// `io.netd.services.WatchBus`
    WatchBus,
    /// `io.netd.services.ShowBusPin`
    ShowBusPin,
    /// `io.netd.services.PairBus`
    PairBus {
        /// Whose PIN it is.
        device: String,
        /// The digits that it shows.
        pin: String,
    },
    /// `io.netd.services.PinBus`
    PinBus {
        /// Which device.
        device: String,
        /// Its public key.
        key: String,
    },
    /// `io.netd.services.RevokeBus`
    RevokeBus {
        /// Which device.
        device: String,
    },
    /// `io.netd.services.ServeBus`
    ServeBus {
        /// What is offered.
        service: String,
        /// What for.
        offers: BusOffers,
    },
    /// `io.netd.services.AcceptBus`
    AcceptBus {
        /// Of which service.
        service: String,
    },
    /// `io.netd.services.OpenBus`
    OpenBus {
        /// To whom.
        device: String,
        /// To what of it.
        service: String,
        /// Its class.
        priority: u8,
        /// For session and stream.
        timeout: Option<Duration>,
    },
    /// `io.netd.services.TakeBusCall`
    TakeBusCall {
        /// Of which service.
        service: String,
    },
    /// `io.netd.services.AnswerBusCall`
    AnswerBusCall {
        /// Which call.
        id: u64,
        /// With what, or why not.
        answer: Result<BusPayload, (BusCallError, String)>,
    },
    /// `io.netd.services.AwaitBusCall`
    AwaitBusCall {
        /// Which call.
        id: u64,
    },
    /// `io.netd.services.CallBus`
    CallBus {
        /// Whose service.
        device: String,
        /// Which.
        service: String,
        /// Which method of it.
        method: String,
        /// With what.
        payload: BusPayload,
        /// For session and answer.
        timeout: Option<Duration>,
    },
    /// `io.netd.services.PublishBus`
    PublishBus {
        /// As which service.
        service: String,
        /// About what.
        topic: String,
        /// What.
        payload: BusPayload,
    },
    /// `io.netd.services.SubscribeBus`
    SubscribeBus {
        /// Whose service.
        device: String,
        /// Which.
        service: String,
        /// About what; everything if none.
        topic: Option<String>,
        /// For session and beginning.
        timeout: Option<Duration>,
    },
    /// `io.netd.services.ListBusServices`
    ListBusServices {
        /// Whose.
        device: String,
        /// For session and answer.
        timeout: Option<Duration>,
    },
    /// `io.netd.services.GetBusOutcome`
    GetBusOutcome {
        /// Of which stream.
        id: u64,
    },
    /// `io.netd.services.ListBusFiles`
    ListBusFiles {
        /// Of which device.
        device: String,
        /// In which share; none: which shares there are.
        share: Option<String>,
        /// Which directory of it.
        path: String,
        /// How many the caller has already.
        from: u32,
    },
    /// `io.netd.services.StatBusFile`
    StatBusFile {
        /// Which.
        file: BusFilePlace,
        /// Whether its hash is wanted as well.
        hash: bool,
        /// For all of it.
        timeout: Option<Duration>,
    },
    /// `io.netd.services.ReadBusFile`
    ReadBusFile {
        /// Which.
        file: BusFilePlace,
        /// From where on, if the file has this SHA-256; none: from the beginning.
        from: Option<(u64, [u8; SHA256_BYTES])>,
        /// For what is before the first byte.
        timeout: Option<Duration>,
    },
    /// `io.netd.services.GetBusState`
    GetBusState {
        /// Which.
        key: String,
    },
    /// `io.netd.services.PutBusState`
    PutBusState {
        /// Which.
        key: String,
        /// What is written.
        value: BusPayload,
        /// Instead of what; none: whatever is there.
        version: Option<u64>,
    },
    /// `io.netd.services.DeleteBusState`
    DeleteBusState {
        /// Which.
        key: String,
        /// If it has this version; none: whatever it has.
        version: Option<u64>,
    },
    /// `io.netd.services.ListBusState`
    ListBusState {
        /// Which.
        prefix: String,
        /// Only those after this one.
        after: Option<String>,
    },
    /// `io.netd.services.SyncBusState`
    SyncBusState {
        /// Which keys.
        prefix: String,
        /// After which revision.
        since: u64,
        /// Since which revision removals have to be told.
        base: u64,
        /// How long to wait if nothing changed.
        wait: Option<Duration>,
    },
}

/// Where a shared file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusFilePlace {
    /// On which device.
    pub device: String,
    /// In which share.
    pub share: String,
    /// Where in it.
    pub path: String,
}

/// How something is fetched. What is not given is up to netd-services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchOptions {
    /// The rest from this byte on ...
    pub from: Option<u64>,
    /// ... if the resource is still this one.
    pub validator: Option<String>,
    /// The server may compress.
    pub compressed: bool,
    /// Most bytes of the body.
    pub size_max: Option<u64>,
    /// For connecting, names and TLS included.
    pub connect: Option<Duration>,
    /// From the request to the whole head of the answer.
    pub first_byte: Option<Duration>,
    /// For each KiB of the body.
    pub idle: Option<Duration>,
}

impl Call {
    /// Understands a request.
    ///
    /// # Errors
    /// The method does not exist, or a parameter is wrong: the first that is.
    pub fn parse(request: Request) -> Result<Call, BadCall> {
        let (method, mut fields) = request.open()?;
        let call = match method.as_str() {
            "org.varlink.service.GetInfo" => Call::GetInfo,
            "org.varlink.service.GetInterfaceDescription" => {
                Call::GetInterfaceDescription { interface: fields.required("interface")? }
            }
            "io.netd.services.Fetch" => {
                Call::Fetch { url: text(&mut fields, "url", URL_BYTES_MAX)?, options: options(&mut fields)? }
            }
            "io.netd.services.ListTrust" => Call::ListTrust,
            "io.netd.services.AddTrust" => Call::AddTrust { pem: fields.required("pem")? },
            "io.netd.services.RemoveTrust" => {
                Call::RemoveTrust { id: text(&mut fields, "id", ROOT_ID_BYTES_MAX)? }
            }
            "io.netd.services.CheckTrust" => Call::CheckTrust {
                target: text(&mut fields, "target", TARGET_BYTES_MAX)?,
                timeout: timeout(&mut fields, "timeout_ms")?,
            },
            "io.netd.services.ListPublished" => Call::ListPublished,
            "io.netd.services.GetBus" => Call::GetBus,
            "io.netd.services.ListBusPeers" => Call::ListBusPeers,
            "io.netd.services.WatchBus" => Call::WatchBus,
            "io.netd.services.ShowBusPin" => Call::ShowBusPin,
            "io.netd.services.PairBus" => Call::PairBus {
                device: bus_name(&mut fields, "device")?,
                pin: text(&mut fields, "pin", PIN_BYTES_MAX)?,
            },
            "io.netd.services.PinBus" => Call::PinBus {
                device: bus_name(&mut fields, "device")?,
                key: text(&mut fields, "key", KEY_BYTES_MAX)?,
            },
            "io.netd.services.RevokeBus" => Call::RevokeBus { device: bus_name(&mut fields, "device")? },
            "io.netd.services.ServeBus" => {
                Call::ServeBus { service: bus_name(&mut fields, "service")?, offers: offers(&mut fields)? }
            }
            "io.netd.services.AcceptBus" => Call::AcceptBus { service: bus_name(&mut fields, "service")? },
            "io.netd.services.OpenBus" => Call::OpenBus {
                device: bus_name(&mut fields, "device")?,
                service: bus_name(&mut fields, "service")?,
                priority: fields.optional("priority")?.unwrap_or(BUS_PRIORITY_DEFAULT),
                timeout: timeout(&mut fields, "timeout_ms")?,
            },
            "io.netd.services.TakeBusCall" => {
                Call::TakeBusCall { service: bus_name(&mut fields, "service")? }
            }
            "io.netd.services.AnswerBusCall" => {
                Call::AnswerBusCall { id: fields.required("id")?, answer: bus_answer(&mut fields)? }
            }
            "io.netd.services.AwaitBusCall" => Call::AwaitBusCall { id: fields.required("id")? },
            "io.netd.services.CallBus" => Call::CallBus {
                device: bus_name(&mut fields, "device")?,
                service: bus_name(&mut fields, "service")?,
                method: bus_name(&mut fields, "method")?,
                payload: fields.optional("payload")?.unwrap_or_default(),
                timeout: timeout(&mut fields, "timeout_ms")?,
            },
            "io.netd.services.PublishBus" => Call::PublishBus {
                service: bus_name(&mut fields, "service")?,
                topic: bus_name(&mut fields, "topic")?,
                payload: fields.optional("payload")?.unwrap_or_default(),
            },
            "io.netd.services.SubscribeBus" => Call::SubscribeBus {
                device: bus_name(&mut fields, "device")?,
                service: bus_name(&mut fields, "service")?,
                topic: optional_bus_name(&mut fields, "topic")?,
                timeout: timeout(&mut fields, "timeout_ms")?,
            },
            "io.netd.services.ListBusServices" => Call::ListBusServices {
                device: bus_name(&mut fields, "device")?,
                timeout: timeout(&mut fields, "timeout_ms")?,
            },
            "io.netd.services.GetBusOutcome" => Call::GetBusOutcome { id: fields.required("id")? },
            "io.netd.services.ListBusFiles" => Call::ListBusFiles {
                device: bus_name(&mut fields, "device")?,
                share: optional_text(&mut fields, "share", BUS_NAME_BYTES_MAX)?,
                path: optional_text(&mut fields, "path", BUS_PATH_BYTES_MAX)?.unwrap_or_default(),
                from: fields.optional("from")?.unwrap_or(0),
            },
            "io.netd.services.StatBusFile" => Call::StatBusFile {
                file: bus_file(&mut fields)?,
                hash: fields.optional("hash")?.unwrap_or(false),
                timeout: timeout(&mut fields, "timeout_ms")?,
            },
            "io.netd.services.ReadBusFile" => Call::ReadBusFile {
                file: bus_file(&mut fields)?,
                from: read_from(&mut fields)?,
                timeout: timeout(&mut fields, "timeout_ms")?,
            },
            "io.netd.services.GetBusState" => {
                Call::GetBusState { key: text(&mut fields, "key", BUS_KEY_BYTES_MAX)? }
            }
            "io.netd.services.PutBusState" => Call::PutBusState {
                key: text(&mut fields, "key", BUS_KEY_BYTES_MAX)?,
                value: fields.required("value")?,
                version: fields.optional("version")?,
            },
            "io.netd.services.DeleteBusState" => Call::DeleteBusState {
                key: text(&mut fields, "key", BUS_KEY_BYTES_MAX)?,
                version: fields.optional("version")?,
            },
            "io.netd.services.ListBusState" => Call::ListBusState {
                prefix: text(&mut fields, "prefix", BUS_KEY_BYTES_MAX)?,
                after: optional_text(&mut fields, "after", BUS_KEY_BYTES_MAX)?,
            },
            "io.netd.services.SyncBusState" => Call::SyncBusState {
                prefix: text(&mut fields, "prefix", BUS_KEY_BYTES_MAX)?,
                since: fields.required("since")?,
                base: fields.required("base")?,
                wait: timeout(&mut fields, "wait_ms")?,
            },
            _ => return Err(not_found(method)),
        };
        fields.finish()?;
        Ok(call)
    }
}

fn options(fields: &mut Fields) -> Result<FetchOptions, BadCall> {
    let from = fields.optional("from")?;
    let validator = match from {
        // Without one, nobody could say whether the two halves belong together.
        Some(_) => Some(text(fields, "validator", VALIDATOR_BYTES_MAX)?),
        None => fields.optional("validator")?,
    };
    Ok(FetchOptions {
        from,
        validator,
        compressed: fields.optional("compressed")?.unwrap_or(false),
        size_max: fields.optional("size_max")?,
        connect: timeout(fields, "connect_ms")?,
        first_byte: timeout(fields, "first_byte_ms")?,
        idle: timeout(fields, "idle_ms")?,
    })
}

fn text(fields: &mut Fields, name: &str, most: usize) -> Result<String, BadCall> {
    let text: String = fields.required(name)?;
    if text.len() > most { Err(BadCall::InvalidParameter(name.to_owned())) } else { Ok(text) }
}

fn bus_name(fields: &mut Fields, name: &str) -> Result<String, BadCall> {
    text(fields, name, BUS_NAME_BYTES_MAX)
}

fn optional_bus_name(fields: &mut Fields, name: &str) -> Result<Option<String>, BadCall> {
    let text: Option<String> = fields.optional(name)?;
    let fits = text.as_ref().is_none_or(|text| text.len() <= BUS_NAME_BYTES_MAX);
    if fits { Ok(text) } else { Err(BadCall::InvalidParameter(name.to_owned())) }
}

/// What a service is offered for: streams, unless something else is said.
fn offers(fields: &mut Fields) -> Result<BusOffers, BadCall> {
    let calls = fields.optional("calls")?.unwrap_or(false);
    let topics = fields.optional("topics")?.unwrap_or(false);
    let streams = fields.optional("streams")?.unwrap_or(!calls && !topics);
    let offers = BusOffers { streams, calls, topics };
    if offers == BusOffers::default() {
        Err(BadCall::InvalidParameter("streams".to_owned()))
    } else {
        Ok(offers)
    }
}

/// A payload, or an error with its message.
fn bus_answer(fields: &mut Fields) -> Result<Result<BusPayload, (BusCallError, String)>, BadCall> {
    let payload: Option<BusPayload> = fields.optional("payload")?;
    let error: Option<BusCallError> = fields.optional("error")?;
    let message: Option<String> = fields.optional("message")?;
    match (payload, error) {
        (Some(_), Some(_)) => Err(BadCall::InvalidParameter("error".to_owned())),
        (payload, None) => Ok(Ok(payload.unwrap_or_default())),
        (None, Some(error)) => Ok(Err((error, message.unwrap_or_default()))),
    }
}

fn optional_text(fields: &mut Fields, name: &str, most: usize) -> Result<Option<String>, BadCall> {
    let text: Option<String> = fields.optional(name)?;
    match text {
        Some(text) if text.len() > most => Err(BadCall::InvalidParameter(name.to_owned())),
        text => Ok(text),
    }
}

fn bus_file(fields: &mut Fields) -> Result<BusFilePlace, BadCall> {
    Ok(BusFilePlace {
        device: bus_name(fields, "device")?,
        share: bus_name(fields, "share")?,
        path: text(fields, "path", BUS_PATH_BYTES_MAX)?,
    })
}

/// Where to go on, which makes sense only in the file that was begun with.
fn read_from(fields: &mut Fields) -> Result<Option<(u64, [u8; SHA256_BYTES])>, BadCall> {
    let Some(offset) = fields.optional("offset")? else {
        return match fields.optional::<String>("sha256")? {
            None => Ok(None),
            Some(_) => Err(BadCall::InvalidParameter("offset".to_owned())),
        };
    };
    let digits: String = fields.required("sha256")?;
    let wrong = || BadCall::InvalidParameter("sha256".to_owned());
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| wrong())?;
    Ok(Some((offset, bytes.try_into().map_err(|_| wrong())?)))
}

fn timeout(fields: &mut Fields, name: &str) -> Result<Option<Duration>, BadCall> {
    match fields.optional(name)?.map(Duration::from_millis) {
        Some(timeout) if timeout.is_zero() || timeout > TIMEOUT_MAX => {
            Err(BadCall::InvalidParameter(name.to_owned()))
        }
        timeout => Ok(timeout),
    }
}

fn not_found(method: String) -> BadCall {
    match method.rsplit_once('.') {
        Some(("io.netd.services" | "org.varlink.service", _)) | None => BadCall::MethodNotFound(method),
        Some((interface, _)) => BadCall::InterfaceNotFound(interface.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(method: &str, parameters: &serde_json::Value) -> Result<Call, BadCall> {
        Call::parse(serde_json::from_value(json!({ "method": method, "parameters": parameters })).unwrap())
    }

    #[test]
    fn parse_of_fetch_takes_every_parameter_of_the_interface_file() {
        let parameters = json!({
            "url": "http://a.example/", "from": 5, "validator": "\"x\"", "compressed": true, "size_max": 9,
            "connect_ms": 1, "first_byte_ms": 2, "idle_ms": 3,
        });
        let options = FetchOptions {
            from: Some(5),
            validator: Some("\"x\"".into()),
            compressed: true,
            size_max: Some(9),
            connect: Some(Duration::from_millis(1)),
            first_byte: Some(Duration::from_millis(2)),
            idle: Some(Duration::from_millis(3)),
        };
        assert_eq!(
            parse("io.netd.services.Fetch", &parameters),
            Ok(Call::Fetch { url: "http://a.example/".into(), options })
        );
        let declared = INTERFACE.split_once("method Fetch(").unwrap().1.split_once(')').unwrap().0;
        for line in declared.lines().filter_map(|line| line.trim().split_once(':')) {
            assert!(parameters.get(line.0).is_some(), "{}", line.0);
        }
    }

    #[test]
    fn parse_of_nonsense_names_it() {
        let wrong = |name: &str| Err(BadCall::InvalidParameter(name.to_owned()));
        let fetch = |parameters: serde_json::Value| parse("io.netd.services.Fetch", &parameters);
        assert_eq!(fetch(json!({})), wrong("url"));
        assert_eq!(fetch(json!({ "url": "x".repeat(URL_BYTES_MAX + 1) })), wrong("url"));
        assert_eq!(fetch(json!({ "url": "x", "from": 1 })), wrong("validator"));
        assert_eq!(fetch(json!({ "url": "x", "idle_ms": 0 })), wrong("idle_ms"));
        assert_eq!(fetch(json!({ "url": "x", "proxy": "y" })), wrong("proxy"));
        let none = "io.netd.services.Fly";
        assert_eq!(parse(none, &json!({})), Err(BadCall::MethodNotFound(none.to_owned())));
        assert_eq!(parse("io.netd.Fly", &json!({})), Err(BadCall::InterfaceNotFound("io.netd".to_owned())));
    }

    #[test]
    fn parse_of_methods_takes_the_parameters_of_the_interface_file() {
        let second = Some(Duration::from_secs(1));
        for (method, parameters, call) in [
            ("ListTrust", json!({}), Call::ListTrust),
            ("AddTrust", json!({ "pem": "x" }), Call::AddTrust { pem: "x".into() }),
            ("RemoveTrust", json!({ "id": "ab12" }), Call::RemoveTrust { id: "ab12".into() }),
            (
                "CheckTrust",
                json!({ "target": "a.example:443", "timeout_ms": 1000 }),
                Call::CheckTrust { target: "a.example:443".into(), timeout: second },
            ),
            ("ListPublished", json!({}), Call::ListPublished),
            ("GetBus", json!({}), Call::GetBus),
            ("ListBusPeers", json!({}), Call::ListBusPeers),
            ("WatchBus", json!({}), Call::WatchBus),
            ("ShowBusPin", json!({}), Call::ShowBusPin),
            (
                "PairBus",
                json!({ "device": "hub", "pin": "123456" }),
                Call::PairBus { device: "hub".into(), pin: "123456".into() },
            ),
            (
                "PinBus",
                json!({ "device": "hub", "key": "ab" }),
                Call::PinBus { device: "hub".into(), key: "ab".into() },
            ),
            ("RevokeBus", json!({ "device": "hub" }), Call::RevokeBus { device: "hub".into() }),
            (
                "ServeBus",
                json!({ "service": "chat", "streams": true, "calls": true, "topics": false }),
                Call::ServeBus {
                    service: "chat".into(),
                    offers: BusOffers { streams: true, calls: true, topics: false },
                },
            ),
            ("TakeBusCall", json!({ "service": "chat" }), Call::TakeBusCall { service: "chat".into() }),
            ("AwaitBusCall", json!({ "id": 7 }), Call::AwaitBusCall { id: 7 }),
            (
                "CallBus",
                json!({ "device": "hub", "service": "lamp", "method": "on", "payload": "aGk=", "timeout_ms": 1000 }),
                Call::CallBus {
                    device: "hub".into(),
                    service: "lamp".into(),
                    method: "on".into(),
                    payload: b"hi".to_vec().into(),
                    timeout: second,
                },
            ),
            (
                "PublishBus",
                json!({ "service": "lamp", "topic": "heat", "payload": "aGk=" }),
                Call::PublishBus {
                    service: "lamp".into(),
                    topic: "heat".into(),
                    payload: b"hi".to_vec().into(),
                },
            ),
            (
                "SubscribeBus",
                json!({ "device": "hub", "service": "lamp", "topic": "heat", "timeout_ms": 1000 }),
                Call::SubscribeBus {
                    device: "hub".into(),
                    service: "lamp".into(),
                    topic: Some("heat".into()),
                    timeout: second,
                },
            ),
            (
                "ListBusServices",
                json!({ "device": "hub", "timeout_ms": 1000 }),
                Call::ListBusServices { device: "hub".into(), timeout: second },
            ),
            ("AcceptBus", json!({ "service": "chat" }), Call::AcceptBus { service: "chat".into() }),
            (
                "OpenBus",
                json!({ "device": "hub", "service": "chat", "priority": 1, "timeout_ms": 1000 }),
                Call::OpenBus { device: "hub".into(), service: "chat".into(), priority: 1, timeout: second },
            ),
            ("GetBusOutcome", json!({ "id": 7 }), Call::GetBusOutcome { id: 7 }),
            (
                "ListBusFiles",
                json!({ "device": "hub", "share": "s", "path": "a", "from": 3 }),
                Call::ListBusFiles {
                    device: "hub".into(),
                    share: Some("s".into()),
                    path: "a".into(),
                    from: 3,
                },
            ),
            (
                "StatBusFile",
                json!({ "device": "hub", "share": "s", "path": "a", "hash": true, "timeout_ms": 1000 }),
                Call::StatBusFile { file: place(), hash: true, timeout: second },
            ),
            (
                "ReadBusFile",
                json!({
                    "device": "hub", "share": "s", "path": "a", "offset": 5, "sha256": "Ab".repeat(32), "timeout_ms": 1000,
                }),
                Call::ReadBusFile { file: place(), from: Some((5, [0xab; 32])), timeout: second },
            ),
            ("GetBusState", json!({ "key": "/k" }), Call::GetBusState { key: "/k".into() }),
            (
                "PutBusState",
                json!({ "key": "/k", "value": "AP8=", "version": 0 }),
                Call::PutBusState { key: "/k".into(), value: vec![0, 255].into(), version: Some(0) },
            ),
            (
                "DeleteBusState",
                json!({ "key": "/k", "version": 7 }),
                Call::DeleteBusState { key: "/k".into(), version: Some(7) },
            ),
            (
                "ListBusState",
                json!({ "prefix": "/k/", "after": "/k/a" }),
                Call::ListBusState { prefix: "/k/".into(), after: Some("/k/a".into()) },
            ),
            (
                "SyncBusState",
                json!({ "prefix": "/k/", "since": 5, "base": 4, "wait_ms": 1000 }),
                Call::SyncBusState { prefix: "/k/".into(), since: 5, base: 4, wait: second },
            ),
        ] {
            assert_eq!(parse(&format!("io.netd.services.{method}"), &parameters), Ok(call));
            let declared = INTERFACE.split_once(&format!("method {method}(")).unwrap().1;
            let declared = declared.split_once(')').unwrap().0.split(',').filter(|part| !part.is_empty());
            for field in declared {
                let name = field.split_once(':').unwrap().0.trim();
                assert!(parameters.get(name).is_some(), "{method}: {name}");
            }
        }
        let long = json!({ "device": "x".repeat(BUS_NAME_BYTES_MAX + 1) });
        let wrong = Err(BadCall::InvalidParameter("device".to_owned()));
        assert_eq!(parse("io.netd.services.RevokeBus", &long), wrong);
        let long = json!({ "id": "x".repeat(ROOT_ID_BYTES_MAX + 1) });
        let wrong = Err(BadCall::InvalidParameter("id".to_owned()));
        assert_eq!(parse("io.netd.services.RemoveTrust", &long), wrong);
    }

    fn place() -> BusFilePlace {
        BusFilePlace { device: "hub".into(), share: "s".into(), path: "a".into() }
    }

    #[test]
    fn parse_of_files_and_state_that_make_no_sense_names_what_is_wrong() {
        let file = |more: serde_json::Value| {
            let mut parameters = json!({ "device": "hub", "share": "s", "path": "a" });
            parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            parse("io.netd.services.ReadBusFile", &parameters)
        };
        let wrong = |name: &str| Err(BadCall::InvalidParameter(name.to_owned()));
        assert_eq!(file(json!({})), Ok(Call::ReadBusFile { file: place(), from: None, timeout: None }));
        assert_eq!(file(json!({ "offset": 1 })), wrong("sha256"));
        assert_eq!(file(json!({ "offset": 1, "sha256": "ab" })), wrong("sha256"));
        assert_eq!(file(json!({ "sha256": "ab".repeat(32) })), wrong("offset"));
        assert_eq!(file(json!({ "path": "x".repeat(193) })), wrong("path"));
        let put = |value: &str| parse("io.netd.services.PutBusState", &json!({ "key": "k", "value": value }));
        assert_eq!(put("A"), wrong("value"));
        let long = json!({ "key": "x".repeat(BUS_KEY_BYTES_MAX + 1) });
        assert_eq!(parse("io.netd.services.GetBusState", &long), wrong("key"));
    }

    #[test]
    fn service_is_offered_for_streams_unless_something_else_is_said() {
        let parse = |parameters: serde_json::Value| parse("io.netd.services.ServeBus", &parameters);
        let of = |streams, calls, topics| {
            let offers = BusOffers { streams, calls, topics };
            Ok(Call::ServeBus { service: "a".into(), offers })
        };
        assert_eq!(parse(json!({ "service": "a" })), of(true, false, false));
        assert_eq!(parse(json!({ "service": "a", "topics": true })), of(false, false, true));
        let nothing = Err(BadCall::InvalidParameter("streams".to_owned()));
        assert_eq!(parse(json!({ "service": "a", "streams": false })), nothing);
    }

    #[test]
    fn call_is_answered_with_a_payload_or_an_error_and_not_with_both() {
        let parse = |parameters: serde_json::Value| parse("io.netd.services.AnswerBusCall", &parameters);
        let answer = |answer| Ok(Call::AnswerBusCall { id: 7, answer });
        assert_eq!(parse(json!({ "id": 7 })), answer(Ok(BusPayload::default())));
        assert_eq!(parse(json!({ "id": 7, "payload": "aGk=" })), answer(Ok(b"hi".to_vec().into())));
        let refused = Err((BusCallError::NotFound, "no such method".to_owned()));
        assert_eq!(
            parse(json!({ "id": 7, "error": "not_found", "message": "no such method" })),
            answer(refused)
        );
        let wrong = |name: &str| Err(BadCall::InvalidParameter(name.to_owned()));
        assert_eq!(parse(json!({ "id": 7, "payload": "", "error": "failed" })), wrong("error"));
        assert_eq!(parse(json!({ "id": 7, "payload": "no base64" })), wrong("payload"));
        assert_eq!(parse(json!({ "id": 7, "error": "tired" })), wrong("error"));
    }

    #[test]
    fn errors_are_those_of_the_interface_file() {
        let declared: Vec<&str> =
            INTERFACE.lines().filter_map(|line| line.strip_prefix("error ")?.split(' ').next()).collect();
        let known: Vec<&str> = super::super::ErrorKind::ALL.map(super::super::ErrorKind::name).to_vec();
        assert_eq!(declared, known);
    }
}
