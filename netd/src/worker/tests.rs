//! What the worker's tests share.

use std::net::Ipv4Addr;

use netd_stack::{Addressing, Cidr, Config, Limits, Static};

/// A stack with a fixed address.
pub(crate) fn stack_config() -> Config {
    let fixed = Static {
        cidr: Cidr::new(Ipv4Addr::new(10, 0, 0, 2), 24).unwrap(),
        gateway: None,
        mtu: None,
        dns: Vec::new(),
    };
    Config {
        mac: [2, 0, 0, 0, 0, 2],
        mtu: 1500,
        addressing: Addressing::Static(fixed),
        hostname: None,
        seed: [7; 32],
        limits: Limits::default(),
    }
}
