//! Messages (RFC 1035, 4): hickory-proto's codec on one side, our own types on the other, so that nothing else here depends on
//! the codec.
//!
//! Reading goes in steps, because of what may be wrong with the rest: the header, then the question, which decides whether
//! the message is for us, then the records, unless the message is truncated: some servers cut in the middle of a record.

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query as WireQuery, ResponseCode};
use hickory_proto::rr::{DNSClass, Name as WireName, RData, Record as WireRecord, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::name::Name;
use super::types::{Data, Kind};

/// The UDP payload that we say we take: what fits IPv6's smallest MTU, so that no response is fragmented (DNS flag day 2020).
pub(super) const UDP_PAYLOAD_MAX: u16 = 1232;
/// Bytes of the length before a message on TCP (RFC 1035, 4.2.2).
const TCP_PREFIX_LEN: usize = 2;
/// Bytes of the longest message on TCP with its length.
pub(super) const TCP_RECEIVED_MAX: usize = TCP_PREFIX_LEN + u16::MAX as usize;
/// Records read from one message. A response of 64 KiB holds some 4,000 addresses; nobody can use more than these.
const RECORDS_MAX: usize = 512;
/// Questions in one message: ours have one, and two under `.local`.
const QUESTIONS_MAX: u16 = 2;
/// In mDNS the top bit of the class says something else (RFC 6762, 10.2).
const CLASS_MASK: u16 = 0x7fff;

/// A message cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// One resource record of a type that we know, in class IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) owner: Name,
    pub(super) ttl: u32,
    pub(super) data: Data,
}

/// A message as far as its question.
pub(super) struct Envelope<'a> {
    header: Header,
    decoder: BinDecoder<'a>,
    /// The single question; `None` if there is none (or, in mDNS, several).
    pub(super) question: Option<(Name, RecordType)>,
}

/// The rest of a message.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    /// Additional records: only mDNS looks at them.
    pub(super) additionals: Vec<Record>,
    /// Owner and negative time to live of the authority section's SOA (RFC 2308, 5).
    pub(super) soa: Option<(Name, u32)>,
}

impl Body {
    /// Writes the names as the question was put before its letters were drawn.
    pub(super) fn restore_case(&mut self, asked: &Name) {
        let restore = |name: &mut Name| {
            *name = core::mem::replace(name, Name::root()).with_case_of(asked);
        };
        for Record { owner, ttl: _, data } in &mut self.answers {
            restore(owner);
            match data {
                Data::Cname(name) | Data::Ptr(name) | Data::Srv { target: name, .. } => restore(name),
                Data::A(_) | Data::Aaaa(_) | Data::Txt(_) => {}
            }
        }
    }
}

impl<'a> Envelope<'a> {
    /// Reads header and question.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Envelope<'a>, Malformed> {
        let mut decoder = BinDecoder::new(bytes);
        let header = Header::read(&mut decoder).map_err(|_| Malformed)?;
        if header.counts.queries > QUESTIONS_MAX {
            return Err(Malformed);
        }
        let mut questions =
            Message::read_queries(&mut decoder, header.counts.queries.into()).map_err(|_| Malformed)?;
        let question = match (questions.pop(), questions.is_empty()) {
            (Some(question), true) if u16::from(question.query_class) & CLASS_MASK == 1 => {
                Some((from_wire(&question.name).ok_or(Malformed)?, question.query_type))
            }
            (Some(_), true) => return Err(Malformed),
            _ => None,
        };
        Ok(Envelope { header, decoder, question })
    }

    pub(super) fn id(&self) -> u16 {
        self.header.metadata.id
    }

    pub(super) fn is_response(&self) -> bool {
        let metadata = &self.header.metadata;
        metadata.message_type == MessageType::Response && metadata.op_code == OpCode::Query
    }

    pub(super) fn is_truncated(&self) -> bool {
        self.header.metadata.truncation
    }

    pub(super) fn question_count(&self) -> u16 {
        self.header.counts.queries
    }

    /// Neither an authority nor willing to recurse: what a server says that refers elsewhere.
    pub(super) fn is_lame(&self) -> bool {
        !self.header.metadata.authoritative && !self.header.metadata.recursion_available
    }

    /// The code of a message without question, or of one whose records do not matter.
    pub(super) fn code(&self) -> ResponseCode {
        self.header.metadata.response_code
    }

    /// Whether the question is `kind` of `name`; case is looked at by the caller.
    pub(super) fn asks(&self, name: &Name, kind: Kind) -> bool {
        self.question.as_ref().is_some_and(|(asked, asked_type)| {
            asked == name && record_types(kind) == core::slice::from_ref(asked_type)
        })
    }

    /// Reads the records.
    pub(super) fn body(mut self) -> Result<Body, Malformed> {
        let counts = self.header.counts;
        let code = self.header.metadata.op_code;
        let mut section = |count: u16, is_additional| {
            Message::read_records(&mut self.decoder, count.into(), is_additional, code).map_err(|_| Malformed)
        };
        let (answers, ..) = section(counts.answers, false)?;
        let (authorities, ..) = section(counts.authorities, false)?;
        let (additionals, edns, _) = section(counts.additionals, true)?;
        // RFC 6891, 6.1.3: the upper eight bits of the code stand in the OPT record.
        let high = edns.map_or(0, |edns| edns.rcode_high());
        Ok(Body {
            code: ResponseCode::from(high, self.header.metadata.response_code.low()),
            answers: convert(&answers),
            additionals: convert(&additionals),
            soa: authorities.iter().find_map(negative_ttl),
        })
    }
}

