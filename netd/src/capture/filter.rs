//! Filter expressions of captures: the common part of pcap-filter(7), compiled to a tree and evaluated on a frame in place.
//!
//! ```text
//!   expression = term { ("or" | "||") term }
//!   term       = factor { ("and" | "&&") factor }
//!   factor     = ("not" | "!") factor | "(" expression ")" | primitive
//!   primitive  = "tcp" | "udp" | "icmp" | "icmp6" | "arp" | "ip" | "ip6" | "broadcast" | "multicast"
//!              | [ "src" | "dst" ] "host" ADDRESS | [ "src" | "dst" ] "net" PREFIX
//!              | [ "tcp" | "udp" ] [ "src" | "dst" ] ( "port" NUMBER | "portrange" NUMBER "-" NUMBER )
//!              | "ether" [ "src" | "dst" ] "host" MAC | "less" NUMBER | "greater" NUMBER
//! ```

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::view::View;

/// Longest expression: one line of a terminal is 80, and a machine's may have some dozens of addresses.
const TEXT_BYTES_MAX: usize = 4096;
/// Nesting of parentheses and negations, so that neither parser nor evaluation can exhaust the stack.
const DEPTH_MAX: usize = 32;

/// Why an expression was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too long.
    #[error("the filter has {0} bytes, and {TEXT_BYTES_MAX} is the most")]
    TooLong(usize),
    /// Too many parentheses or negations inside each other.
    #[error("the filter is nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// Something else was expected.
    #[error("in the filter: expected {expected}, found '{found}'")]
    Unexpected {
        /// What would be right.
        expected: &'static str,
        /// What is there.
        found: String,
    },
}

/// Which end of a packet is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
    Either,
}

impl End {
    fn any<T>(self, (source, destination): (T, T), fits: impl Fn(T) -> bool) -> bool {
        match self {
            End::Source => fits(source),
            End::Destination => fits(destination),
            End::Either => fits(source) || fits(destination),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    EtherType(u16),
    /// Of IPv4 or IPv6.
    Protocol(u8),
    Net(End, IpNet),
    /// Of TCP, of UDP, or of either.
    Port(Option<u8>, End, u16, u16),
    Ether(End, [u8; 6]),
    Broadcast,
    Multicast,
    Less(usize),
    Greater(usize),
}

/// A compiled expression; the empty one takes every frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Option<Node>);

impl Filter {
    /// Understands an expression.
    ///
    /// # Errors
    /// What was expected instead of what is there.
    pub fn parse(text: &str) -> Result<Filter, Error> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::TooLong(text.len()));
        }
        let spaced: String = text
            .chars()
            .flat_map(|c| match c {
                '(' | ')' => vec![' ', c, ' '],
                '!' => vec![' ', c, ' '],
                c => vec![c],
            })
            .collect();
        let words: Vec<&str> = spaced.split_whitespace().collect();
        if words.is_empty() {
            return Ok(Filter(None));
        }
        let mut parser = Parser { words: &words, depth: 0 };
        let node = parser.expression()?;
        match parser.words.first() {
            None => Ok(Filter(Some(node))),
            Some(_) => Err(parser.unexpected("'and', 'or' or the end")),
        }
    }

    /// Whether a frame is one of those asked for.
    pub fn takes(&self, frame: &[u8]) -> bool {
        self.0.as_ref().is_none_or(|node| node.takes(&View::of(frame)))
    }
}

