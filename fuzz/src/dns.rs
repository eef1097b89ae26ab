//! Name servers that say anything, and who forges them: every query ends, every socket is closed, the cache keeps its bounds.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeSet;

use netd_stack::Instant;
use netd_stack::dns::{Config, Hosts, Kind, Query, Resolver, SocketKey, TcpEvent, Transmit};

use crate::input::Input;

/// More than any query may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A query that went out: what an answer has to repeat.
struct Sent {
    socket: SocketKey,
    to: SocketAddr,
    id: [u8; 2],
    /// The question section.
    question: Vec<u8>,
}

struct Script {
    resolver: Resolver,
    now: Instant,
    open: BTreeSet<SocketKey>,
    sent: Vec<Sent>,
    asked: usize,
    answered: usize,
}

const QUERIES: [(&str, Kind); 6] = [
    ("www.example.com", Kind::Addresses),
    ("192.0.2.7", Kind::Ptr),
    ("_ipp._tcp.example.com", Kind::Srv),
    ("txt.example.com", Kind::Txt),
    ("printer.local", Kind::A),
    ("host", Kind::Aaaa),
];

/// Steps: ask, answer `{ which u8, flags u16, counts 3 u8, records len u16 }`, raw bytes, TCP events, errors, waits.
pub fn dns(data: &[u8]) {
    run(data);
}

fn run(data: &[u8]) -> Option<()> {
    let mut script = Script::new();
    let mut input = Input::new(data);
    script.ask(0);
    while script.step(&mut input).is_some() {
        script.collect();
    }
    script.end();
    // The rest of the script once more as a hosts file: the same stranger does not write it, but whoever does may err.
    let _hosts = Hosts::parse(&String::from_utf8_lossy(data));
    Some(())
}

impl Script {
    fn new() -> Script {
        let servers = vec![SocketAddr::from(([192, 0, 2, 1], 53)), SocketAddr::from(([192, 0, 2, 2], 53))];
        let search = vec!["corp.example".parse().expect("a name")];
        let config = Config { servers, search, ..Config::default() };
        let (open, sent, now) = (BTreeSet::new(), Vec::new(), Instant::from_micros(1_000_000));
        Script { resolver: Resolver::new(config, [7; 32]), now, open, sent, asked: 0, answered: 0 }
    }

    fn ask(&mut self, which: u8) {
        let (name, kind) = QUERIES[usize::from(which) % QUERIES.len()];
        let query = Query { name: name.to_owned(), kind };
        self.asked += usize::from(self.resolver.start(self.now, &query).is_ok());
        self.collect();
    }

    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        let step = input.u8()?;
        if step % 16 == 0 {
            self.ask(input.u8()?);
            return Some(());
        }
        if step % 16 == 1 {
            self.wait(Duration::from_millis(u64::from(input.u8()?) * 20));
            return Some(());
        }
        let which = input.u8()?;
        let Some(sent) = self.sent.get(usize::from(which) % self.sent.len().max(1)) else { return Some(()) };
        let (socket, to) = (sent.socket, sent.to);
        match step % 16 {
            2..9 => {
                let message = sent.answer(input)?;
                if step & 0x80 == 0 {
                    self.resolver.handle_udp(self.now, socket, to, &message);
                } else {
                    let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
                    let (head, tail) = framed.split_at(usize::from(which) % framed.len());
                    self.resolver.handle_tcp(self.now, socket, TcpEvent::Bytes(head));
                    self.resolver.handle_tcp(self.now, socket, TcpEvent::Bytes(tail));
                }
            }
            9 => self.resolver.handle_udp(self.now, socket, to, input.long()?),
            10 => self.resolver.handle_udp(
                self.now,
                socket,
                SocketAddr::from(([203, 0, 113, 1], 53)),
                input.short()?,
            ),
            11 => self.resolver.handle_tcp(self.now, socket, TcpEvent::Bytes(input.long()?)),
            12 => self.resolver.handle_tcp(self.now, socket, TcpEvent::Closed),
            13 => self.resolver.handle_tcp(self.now, socket, TcpEvent::Failed),
            14 => self.resolver.handle_udp_error(self.now, socket),
            _ => self.resolver.set_servers(self.now, &[SocketAddr::from(([192, 0, 2, which], 53))]),
        }
        Some(())
    }

    fn collect(&mut self) {
        while let Some(transmit) = self.resolver.poll_transmit() {
            let (socket, to, payload) = match transmit {
                Transmit::Udp { socket, server, payload } => (socket, server, payload),
                Transmit::Multicast { socket, group, payload } => (socket, group, payload),
                Transmit::Tcp { socket, server, payload } => (socket, server, payload[2..].to_vec()),
                Transmit::Close { socket } => {
                    assert!(self.open.remove(&socket), "{socket:?} is closed and was not open");
                    continue;
                }
            };
            self.open.insert(socket);
            self.sent.push(Sent { socket, to, id: [payload[0], payload[1]], question: question(&payload) });
        }
        self.answered += core::iter::from_fn(|| self.resolver.next_result()).count();
        let (usage, limits) = (self.resolver.usage(), Config::default().limits);
        assert!(usage.queries <= limits.queries && usage.cache_entries <= limits.cache_entries);
        assert!(usage.cache_bytes <= limits.cache_bytes);
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.resolver.poll_timeout().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.resolver.poll(self.now);
            self.collect();
        }
        self.now = end;
    }

    fn end(&mut self) {
        self.collect();
        self.wait(PATIENCE);
        assert_eq!(self.answered, self.asked, "a query never ended");
        assert!(self.open.is_empty(), "left open: {:?}", self.open);
        assert_eq!((self.resolver.usage().questions, self.resolver.poll_timeout()), (0, None));
    }
}

impl Sent {
    /// A response to this query: id and question are right, the rest is the fuzzer's.
    fn answer(&self, input: &mut Input<'_>) -> Option<Vec<u8>> {
        let (flags, counts) = (input.u16()?, [input.u8()?, input.u8()?, input.u8()?]);
        let questions = if self.question.is_empty() { 0 } else { 1 };
        let mut message = self.id.to_vec();
        message.extend((flags | 0x8000).to_be_bytes());
        message.extend([0, questions]);
        counts.iter().for_each(|count| message.extend([0, count & 0x1f]));
        message.extend_from_slice(&self.question);
        message.extend_from_slice(input.long()?);
        Some(message)
    }
}

/// The first question of a query that we wrote: labels, type, class.
fn question(query: &[u8]) -> Vec<u8> {
    let mut at = 12;
    while let Some(len @ 1..) = query.get(at) {
        at += 1 + usize::from(*len);
    }
    query.get(12..at + 5).unwrap_or_default().to_vec()
}
