//! What the fuzz targets do with their bytes; each file of `fuzz_targets/` calls one function from here.
//!
//! The bytes are a script: most harnesses read one byte that says what happens next, then what that step needs, until the bytes
//! are used up. So a mutation changes a step, and steps can be cut out and put together. A harness fails by panicking: on a panic
//! of what it tests, and where what it tests breaks a promise (a stream that ends early, a table that outgrows its bound, a
//! frame with a wrong checksum).
//!
//! | module | targets | who wrote the bytes |
//! | --- | --- | --- |
//! | [`stack`] | frames, tcp, fragments, dhcp4, dhcp6, nd, icmp | hosts, routers and servers on the wire |
//! | [`dns`] | dns | name servers, and whoever forges them |
//! | [`sntp`] | sntp | time servers, and whoever forges them |
//! | [`ipc`] | ipc_request, ipc_reply, ipc_records | clients of the daemon; a daemon that is none |
//! | [`bus`] | bus_discovery, bus_mux, bus_remote | devices that announce themselves, and whoever pretends to be one; peers of a session |
//! | [`daemon`] | capture, config | clients; operators |
//! | [`policy`] | policy, client_hello | operators; clients whose connections have to show a name |
//! | `fetch` | fetch | clients who name URLs; servers on the web |
//! | [`virtio`] | virtio_legacy, virtio_modern, softdev | a device that lies; a driver that lies |
//!
//! A transport or ring format that is added to `virtqueue` gets its target beside those of [`virtio`].

#![forbid(unsafe_code)]

pub mod bus;
pub mod daemon;
pub mod dns;
pub mod fetch;
mod input;
pub mod ipc;
pub mod policy;
pub mod sntp;
pub mod stack;
#[path = "../../stack/tests/scenarios/support.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "helpers of the stack's scenarios, of which the harnesses use a part"
)]
mod support;
pub mod virtio;
