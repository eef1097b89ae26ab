//! What the build has to get right.

/// smoltcp takes its limits from the environment at compile time. A build outside the workspace, or with its
/// `.cargo/config.toml` out of reach, silently gets defaults that are far too small.
#[test]
fn smoltcp_was_built_with_our_limits() {
    use smoltcp::config::{ASSEMBLER_MAX_SEGMENT_COUNT, IFACE_MAX_ADDR_COUNT, IFACE_MAX_ROUTE_COUNT};
    let limits = [IFACE_MAX_ADDR_COUNT, IFACE_MAX_ROUTE_COUNT, ASSEMBLER_MAX_SEGMENT_COUNT];
    assert_eq!(limits, [8, 16, 32], "the SMOLTCP_ variables of .cargo/config.toml did not reach the build");
}
