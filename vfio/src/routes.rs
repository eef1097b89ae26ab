//! Which interfaces carry a default route, from /proc/net/route and /proc/net/ipv6_route.

use std::collections::BTreeSet;

use crate::Error;
use crate::sysfs::{self, Sysfs};

/// The route is usable (linux/route.h, RTF_UP).
const RTF_UP: u32 = 0x0001;
/// The route refuses packets instead of carrying them (linux/route.h, RTF_REJECT).
const RTF_REJECT: u32 = 0x0200;

/// The interfaces that a default route goes through, IPv4 or IPv6.
pub(crate) fn default_route_interfaces(sysfs: &Sysfs) -> Result<BTreeSet<String>, Error> {
    let mut interfaces = BTreeSet::new();
    if let Some(table) = sysfs::read_optional(&sysfs.path("proc/net/route"))? {
        interfaces.extend(table.lines().skip(1).filter_map(ipv4_default).map(str::to_owned));
    }
    // Absent when the kernel has no IPv6.
    if let Some(table) = sysfs::read_optional(&sysfs.path("proc/net/ipv6_route"))? {
        interfaces.extend(table.lines().filter_map(ipv6_default).map(str::to_owned));
    }
    Ok(interfaces)
}

/// Columns: Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT.
fn ipv4_default(line: &str) -> Option<&str> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let [interface, destination, _gateway, flags, _references, _use, _metric, mask, ..] = columns[..] else {
        return None;
    };
    (all_zero(destination) && all_zero(mask) && carries(flags)).then_some(interface)
}

/// Columns: destination, its prefix length, source, its prefix length, next hop, metric, references, use, flags,
/// interface.
fn ipv6_default(line: &str) -> Option<&str> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let [destination, length, _source, _source_length, _hop, _metric, _references, _use, flags, interface] =
        columns[..]
    else {
        return None;
    };
    (all_zero(destination) && all_zero(length) && carries(flags)).then_some(interface)
}

fn all_zero(digits: &str) -> bool {
    !digits.is_empty() && digits.bytes().all(|digit| digit == b'0')
}

fn carries(flags: &str) -> bool {
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & RTF_UP != 0 && flags & RTF_REJECT == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_table_read_yields_the_default_route_only() {
        assert_eq!(
            ipv4_default("eth0\t00000000\t0102000A\t0003\t0\t0\t100\t00000000\t0\t0\t0"),
            Some("eth0")
        );
        assert_eq!(ipv4_default("eth0\t0002000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0"), None);
        // 0.0.0.0/1, down, and "unreachable default".
        assert_eq!(ipv4_default("eth0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0"), None);
        assert_eq!(ipv4_default("eth0\t00000000\t0102000A\t0002\t0\t0\t0\t00000000\t0\t0\t0"), None);
        assert_eq!(ipv4_default("*\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0"), None);
        assert_eq!(ipv4_default("eth0 00000000"), None);
    }

    #[test]
    fn ipv6_table_read_yields_the_default_route_only() {
        let zero = "0".repeat(32);
        let line = |length: &str, flags: &str, interface: &str| {
            format!(
                "{zero} {length} {zero} 00 fe800000000000000000000000000001 00000400 1 0 {flags} {interface}"
            )
        };
        assert_eq!(ipv6_default(&line("00", "00000003", "ens4")), Some("ens4"));
        assert_eq!(ipv6_default(&line("80", "00000003", "ens4")), None);
        // The kernel's own "no route" entry on lo.
        assert_eq!(ipv6_default(&line("00", "00200200", "lo")), None);
    }
}
