//! Calls: a method of a service, with a payload, answered with one.

use alloc::vec::Vec;

use crate::error::Error;
use crate::name::{MethodName, ServiceName};
use crate::read::Reader;

/// The head of a request for [`Target::Call`](super::Target::Call): two names, their lengths in front. The call's payload is the
/// request's, the answer's that of the reply: in its body up to [`BODY_BYTES_MAX`](super::BODY_BYTES_MAX), on a carrier beyond that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Of which service.
    pub service: ServiceName,
    /// Which method.
    pub method: MethodName,
}

impl Call {
    /// As a request has it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_name(&mut bytes, self.service.as_str());
        push_name(&mut bytes, self.method.as_str());
        bytes
    }

    /// What a peer asked.
    ///
    /// # Errors
    /// It is no call.
    pub fn parse(head: &[u8]) -> Result<Call, Error> {
        let mut reader = Reader::new("call", head);
        let service = ServiceName::from_bytes(reader.short("service")?)?;
        let method = MethodName::from_bytes(reader.short("method")?)?;
        reader.end()?;
        Ok(Call { service, method })
    }
}

/// A name with its length, which is at most [`NAME_BYTES_MAX`](crate::NAME_BYTES_MAX), in front.
pub(super) fn push_name(bytes: &mut Vec<u8>, name: &str) {
    bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    bytes.extend(name.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn call_encoded_is_read_as_it_was(service in "\\PC{1,16}", method in "\\PC{1,16}") {
            let call = Call { service: service.parse().unwrap(), method: method.parse().unwrap() };
            let encoded = call.encode();
            prop_assert_eq!(Call::parse(&encoded), Ok(call));
            for at in 0..encoded.len() {
                prop_assert!(Call::parse(&encoded[..at]).is_err());
            }
        }

        #[test]
        fn bytes_of_any_kind_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(call) = Call::parse(&bytes) {
                prop_assert_eq!(call.encode(), bytes);
            }
        }
    }

    #[test]
    fn call_of_the_longest_names_leaves_room_for_a_carrier() {
        let name = "x".repeat(crate::NAME_BYTES_MAX);
        let call = Call { service: name.parse().unwrap(), method: name.parse().unwrap() };
        assert!(super::super::Request::fits(call.encode().len(), 8));
    }

    #[test]
    fn call_without_a_method_or_with_more_than_one_is_refused() {
        assert!(Call::parse(b"\x05video\x00").is_err());
        assert_eq!(
            Call::parse(b"\x05video\x04stop\x00"),
            Err(Error::TrailingBytes { message: "call", count: 1 })
        );
    }
}
