//! The compiled rules: finds a rule that covers a request without looking at each.
//!
//! By capability, then by subject, then by where the rule applies: everywhere, towards a prefix, for a name, on the bus. Each step is a hash
//! look-up, and ports are searched by halves, so the cost does not grow with the number of rules.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::bus::{BusDevice, BusService, DevicePattern};
use crate::bus_index::OnBus;
use crate::capability::Capability;
use crate::host::{HostName, HostPattern};
use crate::port::{PortIndex, PortRange};
use crate::subject::{Subject, Who};

/// Ports a request is about.
#[derive(Debug, Clone)]
pub(crate) enum Ports {
    /// None: echo requests, names.
    None,
    One(u16),
    /// Whichever of these netd will choose.
    Choice(RangeInclusive<u16>),
}

/// Whom or what a request is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// Nobody outside.
    Nobody,
    Address(IpAddr),
    Name(&'a HostName),
    /// A device of the bus, a service of it, or both.
    Bus(Option<&'a BusDevice>, Option<&'a BusService>),
}

/// Where a rule applies.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Everywhere,
    Prefix(IpNet),
    Hosts(HostPattern),
    /// Absent: every device, or every service.
    Bus(Option<DevicePattern>, Option<BusService>),
}

/// How much of a choice of ports a rule must cover to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Covering {
    /// Every port that netd may choose: what grants need.
    Whole,
    /// Any of them: what denials need.
    Part,
}

/// What is looked for.
#[derive(Debug, Clone)]
pub(crate) struct Lookup<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) capability: Capability,
    pub(crate) ports: Ports,
    pub(crate) target: Target<'a>,
    /// Only a rule that names exactly this address will do.
    pub(crate) named: bool,
}

/// A rule with one place and some ports, before it is compiled.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) capability: Capability,
    pub(crate) who: Who,
    pub(crate) place: Place,
    pub(crate) ports: Vec<PortRange>,
    /// Which rule it comes from.
    pub(crate) rule: usize,
}

/// Rules of one effect.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    covering: Covering,
    by_capability: HashMap<Capability, BySubject>,
}

#[derive(Debug, Clone, Default)]
struct BySubject {
    any: Option<ByPlace>,
    uid: HashMap<u32, ByPlace>,
    gid: HashMap<u32, ByPlace>,
    unit: HashMap<String, ByPlace>,
}

#[derive(Debug, Clone, Default)]
struct ByPlace {
    /// Of all that are below.
    first: Option<usize>,
    everywhere: PortIndex,
    /// One table for each prefix length in use.
    prefixes: Vec<(u8, HashMap<IpNet, PortIndex>)>,
    /// What is said of any of the prefixes.
    some_prefix: PortIndex,
    hosts: HashMap<String, PortIndex>,
    /// By the name after `*.`.
    below: HashMap<String, PortIndex>,
    bus: OnBus,
}

impl Index {
    pub(crate) fn new(covering: Covering, entries: Vec<Entry>) -> Index {
        let mut by_capability: HashMap<Capability, HashMap<Who, Vec<Entry>>> = HashMap::new();
        for entry in entries {
            let by_who = by_capability.entry(entry.capability).or_default();
            by_who.entry(entry.who.clone()).or_default().push(entry);
        }
        let by_capability =
            by_capability.into_iter().map(|(capability, by_who)| (capability, BySubject::new(by_who)));
        Index { covering, by_capability: by_capability.collect() }
    }

    /// The first rule, in the order of the files, of those that cover a request most specifically by subject.
    pub(crate) fn find(&self, lookup: &Lookup<'_>) -> Option<usize> {
        self.find_by(lookup, ByPlace::find)
    }

    /// The same of rules that cover the request towards some prefix, whichever.
    pub(crate) fn find_towards_some(&self, lookup: &Lookup<'_>) -> Option<usize> {
        self.find_by(lookup, |by_place, covering, lookup| covered(&by_place.some_prefix, covering, lookup))
    }

    /// The first rule of whoever asks for this capability, wherever it applies.
    pub(crate) fn first(&self, lookup: &Lookup<'_>) -> Option<usize> {
        self.find_by(lookup, |by_place, _, _| by_place.first)
    }

