//! One DNS query over a UDP socket of netd (RFC 1035).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use netd_ipc::{Client, ErrorKind, UdpSocket};

/// Where name servers listen.
const PORT: u16 = 53;
/// How often the query is sent, and how long each time its answer may take.
const TRIES: u32 = 3;
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer without EDNS (RFC 1035, 4.2.1).
const ANSWER_BYTES_MAX: usize = 512;

/// What the server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// An address.
    Address(IpAddr),
    /// No address, with this code.
    None(ResponseCode),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Client(#[from] netd_ipc::Error),
    #[error("'{0}' is not a domain name")]
    Name(String),
    #[error("the query cannot be written: {0}")]
    Encode(String),
    #[error("{0} did not answer {TRIES} queries")]
    Silent(IpAddr),
}

/// Asks `server` for the IPv4 address of `name`.
pub(super) fn address_of(client: &Client, server: IpAddr, name: &str) -> Result<Answer, Failure> {
    let mut name = Name::from_ascii(name).map_err(|_| Failure::Name(name.to_owned()))?;
    name.set_fqdn(true);
    let query = query(name);
    let bytes = query.to_vec().map_err(|error| Failure::Encode(error.to_string()))?;
    let server = SocketAddr::new(server, PORT);
    let socket = client.udp_bind(None)?;
    for _ in 0..TRIES {
        socket.send_to(&bytes, server)?;
        socket.set_read_deadline(Some(Instant::now() + TRY_TIMEOUT));
        match receive(&socket, server, &query) {
            Err(error) if error.kind() == Some(ErrorKind::TimedOut) => {}
            other => return Ok(other?),
        }
    }
    Err(Failure::Silent(server.ip()))
}

/// A query with a random id.
fn query(name: Name) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, RecordType::A));
    message
}

/// Waits for the answer to `query`, past whatever else arrives.
fn receive(socket: &UdpSocket, server: SocketAddr, query: &Message) -> Result<Answer, netd_ipc::Error> {
    let mut bytes = [0; ANSWER_BYTES_MAX];
    loop {
        let (count, from) = socket.recv_from(&mut bytes)?;
        if from != server {
            continue;
        }
        if let Some(answer) = bytes.get(..count).and_then(|bytes| understand(bytes, query)) {
            return Ok(answer);
        }
    }
}

/// The answer in a message; none if it does not answer `query`.
fn understand(bytes: &[u8], query: &Message) -> Option<Answer> {
    let message = Message::from_vec(bytes).ok()?;
    let answers = message.metadata.id == query.metadata.id
        && message.metadata.message_type == MessageType::Response
        && message.queries == query.queries;
    let address = message.answers.iter().find_map(|record| match record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        _ => None,
    });
    answers.then(|| address.map_or(Answer::None(message.metadata.response_code), Answer::Address))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::A;

    use super::*;

    fn answer(to: &Message) -> Message {
        let mut message = Message::new(to.metadata.id, MessageType::Response, OpCode::Query);
        message.queries.clone_from(&to.queries);
        message
    }

    #[test]
    fn understand_takes_the_address_of_the_answer() {
        let name = Name::from_ascii("example.com.").unwrap();
        let query = query(name.clone());
        let mut message = answer(&query);
        message.answers.push(Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, 5)))));
        let address = Answer::Address(Ipv4Addr::new(192, 0, 2, 5).into());
        assert_eq!(understand(&message.to_vec().unwrap(), &query), Some(address));
    }

    #[test]
    fn understand_tells_no_address_from_no_answer() {
        let query = query(Name::from_ascii("example.com.").unwrap());
        let mut message = answer(&query);
        message.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(
            understand(&message.to_vec().unwrap(), &query),
            Some(Answer::None(ResponseCode::NXDomain))
        );
        message.metadata.id ^= 1;
        assert_eq!(understand(&message.to_vec().unwrap(), &query), None);
        assert_eq!(understand(b"garbage", &query), None);
        assert_eq!(understand(&query.to_vec().unwrap(), &query), None, "a query is no answer");
    }
}
