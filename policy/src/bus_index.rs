//! The part of the compiled rules that is about the bus: by service, then by device.

use std::collections::HashMap;

use crate::bus::{BusDevice, BusService, DevicePattern};
use crate::index::{Ranges, compiled};
use crate::port::PortIndex;

/// Rules that name devices or services. Whatever a rule does not name is every one of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct OnBus {
    by_service: HashMap<BusService, ByDevice>,
    any_service: ByDevice,
}

#[derive(Debug, Clone, Default)]
struct ByDevice {
    exact: HashMap<String, PortIndex>,
    /// One table for each length of prefix in use, in bytes; the longest first.
    prefixes: Vec<(usize, HashMap<String, PortIndex>)>,
    any: PortIndex,
}

/// A rule with one device and one service of it.
type OnBusEntry = (Option<DevicePattern>, Option<BusService>, Ranges);

impl OnBus {
    pub(crate) fn new(entries: Vec<OnBusEntry>) -> OnBus {
        let mut by_service: HashMap<BusService, Vec<_>> = HashMap::new();
        let mut any_service = Vec::new();
        for (device, service, ranges) in entries {
            match service {
                Some(service) => by_service.entry(service).or_default().push((device, ranges)),
                None => any_service.push((device, ranges)),
            }
        }
        let by_service = by_service.into_iter().map(|(service, entries)| (service, ByDevice::new(entries)));
        OnBus { by_service: by_service.collect(), any_service: ByDevice::new(any_service) }
    }

    /// What is said of a device, of a service, or of a service of a device.
    pub(crate) fn covering<'a>(
        &'a self,
        device: Option<&'a BusDevice>,
        service: Option<&'a BusService>,
    ) -> impl Iterator<Item = &'a PortIndex> {
        let named = service.and_then(|service| self.by_service.get(service));
        named.into_iter().chain([&self.any_service]).flat_map(move |by_device| by_device.covering(device))
    }
}

impl ByDevice {
    fn new(entries: Vec<(Option<DevicePattern>, Ranges)>) -> ByDevice {
        let mut exact: HashMap<String, Ranges> = HashMap::new();
        let mut prefixes: HashMap<usize, HashMap<String, Ranges>> = HashMap::new();
        let mut any = Ranges::new();
        for (device, ranges) in entries {
            let place = match device.as_ref().map(DevicePattern::parts) {
                None => &mut any,
                Some((name, false)) => exact.entry(name.to_owned()).or_default(),
                Some((name, true)) => {
                    prefixes.entry(name.len()).or_default().entry(name.to_owned()).or_default()
                }
            };
            place.extend(ranges);
        }
        let mut prefixes: Vec<_> =
            prefixes.into_iter().map(|(length, table)| (length, compiled(table))).collect();
        prefixes.sort_unstable_by_key(|(length, _)| std::cmp::Reverse(*length));
        ByDevice { exact: compiled(exact), prefixes, any: PortIndex::new(&any) }
    }

    fn covering<'a>(&'a self, device: Option<&'a BusDevice>) -> impl Iterator<Item = &'a PortIndex> {
        let name = device.map(BusDevice::as_str);
        let exact = name.and_then(|name| self.exact.get(name));
        let begun = move |(length, table): &'a (usize, HashMap<String, PortIndex>)| {
            // A prefix that ends within a letter of this name is none of it.
            name.and_then(|name| name.get(..*length)).and_then(|beginning| table.get(beginning))
        };
        exact.into_iter().chain(self.prefixes.iter().filter_map(begun)).chain([&self.any])
    }
}
