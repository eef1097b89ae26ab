//! One counter per reason to drop, and a few for what went well.

use serde::Serialize;

/// What happened so far. Everything counts up from zero and never wraps in practice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say what is counted; a sentence each would only repeat them")]
pub struct Counters {
    pub frames_received: u64,
    pub bytes_received: u64,
    pub frames_sent: u64,
    pub bytes_sent: u64,

    pub drop_frame_malformed: u64,
    pub drop_frame_not_for_us: u64,
    pub drop_ethertype_unknown: u64,

    pub drop_arp_malformed: u64,
    pub drop_arp_unsolicited: u64,
    pub arp_requests_sent: u64,
    pub arp_replies_sent: u64,
    pub arp_conflicts: u64,
    pub drop_nd_malformed: u64,
    pub drop_nd_unsolicited: u64,
    pub nd_solicitations_sent: u64,
    pub nd_advertisements_sent: u64,
    pub nd_router_solicitations_sent: u64,
    pub nd_router_advertisements: u64,
    pub nd_duplicates: u64,
    pub drop_group_malformed: u64,
    pub group_reports_sent: u64,
    pub drop_neighbor_queue_full: u64,
    pub drop_neighbor_table_full: u64,
    pub neighbors_evicted: u64,
    pub drop_neighbor_unresolved: u64,

    pub drop_ip_malformed: u64,
    pub drop_ip_checksum: u64,
    pub drop_ip_source: u64,
    pub drop_ip_not_for_us: u64,
    pub fragments_received: u64,
    pub fragments_sent: u64,
    pub datagrams_reassembled: u64,
    pub drop_fragment_malformed: u64,
    pub drop_fragment_overlap: u64,
    pub drop_fragment_table_full: u64,
    pub drop_fragment_timeout: u64,
    pub drop_ip_protocol: u64,
    pub drop_no_route: u64,
    pub drop_transmit_full: u64,
    pub packets_looped: u64,
    pub drop_looped_full: u64,

    pub drop_icmp_malformed: u64,
    pub drop_icmp_unexpected: u64,
    pub icmp_echo_answered: u64,
    pub icmp_errors_received: u64,
    pub icmp_errors_sent: u64,
    pub icmp_rate_limited: u64,

    pub drop_udp_malformed: u64,
    pub drop_udp_closed_port: u64,
    pub drop_udp_queue_full: u64,

    pub drop_dhcp_malformed: u64,
    pub drop_dhcp_unexpected: u64,
    pub dhcp_declines_sent: u64,

    pub drop_tcp_malformed: u64,
    pub drop_tcp_closed_port: u64,
    pub drop_tcp_pending_full: u64,
    pub drop_tcp_pending_source: u64,
    pub drop_tcp_backlog_full: u64,
    pub drop_tcp_flows_full: u64,
    pub drop_tcp_sequence: u64,
    pub drop_tcp_acknowledgement: u64,
    pub drop_tcp_after_fin: u64,
    pub drop_tcp_early: u64,
    pub tcp_fin_beyond_window: u64,
    /// Segments with data behind an old acknowledgement: overtaken on the way.
    pub tcp_old_acknowledgements: u64,
    pub tcp_resets_sent: u64,
    pub tcp_resets_rate_limited: u64,
    pub tcp_challenges_sent: u64,
    pub tcp_keepalives_sent: u64,
    pub tcp_path_mtu_lowered: u64,
    /// Destinations of which a router said that datagrams or echo requests must be smaller.
    pub path_mtu_lowered: u64,
    pub tcp_time_wait_reused: u64,
    pub tcp_closing_cut: u64,
    pub tcp_opened: u64,
    pub tcp_accepted: u64,
    pub tcp_engine_faults: u64,
    /// Times that a connection's engine was entered: what a test divides by packets to see that no other flow was touched.
    pub tcp_engine_calls: u64,
}
