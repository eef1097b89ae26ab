//! Ports: ranges as a file writes them, and the index that finds the rule of a port.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::Error;

/// Ports from first to last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port there is.
    pub(crate) const ALL: PortRange = PortRange { first: 1, last: u16::MAX };

    /// The ports from `first` to `last`; none if they are in the wrong order or `first` is 0.
    pub fn new(first: u16, last: u16) -> Option<PortRange> {
        (first != 0 && first <= last).then_some(PortRange { first, last })
    }

    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// `port` alone, if it is one of them.
    pub(crate) fn only(self, port: u16) -> Option<PortRange> {
        self.contains(port).then_some(PortRange { first: port, last: port })
    }

    /// What is left of them without `port`.
    pub(crate) fn except(self, port: u16) -> impl Iterator<Item = PortRange> {
        self.without(port).filter(move |range| !range.contains(port))
    }

    /// What is left of them without `port`, unless it is the only one.
    pub(crate) fn without(self, port: u16) -> impl Iterator<Item = PortRange> {
        let whole = self.first == self.last || !self.contains(port);
        let parts = if whole {
            [Some(self), None]
        } else {
            [
                PortRange::new(self.first, port - 1),
                port.checked_add(1).and_then(|next| PortRange::new(next, self.last)),
            ]
        };
        parts.into_iter().flatten()
    }
}

impl FromStr for PortRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<PortRange, Error> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.trim().parse::<u16>().ok();
        port(first)
            .zip(port(last))
            .and_then(|(first, last)| PortRange::new(first, last))
            .ok_or_else(|| Error::PortRange(text.to_owned()))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// The first rule of each port, in a table that is searched by halves: what a decision costs does not grow with the rules.
#[derive(Debug, Clone, Default)]
pub(crate) struct PortIndex {
    /// Where each segment begins, ascending, and the rule of its ports; it ends where the next begins.
    segments: Vec<(u16, Option<usize>)>,
}

impl PortIndex {
    /// From pairs of a range and the number of its rule.
    pub(crate) fn new(ranges: &[(PortRange, usize)]) -> PortIndex {
        let mut edges: Vec<(u32, bool, usize)> = Vec::with_capacity(ranges.len() * 2);
        for (range, rule) in ranges {
            edges.push((range.first.into(), true, *rule));
            edges.push((u32::from(range.last) + 1, false, *rule));
        }
        edges.sort_unstable();
        // A rule may list overlapping ranges: it holds as long as one of them is open.
        let mut open = std::collections::BTreeMap::<usize, usize>::new();
        let mut segments: Vec<(u16, Option<usize>)> = Vec::new();
        let mut edges = edges.into_iter().peekable();
        while let Some((at, begins, rule)) = edges.next() {
            let count = open.entry(rule).or_default();
            *count = if begins { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                open.remove(&rule);
            }
            if edges.peek().is_some_and(|(next, _, _)| *next == at) {
                continue;
            }
            let first = open.keys().next().copied();
            // Past the last port there is nothing to say.
            let Ok(at) = u16::try_from(at) else { break };
            if segments.last().is_none_or(|(_, rule)| *rule != first) {
                segments.push((at, first));
            }
        }
        PortIndex { segments }
    }

    /// The rule of a port.
    pub(crate) fn at(&self, port: u16) -> Option<usize> {
        let after = self.segments.partition_point(|(start, _)| *start <= port);
        self.segments.get(after.checked_sub(1)?)?.1
    }

    /// A rule of any port at all.
    pub(crate) fn any(&self) -> Option<usize> {
        self.segments.iter().filter_map(|(_, rule)| *rule).min()
    }

    /// The first of the rules that cover the ports together; none if one port has no rule.
    pub(crate) fn whole(&self, ports: &RangeInclusive<u16>) -> Option<usize> {
        let mut first = self.at(*ports.start())?;
        for (_, rule) in self.within(ports) {
            first = first.min((*rule)?);
        }
        Some(first)
    }

    /// The first of the rules that cover one of the ports.
    pub(crate) fn part(&self, ports: &RangeInclusive<u16>) -> Option<usize> {
        let inside = self.within(ports).iter().filter_map(|(_, rule)| *rule);
        inside.chain(self.at(*ports.start())).min()
    }

    /// The segments that begin after the first of the ports and not after the last.
    fn within(&self, ports: &RangeInclusive<u16>) -> &[(u16, Option<usize>)] {
        let from = self.segments.partition_point(|(start, _)| start <= ports.start());
        let to = self.segments.partition_point(|(start, _)| start <= ports.end());
        &self.segments[from..to]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = PortRange> {
        prop_oneof![
            (1u16..40, 0u16..20).prop_map(|(first, more)| (first, first + more)),
            (65_500u16..=65_535).prop_map(|first| (first, 65_535)),
        ]
        .prop_map(|(first, last)| PortRange::new(first, last).expect("in order"))
    }

    proptest! {
        #[test]
        fn index_of_any_ranges_agrees_with_looking_at_each(
            ranges in prop::collection::vec((range(), 0usize..5), 0..8), first in 1u16..60, more in 0u16..20,
        ) {
            let index = PortIndex::new(&ranges);
            let rule = |port: u16| ranges.iter().filter(|(range, _)| range.contains(port)).map(|(_, rule)| *rule).min();
            for port in (1..80).chain(65_490..=65_535) {
                prop_assert_eq!(index.at(port), rule(port), "port {}", port);
            }
            let ports = first..=first + more;
            let rules: Vec<_> = ports.clone().map(rule).collect();
            prop_assert_eq!(index.part(&ports), rules.iter().flatten().min().copied());
            let whole = rules.iter().all(Option::is_some).then(|| rules.iter().flatten().min().copied());
            prop_assert_eq!(index.whole(&ports), whole.flatten());
            prop_assert_eq!(index.any(), ranges.iter().map(|(_, rule)| *rule).min());
        }
    }

    #[test]
    fn range_without_a_port_keeps_the_others_and_alone_itself() {
        let without = |text: &str| {
            let range: PortRange = text.parse().unwrap();
            range.without(443).map(|range| range.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(without("1-65535"), "1-442 444-65535");
        assert_eq!(without("443-500"), "444-500");
        assert_eq!(without("80-443"), "80-442");
        assert_eq!(without("443"), "443");
        assert_eq!(without("80"), "80");
    }
}