/// A query. `edns`: with an OPT record, which mDNS's legacy form and some old servers do not take.
pub(super) fn query(id: u16, name: &Name, kind: Kind, recursion: bool, edns: bool) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = recursion;
    for &record_type in record_types(kind) {
        message.add_query(WireQuery::query(to_wire(name), record_type));
    }
    if edns {
        let mut options = Edns::new();
        options.set_max_payload(UDP_PAYLOAD_MAX);
        message.set_edns(options);
    }
    #[expect(
        clippy::expect_used,
        reason = "a name of ours fits a message, and nothing else in it varies in size"
    )]
    message.to_vec().expect("a query can be encoded")
}

/// The same with its length before it.
pub(super) fn with_length(message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(TCP_PREFIX_LEN + message.len());
    // Queries have some 300 bytes at most: a name, a question, an OPT record.
    framed.extend_from_slice(&(message.len() as u16).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// The types asked for. Only mDNS sends more than one question in a message.
pub(super) fn record_types(kind: Kind) -> &'static [RecordType] {
    match kind {
        Kind::A => &[RecordType::A],
        Kind::Aaaa => &[RecordType::AAAA],
        Kind::Addresses => &[RecordType::A, RecordType::AAAA],
        Kind::Cname => &[RecordType::CNAME],
        Kind::Ptr => &[RecordType::PTR],
        Kind::Srv => &[RecordType::SRV],
        Kind::Txt => &[RecordType::TXT],
    }
}

fn to_wire(name: &Name) -> WireName {
    #[expect(clippy::expect_used, reason = "the bounds of our names are the codec's or stricter")]
    WireName::from_labels(name.labels()).expect("a name of ours is one of the codec's")
}

fn from_wire(name: &WireName) -> Option<Name> {
    Name::from_labels(name.iter()).ok()
}

fn convert(records: &[WireRecord]) -> Vec<Record> {
    records.iter().filter_map(record).take(RECORDS_MAX).collect()
}

fn record(record: &WireRecord) -> Option<Record> {
    if u16::from(record.dns_class) & CLASS_MASK != u16::from(DNSClass::IN) {
        return None;
    }
    let data = match &record.data {
        RData::A(address) => Data::A(address.0),
        RData::AAAA(address) => Data::Aaaa(address.0),
        RData::CNAME(target) => Data::Cname(from_wire(&target.0)?),
        RData::PTR(target) => Data::Ptr(from_wire(&target.0)?),
        RData::SRV(srv) => Data::Srv {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            target: from_wire(&srv.target)?,
        },
        RData::TXT(text) => Data::Txt(text.txt_data.iter().map(|part| part.to_vec()).collect()),
        _ => return None,
    };
    Some(Record { owner: from_wire(&record.name)?, ttl: ttl(record.ttl), data })
}

/// RFC 2308, 5: the lesser of the SOA's own time to live and its MINIMUM.
fn negative_ttl(record: &WireRecord) -> Option<(Name, u32)> {
    let RData::SOA(soa) = &record.data else { return None };
    Some((from_wire(&record.name)?, ttl(record.ttl).min(ttl(soa.minimum))))
}

/// RFC 2181, 8: with the top bit set it counts as zero.
fn ttl(seconds: u32) -> u32 {
    if seconds > i32::MAX as u32 { 0 } else { seconds }
}

/// The name of a code as in the IANA registry.
pub(super) fn code_name(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::NotAuth => "NOTAUTH",
        ResponseCode::NotZone => "NOTZONE",
        ResponseCode::BADVERS => "BADVERS",
        _ => "an unexpected code",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn query_encoded_is_read_back_with_its_case() {
        let name: Name = "wWw.ExAmple.com".parse().unwrap();
        let bytes = query(0x1234, &name, Kind::Aaaa, true, true);
        let envelope = Envelope::read(&bytes).unwrap();
        assert_eq!(envelope.id(), 0x1234);
        assert!(!envelope.is_response() && envelope.asks(&name, Kind::Aaaa));
        assert!(!envelope.asks(&name, Kind::A));
        assert!(envelope.question.as_ref().unwrap().0.is_identical(&name));
        // RFC 6891, 6.1.2: root, type 41, our payload size as class, no code, no flags, no options.
        assert_eq!(bytes[bytes.len() - 11..], [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn query_of_longest_names_is_encoded() {
        let label = |byte: u8, len: usize| vec![byte; len];
        let labels = [label(b'a', 63), label(0, 63), label(b'.', 63), label(b'd', 60)];
        let name = Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
        let bytes = query(1, &name, Kind::Addresses, false, true);
        assert!(bytes.len() < 300);
        let one = query(1, &name, Kind::Txt, false, true);
        assert!(Envelope::read(&one).unwrap().asks(&name, Kind::Txt));
    }

    #[test]
    fn ttl_with_top_bit_counts_as_zero() {
        assert_eq!((ttl(0x7fff_ffff), ttl(0x8000_0000), ttl(u32::MAX)), (0x7fff_ffff, 0, 0));
    }

    #[test]
    fn header_that_promises_much_is_refused_cheaply() {
        let mut bytes = vec![0; 12];
        bytes[4] = 0xff;
        assert!(Envelope::read(&bytes).is_err());
        assert!(Envelope::read(&[0; 11]).is_err());
    }

    proptest! {
        #[test]
        fn message_any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(envelope) = Envelope::read(&bytes) {
                let _ = envelope.body();
            }
        }
    }
}
