//! The bus through netctl, netd-services and netd: two devices that find each other, pair, and connect their services by streams, calls and topics; what is refused;
//! devices that only a DNS zone knows of; and one machine by itself. Half a minute.

mod dns_sd;
mod local;
mod network;
mod remote;
mod shared;

/// What everybody here may: the user of netd-services is the user of the clients.
const RULES: &str = "[[grant]]\nsubject = \"any\"\nallow = [\"net.tcp.connect\", \"net.tcp.listen\", \"net.udp.bind\", \"net.udp.send\"]\n";