impl Node {
    fn takes(&self, view: &View) -> bool {
        match self {
            Node::And(nodes) => nodes.iter().all(|node| node.takes(view)),
            Node::Or(nodes) => nodes.iter().any(|node| node.takes(view)),
            Node::Not(node) => !node.takes(view),
            Node::EtherType(kind) => view.ether_type == *kind,
            Node::Protocol(protocol) => view.protocol == Some(*protocol),
            Node::Net(end, net) => view.addresses.is_some_and(|both| end.any(both, |ip| net.contains(&ip))),
            Node::Port(protocol, end, first, last) => {
                protocol.is_none_or(|protocol| view.protocol == Some(protocol))
                    && view.ports.is_some_and(|both| end.any(both, |port| (*first..=*last).contains(&port)))
            }
            Node::Ether(end, mac) => end.any((view.source, view.destination), |ours| ours == *mac),
            Node::Broadcast => view.destination == [0xff; 6],
            Node::Multicast => view.destination[0] & 1 == 1,
            Node::Less(bytes) => view.len <= *bytes,
            Node::Greater(bytes) => view.len >= *bytes,
        }
    }
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;

struct Parser<'a> {
    words: &'a [&'a str],
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a str {
        self.words.first().copied().unwrap_or_default()
    }

    fn next(&mut self) -> &'a str {
        let word = self.peek();
        self.words = self.words.get(1..).unwrap_or_default();
        word
    }

    /// Takes the next word if it is one of these.
    fn take(&mut self, words: &[&str]) -> bool {
        let takes = words.contains(&self.peek());
        if takes {
            self.next();
        }
        takes
    }

    fn unexpected(&self, expected: &'static str) -> Error {
        let found = if self.words.is_empty() { "the end" } else { self.peek() };
        Error::Unexpected { expected, found: found.to_owned() }
    }

    fn expression(&mut self) -> Result<Node, Error> {
        let mut nodes = vec![self.term()?];
        while self.take(&["or", "||"]) {
            nodes.push(self.term()?);
        }
        Ok(one_or(nodes, Node::Or))
    }

    fn term(&mut self) -> Result<Node, Error> {
        let mut nodes = vec![self.factor()?];
        while self.take(&["and", "&&"]) {
            nodes.push(self.factor()?);
        }
        Ok(one_or(nodes, Node::And))
    }

    fn factor(&mut self) -> Result<Node, Error> {
        let negated = self.take(&["not", "!"]);
        if !negated && !self.take(&["("]) {
            return self.primitive();
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Error::TooDeep);
        }
        let node = if negated {
            Node::Not(Box::new(self.factor()?))
        } else {
            let inner = self.expression()?;
            if !self.take(&[")"]) {
                return Err(self.unexpected("')', 'and' or 'or'"));
            }
            inner
        };
        self.depth -= 1;
        Ok(node)
    }

    fn primitive(&mut self) -> Result<Node, Error> {
        let start = self.words;
        let protocol = match self.peek() {
            "tcp" => Some(TCP),
            "udp" => Some(UDP),
            _ => None,
        };
        if let Some(protocol) = protocol {
            self.next();
            if !matches!(self.peek(), "src" | "dst" | "port" | "portrange") {
                return Ok(Node::Protocol(protocol));
            }
            let end = self.end();
            return self.ports(Some(protocol), end);
        }
        match self.next() {
            "icmp" => Ok(Node::Protocol(ICMP)),
            "icmp6" => Ok(Node::Protocol(ICMP6)),
            "arp" => Ok(Node::EtherType(0x0806)),
            "ip" => Ok(Node::EtherType(0x0800)),
            "ip6" => Ok(Node::EtherType(0x86dd)),
            "broadcast" => Ok(Node::Broadcast),
            "multicast" => Ok(Node::Multicast),
            "less" => Ok(Node::Less(self.number("a length in bytes")?.into())),
            "greater" => Ok(Node::Greater(self.number("a length in bytes")?.into())),
            "ether" => {
                let end = self.end();
                if !self.take(&["host"]) {
                    return Err(self.unexpected("'host' and a hardware address"));
                }
                let mac = netd_vfio::Mac::from_str(self.peek())
                    .map_err(|_| self.unexpected("a hardware address such as 02:00:00:00:00:01"))?;
                self.next();
                Ok(Node::Ether(end, mac.0))
            }
            _ => {
                self.words = start;
                let end = self.end();
                self.end_of_packet(end)
            }
        }
    }

    fn end(&mut self) -> End {
        match self.peek() {
            "src" => (self.next(), End::Source).1,
            "dst" => (self.next(), End::Destination).1,
            _ => End::Either,
        }
    }

    fn end_of_packet(&mut self, end: End) -> Result<Node, Error> {
        match self.peek() {
            "host" => {
                self.next();
                let address = self.peek().parse::<IpAddr>();
                let address = address.map_err(|_| self.unexpected("an IP address"))?;
                self.next();
                Ok(Node::Net(end, address.into()))
            }
            "net" => {
                self.next();
                let net = self.peek().parse::<IpNet>();
                let net = net.map_err(|_| self.unexpected("a prefix such as 10.0.0.0/8"))?;
                self.next();
                Ok(Node::Net(end, net))
            }
            "port" | "portrange" => self.ports(None, end),
            _ => Err(self.unexpected("host, net, port, tcp, udp, icmp, arp or another primitive")),
        }
    }

    fn ports(&mut self, protocol: Option<u8>, end: End) -> Result<Node, Error> {
        match self.next() {
            "port" => {
                let port = self.number("a port")?;
                Ok(Node::Port(protocol, end, port, port))
            }
            "portrange" => {
                let range = self.peek().split_once('-').and_then(|(first, last)| {
                    Some((first.parse().ok()?, last.parse().ok()?))
                        .filter(|(first, last): &(u16, u16)| first <= last)
                });
                let (first, last) =
                    range.ok_or_else(|| self.unexpected("a range of ports such as 8000-8080"))?;
                self.next();
                Ok(Node::Port(protocol, end, first, last))
            }
            other => Err(Error::Unexpected { expected: "'port' or 'portrange'", found: other.to_owned() }),
        }
    }

    fn number(&mut self, expected: &'static str) -> Result<u16, Error> {
        let number = self.peek().parse().map_err(|_| self.unexpected(expected))?;
        self.next();
        Ok(number)
    }
}

