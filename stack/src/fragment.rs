//! Fragments (RFC 791, 3.2; RFC 8200, 4.5): putting together what arrives in pieces, and cutting what is too large.
//!
//! Reassembly happens before a flow is looked up, since only the first piece names the ports. Everything is bounded: datagrams under
//! way in all and for one source, bytes, pieces of one datagram, and time. A piece that overlaps another condemns its datagram and
//! whatever else comes for it (RFC 5722, applied to IPv4 as well): what overlaps is an attack on whoever looked at the packet before us.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeMap;

use smoltcp::wire::{IpProtocol, Ipv4Packet};

use crate::config::Limits;
use crate::counters::Counters;
use crate::ip::{self, Header};
use crate::ipv4;
use crate::random::{KeyedMap, KeyedState};
use crate::time::Instant;
use crate::timers::{Timer, Timers};

/// Pieces of one datagram: the largest over the smallest MTU that IPv6 allows is 52.
const PIECES_MAX: usize = 64;
/// The largest datagram (RFC 791, 3.1), and the largest IPv6 payload without jumbograms.
const DATAGRAM_MAX: usize = 65_535;
/// Bytes of IPv6's fragment header.
const FRAGMENT_HEADER_LEN: usize = 8;
/// How long to wait for the missing pieces: Linux's `ipfrag_time` for IPv4, and RFC 8200, 4.5 for IPv6.
const WAIT_V4: Duration = Duration::from_secs(30);
const WAIT_V6: Duration = Duration::from_secs(60);

/// What the pieces of one datagram have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) id: u32,
    pub(crate) protocol: u8,
}

/// One piece, as it arrived.
#[derive(Clone, Copy)]
pub(crate) struct Fragment<'a> {
    pub(crate) key: Key,
    /// In bytes; a multiple of 8.
    pub(crate) offset: usize,
    pub(crate) more: bool,
    pub(crate) ttl: u8,
    pub(crate) ecn: u8,
    /// The packet that it came in.
    pub(crate) whole: &'a [u8],
    pub(crate) payload: &'a [u8],
}

struct Datagram {
    /// Named by timers, which may outlive it.
    serial: u64,
    pieces: BTreeMap<usize, Vec<u8>>,
    bytes: usize,
    /// Known once the last piece is here.
    total: Option<usize>,
    /// The packet with the first piece, for the error when the time is up.
    first: Option<Vec<u8>>,
    ttl: u8,
    ecn: u8,
    condemned: bool,
}

pub(crate) struct Reassembly {
    datagrams: KeyedMap<Key, Datagram>,
    by_serial: BTreeMap<u64, Key>,
    next_serial: u64,
    bytes: usize,
    limits: Limits,
}

impl Reassembly {
    pub(crate) fn new(limits: &Limits, hasher: KeyedState) -> Reassembly {
        Reassembly {
            datagrams: KeyedMap::with_hasher(hasher),
            by_serial: BTreeMap::new(),
            next_serial: 0,
            bytes: 0,
            limits: limits.clone(),
        }
    }

    /// Datagrams under way, and the bytes of their pieces.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.datagrams.len(), self.bytes)
    }

    /// Takes a piece. When it was the last one missing, the datagram comes back as one packet with a plain header.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        fragment: &Fragment<'_>,
        timers: &mut Timers,
        counters: &mut Counters,
    ) -> Option<Vec<u8>> {
        counters.fragments_received += 1;
        let end = fragment.offset + fragment.payload.len();
        let ragged = fragment.more && !fragment.payload.len().is_multiple_of(8);
        // A first piece without the ports is how filters were tricked (RFC 1858, 3; RFC 7112).
        let tiny = fragment.offset == 0 && fragment.payload.len() < 8;
        // IPv4 counts the header into the length, IPv6 does not.
        let most = if fragment.key.source.is_ipv4() { DATAGRAM_MAX - ipv4::HEADER_LEN } else { DATAGRAM_MAX };
        if fragment.payload.is_empty() || ragged || tiny || end > most {
            counters.drop_fragment_malformed += 1;
            return None;
        }
        let no_room = self.bytes + fragment.whole.len() > self.limits.fragment_bytes;
        if no_room || !(self.datagrams.contains_key(&fragment.key) || self.open(now, &fragment.key, timers)) {
            counters.drop_fragment_table_full += 1;
            return None;
        }
        let datagram = self.datagrams.get_mut(&fragment.key)?;
        match datagram.judge(fragment.offset, end, fragment) {
            Judgement::Repeated => return None,
            Judgement::Condemned => {
                self.bytes -= datagram.condemn();
                counters.drop_fragment_overlap += 1;
                return None;
            }
            Judgement::New => {}
        }
        self.bytes += datagram.insert(fragment);
        if !datagram.is_complete() {
            return None;
        }
        counters.datagrams_reassembled += 1;
        let datagram = self.remove(&fragment.key)?;
        Some(datagram.into_packet(&fragment.key))
    }

    fn open(&mut self, now: Instant, key: &Key, timers: &mut Timers) -> bool {
        let from_source = self.datagrams.keys().filter(|other| other.source == key.source).count();
        let Limits { fragments, fragments_per_source, .. } = self.limits;
        if self.datagrams.len() >= fragments || from_source >= fragments_per_source {
            return false;
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        let wait = if key.source.is_ipv4() { WAIT_V4 } else { WAIT_V6 };
        timers.arm_once(Timer::Reassembly(serial), now + wait);
        self.by_serial.insert(serial, *key);
        self.datagrams.insert(
            *key,
            Datagram {
                serial,
                pieces: BTreeMap::new(),
                bytes: 0,
                total: None,
                first: None,
                ttl: 0,
                ecn: 0,
                condemned: false,
            },
        );
        true
    }

    fn remove(&mut self, key: &Key) -> Option<Datagram> {
        let datagram = self.datagrams.remove(key)?;
        self.by_serial.remove(&datagram.serial);
        self.bytes -= datagram.bytes;
        Some(datagram)
    }

    /// A datagram's time is up. Returns what it is known by and its first packet, if that is here: its sender is to be told.
    pub(crate) fn timer_expired(&mut self, serial: u64, counters: &mut Counters) -> Option<(Key, Vec<u8>)> {
        let key = *self.by_serial.get(&serial)?;
        let datagram = self.remove(&key)?;
        if datagram.condemned {
            return None;
        }
        counters.drop_fragment_timeout += 1;
        Some((key, datagram.first?))
    }
}

