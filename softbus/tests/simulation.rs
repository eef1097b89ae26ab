//! Twenty devices and a liar in virtual time: announcements are lost, doubled and late, links break, devices crash, the network is split
//! in two and heals.
//!
//! What must hold, for every seed: nobody ever has a session with anybody but whom it pinned; every byte of a stream arrives once and in
//! its place; and when the network has healed, everybody has its sessions again, and nothing is missing on their streams.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test, also in helpers")]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use netd_softbus::discovery::{
    Acl, Announcement, Config as DiscoveryConfig, Devices, Discovery, Rule, Services, Shared, Transport,
};
use netd_softbus::mux::{Config as MuxConfig, Event as MuxEvent, Mux, Read, Role, StreamId};
use netd_softbus::session::{Config, Context, Event, Identity, Peer, Session, StaticKey, Trust};
use netd_softbus::{DeviceId, Error, Instant, PublicKey};

const NODES: usize = 20;
/// Each device dials the next few: sixty sessions.
const NEIGHBOURS: usize = 3;
const LIAR: usize = NODES;
const STEP: Duration = Duration::from_millis(100);
const TROUBLE_SECONDS: u64 = 60;
/// Longer than the TTL and the longest pause together.
const HEALING_SECONDS: u64 = 130;
const SEEDS: u64 = 2;
const SEEDS_LONG: u64 = 50;

