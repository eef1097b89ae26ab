//! Scripts with time in them: a resolver, and servers that say what the script wants.

mod hostile;
mod link;
mod search;
mod servers;

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeSet;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{Name as WireName, RData, Record, RecordType};

use super::*;
use crate::time::Instant;

pub(super) fn server(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 53))
}

pub(super) fn config(servers: u8) -> Config {
    Config { servers: (1..=servers).map(server).collect(), ..Config::default() }
}

/// A message that the resolver sent.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) socket: SocketKey,
    pub(super) to: SocketAddr,
    pub(super) message: Message,
    pub(super) is_tcp: bool,
}

impl Sent {
    pub(super) fn name(&self) -> String {
        self.message.queries[0].name.to_ascii().trim_end_matches('.').to_owned()
    }

    pub(super) fn kind(&self) -> RecordType {
        self.message.queries[0].query_type
    }

    /// A response without records.
    pub(super) fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::new(self.message.metadata.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_queries(self.message.queries.iter().cloned());
        message
    }

    /// A response with these records about the name asked for.
    pub(super) fn records(&self, ttl: u32, records: &[RData]) -> Message {
        let mut message = self.response(ResponseCode::NoError);
        for data in records {
            message.add_answer(Record::from_rdata(self.message.queries[0].name.clone(), ttl, data.clone()));
        }
        message
    }

    /// A negative response, provable for `ttl` seconds.
    pub(super) fn negative(&self, code: ResponseCode, zone: &str, ttl: u32) -> Message {
        let mut message = self.response(code);
        let soa = SOA::new(wire_name("ns.example"), wire_name("admin.example"), 1, 2, 3, 4, ttl);
        message.add_authority(Record::from_rdata(wire_name(zone), 86_400, RData::SOA(soa)));
        message
    }
}

pub(super) fn wire_name(text: &str) -> WireName {
    let mut name = WireName::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

pub(super) fn a(last: u8) -> RData {
    RData::A(A::new(198, 51, 100, last))
}

pub(super) fn aaaa(last: u16) -> RData {
    RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last))
}

pub(super) fn cname(target: &str) -> RData {
    RData::CNAME(CNAME(wire_name(target)))
}

pub(super) struct Script {
    pub(super) resolver: Resolver,
    pub(super) now: Instant,
    pub(super) open: BTreeSet<SocketKey>,
}

impl Script {
    pub(super) fn new(config: Config) -> Script {
        Script::seeded(config, 7)
    }

    pub(super) fn seeded(config: Config, seed: u8) -> Script {
        let now = Instant::from_micros(1_000_000_000);
        Script { resolver: Resolver::new(config, [seed; 32]), now, open: BTreeSet::new() }
    }

    pub(super) fn ask(&mut self, name: &str, kind: Kind) -> QueryId {
        self.resolver.start(self.now, &Query { name: name.to_owned(), kind }).unwrap()
    }

    /// The next message sent; closing sockets is noted on the way. Checks that keys open and close once.
    pub(super) fn next_sent(&mut self) -> Option<Sent> {
        while let Some(transmit) = self.resolver.poll_transmit() {
            let (socket, to, payload, is_tcp) = match transmit {
                Transmit::Close { socket } => {
                    assert!(self.open.remove(&socket), "{socket:?} is closed twice");
                    continue;
                }
                Transmit::Udp { socket, server, payload } => {
                    assert!(self.open.insert(socket), "{socket:?} is opened twice");
                    (socket, server, payload, false)
                }
                Transmit::Multicast { socket, group, payload } => {
                    self.open.insert(socket);
                    (socket, group, payload, false)
                }
                Transmit::Tcp { socket, server, payload } => {
                    assert!(self.open.insert(socket), "{socket:?} is opened twice");
                    let (prefix, message) = payload.split_first_chunk().unwrap();
                    assert_eq!(usize::from(u16::from_be_bytes(*prefix)), message.len());
                    (socket, server, message.to_vec(), true)
                }
            };
            let message = Message::from_vec(&payload).unwrap();
            return Some(Sent { socket, to, message, is_tcp });
        }
        None
    }

    pub(super) fn sent(&mut self) -> Sent {
        self.next_sent().expect("a message is sent")
    }

    /// Nothing is sent, and every socket is closed.
    pub(super) fn assert_idle(&mut self) {
        if let Some(sent) = self.next_sent() {
            panic!("{} is sent to {}", sent.name(), sent.to);
        }
        assert!(self.open.is_empty(), "left open: {:?}", self.open);
        assert_eq!(self.resolver.usage().questions, 0);
        assert_eq!(self.resolver.poll_timeout(), None);
    }

    pub(super) fn reply(&mut self, sent: &Sent, message: &Message) {
        self.reply_from(sent, sent.to, message);
    }

    pub(super) fn reply_from(&mut self, sent: &Sent, from: SocketAddr, message: &Message) {
        let bytes = message.to_vec().unwrap();
        if sent.is_tcp {
            let mut framed = (bytes.len() as u16).to_be_bytes().to_vec();
            framed.extend(bytes);
            self.resolver.handle_tcp(self.now, sent.socket, TcpEvent::Bytes(&framed));
        } else {
            self.resolver.handle_udp(self.now, sent.socket, from, &bytes);
        }
    }

    /// Time passes; what is due happens when it is due.
    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.resolver.poll_timeout().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.resolver.poll(self.now);
        }
        self.now = end;
    }

    pub(super) fn wait_ms(&mut self, milliseconds: u64) {
        self.wait(Duration::from_millis(milliseconds));
    }

    pub(super) fn result(&mut self) -> Result<Answer, Error> {
        self.resolver.next_result().expect("a query is finished").1
    }

    pub(super) fn addresses(&mut self) -> Vec<String> {
        self.result().unwrap().addresses().map(|address| address.to_string()).collect()
    }

    pub(super) fn assert_unfinished(&mut self) {
        assert_eq!(self.resolver.next_result(), None);
    }
}
