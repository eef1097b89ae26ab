//! The octets of a TCP connection as a capture holds them, to check what is said of them.
//!
//! Some of tshark's warnings are claims that can be looked into, and that a correct exchange may provoke at any time:
//!
//! * "ACKed segment that wasn't captured". tshark follows how far one side has sent without a hole by segments that begin exactly
//!   there. A retransmission that begins in what was sent before and ends in new octets (RFC 9293, 3.8.1 has segments cut anew, and
//!   they are after the path's MTU was lowered) is passed over, and the acknowledgement of its octets called one of nothing.
//! * "D-SACK Sequence" (RFC 2883): a receiver says which octets came twice. A sender repeats octets that had arrived whenever its
//!   timer is faster than the acknowledgement, or when only what went before them was lost (RFC 2018, 8). tshark makes a note of
//!   the repetition itself, and a warning of the receiver's word for it.
//! * "(suspected) out-of-order segment". tshark takes what comes within a round trip after later octets for late, without a look at
//!   whether it came before: a quick repetition looks like that.
//! * "Connection reset (RST)". Whoever closed second has no TIME-WAIT: when its FIN is acknowledged, the connection is forgotten, and
//!   whatever comes then, such as the acknowledgement of a FIN that it had repeated, is answered with a reset (RFC 9293, 3.10.7.1).

use super::judge::fields_with;
use crate::error::{Error, Result};
use std::ops::Range;
use std::path::Path;

/// Sequence numbers as they are on the wire, in SACK options too.
const ABSOLUTE: &[&str] = &["tcp.relative_sequence_numbers:FALSE"];
const COLUMNS: [&str; 11] = [
    "frame.number",
    "ip.src",
    "ipv6.src",
    "tcp.srcport",
    "tcp.seq",
    "tcp.len",
    "tcp.flags.syn",
    "tcp.flags.fin",
    "tcp.ack",
    "tcp.options.sack_le",
    "tcp.options.sack_re",
];

/// Of one direction.
#[derive(Debug)]
struct Segment {
    frame: u64,
    /// Address and port.
    from: String,
    first: u32,
    /// SYN and FIN included: each has a sequence number.
    len: u32,
    fin: bool,
    acknowledged: u32,
    /// The first block of a SACK option: the only one that may tell of repetition.
    block: Option<(u32, u32)>,
}

impl Segment {
    /// What acknowledges all of it.
    fn end(&self) -> u32 {
        self.first.wrapping_add(self.len)
    }
}

/// All segments of a connection, in the order in which they passed.
#[derive(Debug)]
pub(super) struct Stream(Vec<Segment>);

impl Stream {
    /// Reads one, by tshark's number.
    pub(super) fn read(file: &Path, number: &str) -> Result<Stream> {
        // A segment quoted by an ICMP error did not pass.
        let filter = format!("tcp.stream == {number} && !icmp && !icmpv6");
        let segments = fields_with(file, &filter, &COLUMNS, ABSOLUTE)?;
        segments.lines().map(segment).collect::<Result<_>>().map(Stream)
    }

    /// Whether every octet that this frame acknowledges had passed before it.
    pub(super) fn has_what_is_acknowledged(&self, frame: u64) -> bool {
        let Some(segment) = self.at(frame) else { return false };
        let Some(base) = self.before(segment).map(|sent| sent.first).next() else { return false };
        let passed = octets(self.before(segment), base);
        let first = passed.iter().map(|octets| octets.start).min().unwrap_or_default();
        are_covered(&passed, first..offset(segment.acknowledged, base), 1)
    }

    /// Whether this frame brings no octet later than a higher one: those below the highest had passed already.
    pub(super) fn has_nothing_late(&self, frame: u64) -> bool {
        let Some(segment) = self.at(frame) else { return false };
        let earlier = self.0.iter().take_while(|other| other.frame < frame);
        let passed = octets(earlier.filter(|other| other.from == segment.from), segment.first);
        let highest = passed.iter().map(|octets| octets.end).max().unwrap_or_default();
        are_covered(&passed, 0..highest.min(i64::from(segment.len)), 1)
    }

