//! A captured frame as one line for people.

use std::net::IpAddr;

/// The line for an enhanced packet block.
pub(super) fn of_packet(block: &[u8]) -> String {
    let number = |at: usize| array::<4>(block, at).map_or(0, u32::from_ne_bytes);
    let micros = u64::from(number(12)) << 32 | u64::from(number(16));
    let (kept, len) = (number(20) as usize, number(24));
    let frame = block.get(28..28 + kept).unwrap_or_default();
    // The flags are the first option after the padded frame: bits 0 and 1 are the direction.
    let direction = match number(28 + kept.next_multiple_of(4) + 4) & 3 {
        1 => "<",
        2 => ">",
        _ => " ",
    };
    format!("{} {direction} {}, {len} bytes", clock(micros), describe(frame))
}

/// The time of day in UTC.
fn clock(micros: u64) -> String {
    let seconds = micros / 1_000_000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:06}", seconds / 3600, seconds / 60 % 60, seconds % 60, micros % 1_000_000)
}

fn describe(frame: &[u8]) -> String {
    let payload = frame.get(14..).unwrap_or_default();
    match word(frame, 12) {
        Some(0x0806) => arp(payload),
        Some(0x0800) => {
            let header_len = usize::from(payload.first().copied().unwrap_or_default() & 15) * 4;
            let inner = payload.get(header_len..).unwrap_or_default();
            if word(payload, 6).unwrap_or_default() & 0x1fff != 0 {
                return format!("{} fragment", pair(v4(payload, 12), v4(payload, 16), None));
            }
            transport((v4(payload, 12), v4(payload, 16)), payload.get(9).copied(), inner)
        }
        Some(0x86dd) => {
            let inner = payload.get(40..).unwrap_or_default();
            transport((v6(payload, 8), v6(payload, 24)), payload.get(6).copied(), inner)
        }
        Some(other) => format!("ethertype {other:#06x}"),
        None => "cut short".to_owned(),
    }
}

fn arp(packet: &[u8]) -> String {
    let (sender, target) = (v4(packet, 14), v4(packet, 24));
    match (word(packet, 6), sender, target) {
        (Some(1), Some(sender), Some(target)) => format!("ARP who has {target}? tell {sender}"),
        (Some(2), Some(sender), _) => format!("ARP {sender} is here"),
        _ => "ARP".to_owned(),
    }
}

fn transport((from, to): (Option<IpAddr>, Option<IpAddr>), protocol: Option<u8>, segment: &[u8]) -> String {
    let ports = word(segment, 0).zip(word(segment, 2));
    match protocol {
        Some(6) => format!("TCP {}{}", pair(from, to, ports), flags(segment)),
        Some(17) => format!("UDP {}", pair(from, to, ports)),
        Some(1) => format!("ICMP {} {}", pair(from, to, None), icmp(segment)),
        Some(58) => {
            format!("ICMPv6 {} type {}", pair(from, to, None), segment.first().copied().unwrap_or_default())
        }
        Some(other) => format!("protocol {other} {}", pair(from, to, None)),
        None => "IP cut short".to_owned(),
    }
}

fn flags(segment: &[u8]) -> String {
    let bits = segment.get(13).copied().unwrap_or_default();
    let names = [(2, "SYN"), (16, "ACK"), (8, "PSH"), (1, "FIN"), (4, "RST"), (32, "URG")];
    let set: Vec<&str> = names.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| name).collect();
    format!(" [{}]", set.join(" "))
}

fn icmp(message: &[u8]) -> String {
    match message.first() {
        Some(0) => "echo reply".to_owned(),
        Some(3) => "unreachable".to_owned(),
        Some(8) => "echo request".to_owned(),
        Some(11) => "time exceeded".to_owned(),
        other => format!("type {}", other.copied().unwrap_or_default()),
    }
}

fn pair(from: Option<IpAddr>, to: Option<IpAddr>, ports: Option<(u16, u16)>) -> String {
    let end = |address: Option<IpAddr>, port: Option<u16>| match (address, port) {
        (Some(address), Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, _) => "?".to_owned(),
    };
    format!("{} -> {}", end(from, ports.map(|ports| ports.0)), end(to, ports.map(|ports| ports.1)))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    array::<4>(bytes, at).map(IpAddr::from)
}

fn v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    array::<16>(bytes, at).map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describe_names_addresses_ports_and_flags() {
        let mut frame = vec![0; 14 + 20 + 20];
        frame[12] = 8;
        frame[14] = 0x45;
        frame[23] = 6;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame[34..38].copy_from_slice(&[0, 80, 0xc3, 0x50]);
        frame[47] = 0x12;
        assert_eq!(describe(&frame), "TCP 10.0.0.1:80 -> 10.0.0.2:50000 [SYN ACK]");
        (0..frame.len()).for_each(|len| assert!(!describe(&frame[..len]).is_empty()));
    }

    #[test]
    fn clock_is_the_time_of_day() {
        assert_eq!(clock(90_061_000_002), "01:01:01.000002");
    }
}
