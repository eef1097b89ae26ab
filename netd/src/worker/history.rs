//! What happened to the network lately: the link, our addresses, and who contested them. For people who ask what was going on.

use std::collections::VecDeque;
use std::net::IpAddr;

use netd_ipc::NetworkEvent;
use netd_stack::{AddressInfo, AddressStatus, Instant, Stack};

/// Events remembered: a day of a network that is well, and the last minutes of one that is not.
const EVENTS_MAX: usize = 32;

/// The last events, and what they are told apart from.
#[derive(Debug, Default)]
pub(super) struct History {
    events: VecDeque<(Instant, String)>,
    /// Times that the link went down or came back.
    pub(super) link_changes: u64,
    addresses: Vec<(IpAddr, AddressStatus)>,
    conflicts: u64,
}

impl History {
    fn add(&mut self, now: Instant, text: String) {
        tracing::info!("network: {text}");
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back((now, text));
    }

    /// The link went down or came back.
    pub(super) fn link(&mut self, now: Instant, up: bool) {
        self.link_changes += 1;
        self.add(now, format!("the link is {}", if up { "up" } else { "down" }));
    }

    /// A fresh stack: what was known of the old one's addresses says nothing about its own.
    pub(super) fn restarted(&mut self, now: Instant) {
        self.addresses.clear();
        self.conflicts = 0;
        self.add(now, "the device was reset".to_owned());
    }

    /// The stack's addresses may have changed.
    pub(super) fn addresses(&mut self, now: Instant, stack: &Stack) {
        let counters = stack.counters();
        let conflicts = counters.arp_conflicts + counters.nd_duplicates;
        if conflicts > self.conflicts {
            self.add(now, "another host claims an address of ours".to_owned());
        }
        self.conflicts = conflicts;
        let current: Vec<AddressInfo> = stack.addresses().collect();
        let former = std::mem::take(&mut self.addresses);
        for info in &current {
            if !former.contains(&(info.address, info.status)) {
                let AddressInfo { address, prefix_len, .. } = info;
                self.add(now, format!("{address}/{prefix_len} is {}", status(info.status)));
            }
        }
        for (address, _) in former {
            if !current.iter().any(|info| info.address == address) {
                self.add(now, format!("{address} is gone"));
            }
        }
        self.addresses = current.into_iter().map(|info| (info.address, info.status)).collect();
    }

    /// The events, the latest first.
    pub(super) fn report(&self, now: Instant) -> Vec<NetworkEvent> {
        let event = |(at, text): &(Instant, String)| NetworkEvent {
            seconds_ago: now.saturating_duration_since(*at).as_secs(),
            text: text.clone(),
        };
        self.events.iter().rev().map(event).collect()
    }
}

/// As people read it.
pub(super) fn status(status: AddressStatus) -> &'static str {
    match status {
        AddressStatus::Tentative => "tentative",
        AddressStatus::Preferred => "preferred",
        AddressStatus::Deprecated => "deprecated",
        AddressStatus::Duplicated => "duplicated",
    }
}

#[cfg(test)]
mod tests {
    use netd_stack::{Config, ConflictDetection, Options};

    use super::*;

    #[test]
    fn addresses_that_come_and_go_are_told_latest_first_and_once() {
        let config: Config = crate::worker::tests::stack_config();
        let options = Options {
            secondary: vec!["10.0.0.9/24".parse().unwrap()],
            conflicts: ConflictDetection::Off,
            ipv6: netd_stack::Ipv6Addressing::Off,
            ..Options::default()
        };
        let addressing = config.addressing.clone();
        let mut stack = Stack::with_options(config, options.clone(), Instant::ZERO).unwrap();
        let mut history = History::default();
        history.link(Instant::ZERO, false);
        for _ in 0..2 {
            history.addresses(Instant::ZERO, &stack);
        }
        let options = Options { secondary: Vec::new(), ..options };
        stack.reconfigure(Instant::ZERO, addressing, None, options).unwrap();
        history.addresses(Instant::from_micros(5_000_000), &stack);
        let told: Vec<_> = history
            .report(Instant::from_micros(7_000_000))
            .into_iter()
            .map(|event| (event.seconds_ago, event.text))
            .collect();
        let expected = [
            (2, "10.0.0.9 is gone"),
            (7, "10.0.0.9/24 is preferred"),
            (7, "10.0.0.2/24 is preferred"),
            (7, "the link is down"),
        ];
        assert_eq!(told, expected.map(|(ago, text)| (ago, text.to_owned())));
    }

    #[test]
    fn events_are_bounded() {
        let mut history = History::default();
        for _ in 0..100 {
            history.link(Instant::ZERO, true);
        }
        assert_eq!((history.report(Instant::ZERO).len(), history.link_changes), (EVENTS_MAX, 100));
    }
}