    /// Whether this frame resets a connection that was over for its sender: it had closed second, and its FIN was acknowledged.
    pub(super) fn was_over(&self, frame: u64) -> bool {
        let Some(segment) = self.at(frame) else { return false };
        let Some(closed_first) = self.before(segment).find(|sent| sent.fin) else { return false };
        let earlier = self.0.iter().take_while(|other| other.frame < frame);
        let mut own = earlier.filter(|other| other.from == segment.from);
        let Some(closed_second) = own.find(|sent| sent.fin && sent.acknowledged == closed_first.end()) else {
            return false;
        };
        self.before(segment).any(|sent| sent.acknowledged == closed_second.end())
    }

    /// Whether the octets that this frame reports as repeated had passed twice before it.
    pub(super) fn has_twice_what_is_reported(&self, frame: u64) -> bool {
        let Some(segment) = self.at(frame) else { return false };
        let Some((left, right)) = segment.block else { return false };
        are_covered(&octets(self.before(segment), left), 0..offset(right, left), 2)
    }

    fn at(&self, frame: u64) -> Option<&Segment> {
        self.0.iter().find(|segment| segment.frame == frame)
    }

    /// What the other side had sent.
    fn before<'a>(&'a self, segment: &'a Segment) -> impl Iterator<Item = &'a Segment> {
        let earlier = self.0.iter().take_while(|other| other.frame < segment.frame);
        earlier.filter(|other| other.from != segment.from)
    }
}

/// Those of some segments, as distances from a sequence number.
fn octets<'a>(segments: impl Iterator<Item = &'a Segment>, base: u32) -> Vec<Range<i64>> {
    let range = |sent: &Segment| {
        let first = offset(sent.first, base);
        first..first + i64::from(sent.len)
    };
    segments.filter(|sent| sent.len > 0).map(range).collect()
}

/// How far a sequence number is from another, the nearer way around.
fn offset(number: u32, base: u32) -> i64 {
    i64::from(number.wrapping_sub(base).cast_signed())
}

/// Whether each octet of `span` is in so many of the ranges. Nobody would say so of an empty span.
fn are_covered(ranges: &[Range<i64>], span: Range<i64>, times: i64) -> bool {
    let inside = ranges.iter().filter(|range| range.start < span.end && range.end > span.start);
    let mut edges: Vec<(i64, i64)> =
        inside.flat_map(|range| [(range.start.max(span.start), 1), (range.end.min(span.end), -1)]).collect();
    edges.sort_unstable();
    let (mut at, mut depth) = (span.start, 0);
    for (edge, change) in edges {
        if edge > at && depth < times {
            return false;
        }
        at = edge;
        depth += change;
    }
    !span.is_empty() && at == span.end
}

fn segment(line: &str) -> Result<Segment> {
    let columns: Vec<&str> = line.split('\t').collect();
    let unclear = || Error::Expectation(format!("tshark tells of a segment: {line:?}"));
    let [frame, four, six, port, first, len, syn, fin, acknowledged, left, right] = columns[..] else {
        return Err(unclear());
    };
    let number = |text: &str| text.parse::<u32>().map_err(|_| unclear());
    // tshark 4.0 says "1", later ones "True".
    let flag = |text: &str| u32::from(matches!(text, "1" | "True"));
    let block = |text: &str| text.split(super::judge::AGGREGATOR).next().and_then(|edge| edge.parse().ok());
    Ok(Segment {
        frame: frame.parse().map_err(|_| unclear())?,
        from: format!("{four}{six} {port}"),
        first: number(first)?,
        len: number(len)? + flag(syn) + flag(fin),
        fin: flag(fin) > 0,
        acknowledged: number(acknowledged)?,
        block: block(left).zip(block(right)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_covered_only_where_ranges_lie_on_each_other_so_often() {
        let ranges = [0..10, 10..20, 5..15];
        assert!(are_covered(&ranges, 0..20, 1));
        assert!(are_covered(&ranges, 5..15, 2));
        assert!(!are_covered(&ranges, 4..15, 2));
        assert!(!are_covered(&ranges, 5..16, 2));
        assert!(!are_covered(&ranges, 0..21, 1));
        assert!(!are_covered(&[0..9, 10..20], 0..20, 1));
        assert!(!are_covered(&ranges, 7..7, 1));
        assert!(!are_covered(&[], 0..1, 1));
    }

    #[test]
    fn offsets_go_the_nearer_way_around() {
        assert_eq!(offset(4, u32::MAX), 5);
        assert_eq!(offset(u32::MAX, 4), -5);
    }
}