    fn find_by(
        &self,
        lookup: &Lookup<'_>,
        find: impl Fn(&ByPlace, Covering, &Lookup<'_>) -> Option<usize>,
    ) -> Option<usize> {
        let by_subject = self.by_capability.get(&lookup.capability)?;
        let Subject { uid, gid, pid: _, unit } = lookup.subject;
        let unit = unit.as_ref().and_then(|unit| by_subject.unit.get(unit));
        let places = [unit, by_subject.uid.get(uid), by_subject.gid.get(gid), by_subject.any.as_ref()];
        places.into_iter().flatten().find_map(|by_place| find(by_place, self.covering, lookup))
    }
}

impl BySubject {
    fn new(by_who: HashMap<Who, Vec<Entry>>) -> BySubject {
        let mut all = BySubject::default();
        for (who, entries) in by_who {
            let by_place = ByPlace::new(entries);
            match who {
                Who::Any => all.any = Some(by_place),
                Who::Uid(uid) => drop(all.uid.insert(uid, by_place)),
                Who::Gid(gid) => drop(all.gid.insert(gid, by_place)),
                Who::Unit(unit) => drop(all.unit.insert(unit, by_place)),
            }
        }
        all
    }
}

impl ByPlace {
    fn new(entries: Vec<Entry>) -> ByPlace {
        let first = entries.iter().map(|entry| entry.rule).min();
        let mut everywhere = Ranges::new();
        let mut prefixes: HashMap<u8, HashMap<IpNet, Ranges>> = HashMap::new();
        let (mut hosts, mut below): (HashMap<String, Ranges>, HashMap<String, Ranges>) = Default::default();
        let mut bus = Vec::new();
        for Entry { place, ports, rule, .. } in entries {
            let ranges = match place {
                Place::Everywhere => &mut everywhere,
                Place::Prefix(prefix) => {
                    let prefix = prefix.trunc();
                    prefixes.entry(prefix.prefix_len()).or_default().entry(prefix).or_default()
                }
                Place::Hosts(pattern) => {
                    let (name, is_below) = pattern.parts();
                    let table = if is_below { &mut below } else { &mut hosts };
                    table.entry(name.as_str().to_owned()).or_default()
                }
                Place::Bus(devices, service) => {
                    bus.push((devices, service, ports.into_iter().map(|range| (range, rule)).collect()));
                    continue;
                }
            };
            ranges.extend(ports.into_iter().map(|range| (range, rule)));
        }
        let towards_some: Ranges = prefixes.values().flat_map(HashMap::values).flatten().copied().collect();
        let mut prefixes: Vec<_> =
            prefixes.into_iter().map(|(length, table)| (length, compiled(table))).collect();
        prefixes.sort_unstable_by_key(|(length, _)| std::cmp::Reverse(*length));
        ByPlace {
            first,
            everywhere: PortIndex::new(&everywhere),
            prefixes,
            some_prefix: PortIndex::new(&towards_some),
            hosts: compiled(hosts),
            below: compiled(below),
            bus: OnBus::new(bus),
        }
    }

    fn find(&self, covering: Covering, lookup: &Lookup<'_>) -> Option<usize> {
        let ports = |index: &PortIndex| covered(index, covering, lookup);
        let placed = match lookup.target {
            Target::Nobody => None,
            Target::Address(address) => self.towards(address, lookup.named).find_map(ports),
            Target::Bus(device, service) => self.bus.covering(device, service).find_map(ports),
            Target::Name(name) => {
                let above = name.parents().filter_map(|parent| self.below.get(parent));
                self.hosts.get(name.as_str()).into_iter().chain(above).find_map(ports)
            }
        };
        if lookup.named { placed } else { placed.or_else(|| ports(&self.everywhere)) }
    }

    /// What is said of prefixes that hold the address, the longest first.
    fn towards(&self, address: IpAddr, named: bool) -> impl Iterator<Item = &PortIndex> {
        let bits = IpNet::from(address).max_prefix_len();
        let lengths =
            self.prefixes.iter().filter(move |(length, _)| *length <= bits && (!named || *length == bits));
        lengths.filter_map(move |(length, table)| table.get(&IpNet::new(address, *length).ok()?.trunc()))
    }
}

/// The rule for the ports that are looked for.
fn covered(index: &PortIndex, covering: Covering, lookup: &Lookup<'_>) -> Option<usize> {
    match (&lookup.ports, covering) {
        (Ports::None, _) => index.any(),
        (Ports::One(port), _) => index.at(*port),
        (Ports::Choice(choice), Covering::Whole) => index.whole(choice),
        (Ports::Choice(choice), Covering::Part) => index.part(choice),
    }
}

/// Ports, and the rule that they come from.
pub(crate) type Ranges = Vec<(PortRange, usize)>;

pub(crate) fn compiled<K: Eq + Hash>(table: HashMap<K, Ranges>) -> HashMap<K, PortIndex> {
    table.into_iter().map(|(key, ranges)| (key, PortIndex::new(&ranges))).collect()
}