fn byte(at: u64) -> u8 {
    at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

fn device(index: usize) -> DeviceId {
    // The liar calls itself as another does.
    format!("node-{}", if index == LIAR { 3 } else { index }).parse().unwrap()
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::new([10, 0, 0, u8::try_from(index).unwrap()].into(), 37020)
}

/// One end of a link.
struct End {
    session: Session,
    mux: Option<Mux>,
    role: Role,
    stream: Option<StreamId>,
    written: u64,
    read: u64,
}

struct Node {
    identity: Identity,
    trust: Trust,
    discovery: Discovery,
    ends: BTreeMap<u64, End>,
    /// Until when it is down.
    down: Instant,
}

struct Link {
    /// Who dialled, and who was dialled.
    nodes: [usize; 2],
    /// Frames for each of them, with the time that they arrive.
    queues: [VecDeque<(Instant, Vec<u8>)>; 2],
}

struct World {
    seed: u64,
    now: Instant,
    random: fastrand::Rng,
    nodes: Vec<Node>,
    keys: Vec<PublicKey>,
    links: BTreeMap<u64, Link>,
    made: u64,
    datagrams: Vec<(Instant, usize, usize, Vec<u8>)>,
    split: bool,
}

fn discovery(index: usize, identity: &Identity, trust: &Trust, now: Instant) -> Discovery {
    let everybody = Rule {
        devices: Devices::Prefix("node-".parse().unwrap()),
        transports: [Transport::Tcp].into(),
        services: Services::All,
        shared: Shared::default(),
    };
    let own = Announcement::new(device(index), 34567, Some(identity.current().public()), Vec::new()).unwrap();
    let config = DiscoveryConfig::default().check().unwrap();
    let mut discovery = Discovery::new(config, own, Acl::new(vec![everybody]).unwrap(), now);
    for (device, key, _) in trust.pins() {
        discovery.pin(now, device.clone(), key).unwrap();
    }
    discovery
}

impl World {
    fn new(seed: u64) -> World {
        let private = |index: usize| StaticKey::from_bytes([u8::try_from(index + 1).unwrap(); 32]).unwrap();
        let keys: Vec<_> = (0..=NODES).map(|index| private(index).public()).collect();
        let node = |index: usize| {
            let mut trust = Trust::new();
            for (other, key) in keys.iter().enumerate().take(NODES).filter(|(other, _)| *other != index) {
                if !(index == LIAR && device(other) == device(LIAR)) {
                    trust.pin(device(other), *key).unwrap();
                }
            }
            let identity = Identity::new(device(index), private(index));
            let discovery = discovery(index, &identity, &trust, Instant::ZERO);
            Node { identity, trust, discovery, ends: BTreeMap::new(), down: Instant::ZERO }
        };
        World {
            seed,
            now: Instant::ZERO,
            random: fastrand::Rng::with_seed(seed),
            nodes: (0..=NODES).map(node).collect(),
            keys: keys.clone(),
            links: BTreeMap::new(),
            made: 0,
            datagrams: Vec::new(),
            split: false,
        }
    }

    fn reaches(&self, one: usize, other: usize) -> bool {
        let up = |index: usize| self.nodes[index].down <= self.now;
        up(one) && up(other) && !(self.split && (one < NODES / 2) != (other < NODES / 2))
    }

    fn run(&mut self) {
        let end = Instant::ZERO + Duration::from_secs(TROUBLE_SECONDS + HEALING_SECONDS);
        let healed = Instant::ZERO + Duration::from_secs(TROUBLE_SECONDS);
        while self.now < end {
            if self.now < healed {
                self.trouble();
            } else {
                self.split = false;
            }
            self.carry_datagrams();
            self.announce();
            self.dial();
            self.carry_frames();
            for index in 0..=NODES {
                self.turn(index, self.now + Duration::from_secs(20) < end);
            }
            self.now = self.now + STEP;
        }
        self.check_convergence();
    }

    /// In each step little happens; in a minute, a lot.
    fn trouble(&mut self) {
        if self.random.u32(0..150) == 0 {
            self.split = !self.split;
        }
        if self.random.u32(0..100) == 0 {
            let index = self.random.usize(0..NODES);
            self.crash(index);
        }
        if self.random.u32(0..20) == 0
            && let Some(link) = self.links.keys().nth(self.random.usize(0..60)).copied()
        {
            self.cut(link);
        }
        let apart = |link: &Link| !self.reaches(link.nodes[0], link.nodes[1]);
        let cut: Vec<_> = self.links.iter().filter(|(_, link)| apart(link)).map(|(id, _)| *id).collect();
        cut.into_iter().for_each(|id| self.cut(id));
    }

    /// What a device keeps through a crash is its key and its pins.
    fn crash(&mut self, index: usize) {
        let lost: Vec<_> = self.nodes[index].ends.keys().copied().collect();
        lost.into_iter().for_each(|id| self.cut(id));
        self.nodes[index].down = self.now + Duration::from_secs(self.random.u64(1..20));
        let Node { identity, trust, .. } = &self.nodes[index];
        self.nodes[index].discovery = discovery(index, identity, trust, self.now);
    }

    fn cut(&mut self, id: u64) {
        let Some(Link { nodes, .. }) = self.links.remove(&id) else { return };
        for (side, index) in nodes.into_iter().enumerate() {
            let Some(end) = self.nodes[index].ends.remove(&id) else { continue };
            let peer = self.keys[nodes[1 - side]];
            if end.mux.is_some() {
                self.nodes[index].discovery.session_closed(self.now, &peer).unwrap();
            } else if side == 0 {
                self.failed(index, &peer);
            }
        }
    }

    fn failed(&mut self, index: usize, peer: &PublicKey) {
        let random = &mut self.random;
        let mut fill = |bytes: &mut [u8]| random.fill(bytes);
        let _gone = self.nodes[index].discovery.dial_failed(self.now, peer, &mut fill);
    }

    fn announce(&mut self) {
        for from in 0..=NODES {
            if self.nodes[from].down > self.now {
                continue;
            }
            let random = &mut self.random;
            let mut fill = |bytes: &mut [u8]| random.fill(bytes);
            let mut packets = Vec::new();
            while let Some((_, packet)) = self.nodes[from].discovery.poll_transmit(self.now, &mut fill) {
                packets.push(packet);
            }
            for packet in packets {
                for to in (0..=NODES).filter(|to| *to != from) {
                    // A fifth is lost, a fifth comes twice, and none in order.
                    for _ in 0..[0, 1, 1, 1, 2][self.random.usize(0..5)] {
                        let due = self.now + Duration::from_millis(self.random.u64(1..500));
                        self.datagrams.push((due, from, to, packet.clone()));
                    }
                }
            }
        }
    }

    fn carry_datagrams(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.datagrams).into_iter().partition(|(due, ..)| *due <= now);
        self.datagrams = later;
        let due: Vec<_> = due;
        for (_, from, to, packet) in due {
            if self.reaches(from, to) {
                let random = &mut self.random;
                let mut fill = |bytes: &mut [u8]| random.fill(bytes);
                let _refused = self.nodes[to].discovery.handle_packet(now, address(from), &packet, &mut fill);
            }
        }
    }

    fn dial(&mut self) {
        for index in 0..=NODES {
            for distance in 1..=NEIGHBOURS {
                let other = (index + distance) % NODES;
                let linked = self.links.values().any(|link| link.nodes == [index, other]);
                if linked || index == other || self.nodes[index].down > self.now {
                    continue;
                }
                let key = self.keys[other];
                if self.nodes[index].discovery.dial(self.now, &key, Transport::Tcp).is_err() {
                    continue;
                }
                if self.reaches(index, other) {
                    self.link(index, other);
                } else {
                    self.failed(index, &key);
                }
            }
        }
    }

    fn link(&mut self, index: usize, other: usize) {
        self.made += 1;
        let config = Config::default().check().unwrap();
        let target = Peer { device: device(other), key: self.keys[other] };
        let dialer = Session::dial(config.clone(), Transport::Tcp, target);
        let listener = Session::listen(config, Transport::Tcp);
        for (node, mut session, role) in [(index, dialer, Role::Dialer), (other, listener, Role::Listener)] {
            session.link_up(self.now).unwrap();
            let end = End { session, mux: None, role, stream: None, written: 0, read: 0 };
            self.nodes[node].ends.insert(self.made, end);
        }
        let queues = Default::default();
        self.links.insert(self.made, Link { nodes: [index, other], queues });
    }

    fn carry_frames(&mut self) {
        let ids: Vec<_> = self.links.keys().copied().collect();
        for id in ids {
            for side in 0..2 {
                while let Some(frame) = self.links.get_mut(&id).and_then(|link| {
                    let (due, _) = link.queues[side].front()?;
                    if *due > self.now { None } else { link.queues[side].pop_front().map(|(_, frame)| frame) }
                }) {
                    let index = self.links[&id].nodes[side];
                    if self.frame(index, id, &frame).is_err() {
                        self.cut(id);
                    }
                }
            }
        }
    }

    fn frame(&mut self, index: usize, id: u64, frame: &[u8]) -> Result<(), Error> {
        let (now, random) = (self.now, &mut self.random);
        let Node { identity, trust, discovery, ends, .. } = &mut self.nodes[index];
        let end = ends.get_mut(&id).unwrap();
        let mut fill = |bytes: &mut [u8]| random.fill(bytes);
        let mut context = Context { identity, trust, directory: discovery, random: &mut fill };
        end.session.handle_frame(now, frame, &mut context)?;
        while let Some(event) = end.session.poll_event() {
            match event {
                Event::Ready(peer) => {
                    let link = &self.links[&id];
                    let right = self.keys[link.nodes[usize::from(end.role == Role::Dialer)]];
                    assert!(
                        index != LIAR && peer.key != self.keys[LIAR],
                        "seed {}: the liar was believed",
                        self.seed
                    );
                    assert_eq!(peer.key, right, "seed {}: a session with a wrong peer", self.seed);
                    discovery.session_opened(now, &peer.key, None)?;
                    let mut mux = Mux::new(MuxConfig::default().check()?, end.role, now);
                    if end.role == Role::Dialer {
                        end.stream = Some(mux.open("numbers".parse()?, 3)?);
                    }
                    end.mux = Some(mux);
                }
                Event::Data(frame) => end.mux.as_mut().unwrap().handle_frame(now, &frame)?,
                Event::PairingNeeded(_) => return Err(Error::PairingClosed),
                _ => {}
            }
        }
        Ok(())
    }

    /// What a device does in a step: its users write and read, and its machines are polled.
    fn turn(&mut self, index: usize, writing: bool) {
        let now = self.now;
        self.nodes[index].discovery.poll(now);
        let ids: Vec<_> = self.nodes[index].ends.keys().copied().collect();
        for id in ids {
            let random = &mut self.random;
            let Node { identity, trust, discovery, ends, .. } = &mut self.nodes[index];
            let end = ends.get_mut(&id).unwrap();
            let mut fill = |bytes: &mut [u8]| random.fill(bytes);
            let mut context = Context { identity, trust, directory: discovery, random: &mut fill };
            let polled = end.session.poll(now, &mut context).and_then(|()| end.turn(now, writing, self.seed));
            let link = self.links.get_mut(&id).unwrap();
            let to = usize::from(link.nodes[0] == index);
            while let Some(frame) = end.session.poll_transmit() {
                let earliest = link.queues[to].back().map_or(now, |(due, _)| *due);
                let due = (now + Duration::from_millis(self.random.u64(1..300))).max(earliest);
                link.queues[to].push_back((due, frame));
            }
            if polled.is_err() {
                self.cut(id);
            }
        }
    }

    fn check_convergence(&self) {
        for index in 0..NODES {
            for distance in 1..=NEIGHBOURS {
                let nodes = [index, (index + distance) % NODES];
                let link = self.links.iter().find(|(_, link)| link.nodes == nodes);
                let Some((id, _)) = link else {
                    panic!("seed {}: {nodes:?} have no link long after the network healed", self.seed)
                };
                let [one, other] = nodes.map(|node| &self.nodes[node].ends[id]);
                assert!(
                    one.mux.is_some() && other.mux.is_some(),
                    "seed {}: {nodes:?} have no session",
                    self.seed
                );
                assert!(
                    one.written > 0 && one.written == other.read,
                    "seed {}: bytes are missing",
                    self.seed
                );
            }
        }
    }
}