enum Judgement {
    New,
    Repeated,
    Condemned,
}

impl Datagram {
    fn judge(&self, offset: usize, end: usize, fragment: &Fragment<'_>) -> Judgement {
        if self.condemned {
            return Judgement::Condemned;
        }
        if self.pieces.get(&offset).is_some_and(|piece| piece == fragment.payload) {
            return Judgement::Repeated;
        }
        let before = self.pieces.range(..=offset).next_back();
        let after = self.pieces.range(offset..).next();
        let overlaps = before.is_some_and(|(at, piece)| at + piece.len() > offset)
            || after.is_some_and(|(at, _)| *at < end);
        let beyond = self.total.is_some_and(|total| end > total || (!fragment.more && end != total));
        let last_is_short =
            !fragment.more && self.pieces.last_key_value().is_some_and(|(at, piece)| at + piece.len() > end);
        if overlaps || beyond || last_is_short || self.pieces.len() >= PIECES_MAX {
            return Judgement::Condemned;
        }
        Judgement::New
    }

    /// Keeps nothing but the fact; returns how many bytes that frees.
    fn condemn(&mut self) -> usize {
        self.condemned = true;
        self.pieces.clear();
        self.first = None;
        core::mem::take(&mut self.bytes)
    }

    /// Returns how many bytes are kept.
    fn insert(&mut self, fragment: &Fragment<'_>) -> usize {
        let mut kept = fragment.payload.len();
        if fragment.offset == 0 {
            kept += fragment.whole.len();
            self.first = Some(fragment.whole.to_vec());
            self.ttl = fragment.ttl;
        }
        if !fragment.more {
            self.total = Some(fragment.offset + fragment.payload.len());
        }
        // RFC 3168, 5.3: congestion met by one piece was met by the datagram.
        self.ecn = if fragment.ecn == 3 { 3 } else { self.ecn.max(fragment.ecn) };
        self.bytes += kept;
        self.pieces.insert(fragment.offset, fragment.payload.to_vec());
        kept
    }

    fn is_complete(&self) -> bool {
        // Pieces do not overlap, so their lengths add up to the whole exactly when nothing is missing.
        self.total.is_some_and(|total| self.pieces.values().map(Vec::len).sum::<usize>() == total)
    }

    fn into_packet(self, key: &Key) -> Vec<u8> {
        let mut packet = vec![0; ip::header_len(key.destination)];
        for piece in self.pieces.values() {
            packet.extend_from_slice(piece);
        }
        let header = Header {
            source: key.source,
            destination: key.destination,
            protocol: key.protocol.into(),
            ttl: self.ttl,
            ecn: self.ecn,
        };
        ip::emit_header(&mut packet, &header);
        packet
    }
}

/// A piece of a payload that is too large for one packet.
pub(crate) struct Piece<'a> {
    offset: usize,
    more: bool,
    pub(crate) bytes: &'a [u8],
}

/// Bytes in front of each piece: IPv6 has a header of its own for it.
pub(crate) fn header_len(destination: IpAddr) -> usize {
    ip::header_len(destination) + if destination.is_ipv4() { 0 } else { FRAGMENT_HEADER_LEN }
}

/// Cuts a payload for packets of at most `mtu` bytes.
pub(crate) fn cut(payload: &[u8], header_len: usize, mtu: usize) -> impl Iterator<Item = Piece<'_>> {
    let most = mtu.saturating_sub(header_len).max(8) & !7;
    let count = payload.len().div_ceil(most);
    let piece = move |(index, bytes)| Piece { offset: index * most, more: index + 1 < count, bytes };
    payload.chunks(most).enumerate().map(piece)
}

/// Writes the packet with one piece.
pub(crate) fn emit(packet: &mut [u8], header: &Header, id: u32, piece: &Piece<'_>) {
    if header.destination.is_ipv4() {
        ip::emit_header(packet, header);
        let mut ipv4 = Ipv4Packet::new_unchecked(&mut *packet);
        ipv4.set_ident(id as u16);
        ipv4.set_dont_frag(false);
        ipv4.set_more_frags(piece.more);
        ipv4.set_frag_offset(piece.offset as u16);
        ipv4.fill_checksum();
        packet[ipv4::HEADER_LEN..].copy_from_slice(piece.bytes);
        return;
    }
    ip::emit_header(packet, &Header { protocol: IpProtocol::Ipv6Frag, ..*header });
    let behind = &mut packet[ip::IPV6_HEADER_LEN..];
    let field = piece.offset as u16 | u16::from(piece.more);
    behind[0] = header.protocol.into();
    behind[1] = 0;
    behind[2..4].copy_from_slice(&field.to_be_bytes());
    behind[4..8].copy_from_slice(&id.to_be_bytes());
    behind[FRAGMENT_HEADER_LEN..].copy_from_slice(piece.bytes);
}
