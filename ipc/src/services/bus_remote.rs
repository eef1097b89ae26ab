//! Types of the calls about calls and topics of the bus.

use std::ops::Deref;

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest payload of a call and of its answer.
pub const CALL_BYTES_MAX: usize = 32 * 1024;
/// The longest payload of what is published.
pub const PUBLICATION_BYTES_MAX: usize = 4031;

/// What a service is offered for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BusOffers {
    /// Streams can be opened to it.
    pub streams: bool,
    /// It answers calls.
    pub calls: bool,
    /// It publishes.
    pub topics: bool,
}

/// Bytes that travel in JSON as base64 (RFC 4648, 4).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct BusPayload(Vec<u8>);

impl From<Vec<u8>> for BusPayload {
    fn from(bytes: Vec<u8>) -> BusPayload {
        BusPayload(bytes)
    }
}

impl From<BusPayload> for Vec<u8> {
    fn from(payload: BusPayload) -> Vec<u8> {
        payload.0
    }
}

impl Deref for BusPayload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for BusPayload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for BusPayload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<BusPayload, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = |error| de::Error::custom(format!("a payload that is no base64: {error}"));
        BASE64.decode(text.as_bytes()).map(BusPayload).map_err(wrong)
    }
}

/// A call that waits for an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusCall {
    /// Its number, for the answer.
    pub id: u64,
    /// Whose client calls; `loopback` for this machine's.
    pub device: String,
    /// Which method.
    pub method: String,
    /// With what.
    pub payload: BusPayload,
    /// What is left of its time.
    pub timeout_ms: u64,
}

/// Why a call is not answered with a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusCallError {
    /// There is no such method, or not what it is about.
    NotFound,
    /// What it was given cannot be meant.
    Invalid,
    /// It is not as the caller supposes.
    Conflict,
    /// It could not be done.
    Failed,
}

/// How a call that was taken ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusCallEnd {
    /// It was answered.
    Answered,
    /// Its caller gave up.
    Cancelled,
    /// Nobody answered in time.
    DeadlinePassed,
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusPublication {
    /// About what.
    pub topic: String,
    /// What.
    pub payload: BusPayload,
    /// How many were dropped before it.
    pub lost: u32,
}

/// What a service can be used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusServiceInfo {
    /// Which.
    pub service: String,
    /// Streams can be opened to it.
    pub streams: bool,
    /// It answers calls.
    pub calls: bool,
    /// It publishes.
    pub topics: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn payload_is_base64_in_json_and_nothing_else_is_one() {
        for bytes in [&b""[..], b"\0", b"hi", &[0xff; 100]] {
            let payload = BusPayload::from(bytes.to_vec());
            let value = serde_json::to_value(&payload).unwrap();
            assert_eq!(serde_json::from_value::<BusPayload>(value).unwrap(), payload);
        }
        assert_eq!(serde_json::to_value(BusPayload::from(b"hi".to_vec())).unwrap(), json!("aGk="));
        for wrong in [json!("aGk"), json!("a b="), json!(7), json!(null)] {
            assert!(serde_json::from_value::<BusPayload>(wrong).is_err());
        }
    }
}