impl End {
    fn turn(&mut self, now: Instant, writing: bool, seed: u64) -> Result<(), Error> {
        let Some(mux) = &mut self.mux else { return Ok(()) };
        mux.poll(now)?;
        while let Some(event) = mux.poll_event() {
            if let MuxEvent::Opened { stream, .. } = event {
                mux.accept(stream)?;
                self.stream = Some(stream);
            }
        }
        if let Some(stream) = self.stream {
            if self.role == Role::Dialer && writing {
                let bytes: Vec<u8> = (self.written..self.written + 100).map(byte).collect();
                self.written += u64::try_from(mux.write(stream, &bytes)?).unwrap();
            }
            let mut buffer = [0; 2000];
            while let Read::Bytes(len) = mux.read(stream, &mut buffer)? {
                for found in &buffer[..len] {
                    assert_eq!(*found, byte(self.read), "seed {seed}: byte {} is another", self.read);
                    self.read += 1;
                }
            }
        }
        while self.session.can_send() {
            let Some(frame) = mux.poll_transmit() else { break };
            self.session.send(now, &frame)?;
        }
        Ok(())
    }
}

#[test]
fn network_in_trouble_connects_nobody_wrongly_loses_no_byte_and_heals() {
    let seeds = if std::env::var_os("NETD_LONG").is_some() { SEEDS_LONG } else { SEEDS };
    for seed in 0..seeds {
        World::new(seed).run();
    }
}