fn one_or(mut nodes: Vec<Node>, many: impl FnOnce(Vec<Node>) -> Node) -> Node {
    match nodes.len() {
        1 => nodes.swap_remove(0),
        _ => many(nodes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::capture::view::tests::{ARP, UDP_V4, tcp_v6};

    fn takes(text: &str, frame: &[u8]) -> bool {
        Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).takes(frame)
    }

    #[test]
    fn expressions_take_the_frames_that_they_say() {
        // 10.0.0.1:53 -> 10.0.0.2:40000, UDP.
        for (text, expected) in [
            ("", true),
            ("udp", true),
            ("tcp", false),
            ("ip and not arp", true),
            ("host 10.0.0.2", true),
            ("src host 10.0.0.2", false),
            ("dst host 10.0.0.2 and src net 10.0.0.0/24", true),
            ("port 53", true),
            ("udp src port 53", true),
            ("udp dst port 53", false),
            ("tcp port 53", false),
            ("portrange 50-60", true),
            ("not(port 53 or port 54)", false),
            ("!tcp && (icmp || udp)", true),
            ("tcp or udp and host 10.0.0.9", false),
            ("ether src host 02:00:00:00:00:01", true),
            ("greater 42 and less 42", true),
            ("broadcast or multicast", false),
        ] {
            assert_eq!(takes(text, &UDP_V4), expected, "{text}");
        }
        assert!(takes("arp and broadcast and host 10.0.0.1", &ARP));
        assert!(takes("ip6 and tcp dst port 443 and host 2001:db8::1", &tcp_v6()));
    }

    #[test]
    fn nonsense_is_refused_with_what_was_expected() {
        for (text, part) in [
            ("port", "expected a port, found 'the end'"),
            ("port http", "expected a port, found 'http'"),
            ("host example.org", "expected an IP address, found 'example.org'"),
            ("(tcp", "expected ')'"),
            ("tcp udp", "expected 'and', 'or' or the end, found 'udp'"),
            ("fly", "expected host, net, port"),
            ("net 10.0.0.0", "expected a prefix"),
            ("portrange 9-1", "expected a range of ports"),
        ] {
            let said = Filter::parse(text).unwrap_err().to_string();
            assert!(said.contains(part), "{text}: {said}");
        }
        assert_eq!(Filter::parse(&"(".repeat(100)), Err(Error::TooDeep));
        assert_eq!(Filter::parse(&"not ".repeat(100)), Err(Error::TooDeep));
        assert_eq!(Filter::parse(&"x".repeat(5000)), Err(Error::TooLong(5000)));
    }

    proptest! {
        #[test]
        fn any_words_and_any_frame_do_no_harm(
            words in prop::collection::vec(prop::sample::select(vec![
                "tcp", "udp", "port", "53", "host", "10.0.0.1", "net", "10.0.0.0/8", "and", "or", "not", "(", ")",
                "src", "dst", "ether", "arp", "ip6", "portrange", "1-2", "less", "greater",
            ]), 0..12),
            frame in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            if let Ok(filter) = Filter::parse(&words.join(" ")) {
                filter.takes(&frame);
            }
        }
    }
}
