//! Devices that announce themselves, and those that pretend to.

use core::net::SocketAddr;
use core::time::Duration;

use netd_softbus::discovery::{Acl, Announcement, Config, Discovery};
use netd_softbus::{Instant, PublicKey};

use crate::input::Input;

/// Small bounds, so that a script reaches them.
const STRANGERS_MAX: usize = 4;
const PINNED: [u8; 32] = [9; 32];

fn announcement(name: &[u8], port: u16, key: [u8; 32], services: &[u8]) -> Option<Announcement> {
    let names = services.chunks(3).take(16).map(|name| String::from_utf8_lossy(name).parse());
    let device = String::from_utf8_lossy(name).parse().ok()?;
    Announcement::new(device, port, PublicKey::new(key), names.collect::<Result<_, _>>().ok()?).ok()
}

/// Steps: raw bytes `{ len u16, bytes }`, an announcement `{ name, port u16, key u8, services }`, a pin, a session, a wait `{ ms u16 }`.
/// Whatever is understood is printed as it was read, the table keeps its bounds, and the pinned device its key.
pub fn discovery(data: &[u8]) {
    run(data);
}

fn run(data: &[u8]) -> Option<()> {
    let mut input = Input::new(data);
    let mut now = Instant::from_micros(1);
    let config = Config { strangers_max: STRANGERS_MAX, events_max: 64, ..Config::default() }.check().ok()?;
    let own = announcement(b"own", 1, [1; 32], b"")?;
    let mut bus = Discovery::new(config, own, Acl::default(), now);
    let pinned = PublicKey::new(PINNED)?;
    bus.pin(now, "pin".parse().ok()?, pinned).ok()?;
    let mut drawn = 0_u8;
    let mut random = |bytes: &mut [u8]| {
        drawn = drawn.wrapping_add(77);
        bytes.fill(drawn);
    };
    loop {
        let from = SocketAddr::new([10, 0, 0, 2].into(), 37020);
        match input.u8()? % 5 {
            0 => {
                let bytes = input.long()?;
                if let Ok(understood) = Announcement::parse(bytes) {
                    assert_eq!(understood.to_bytes(), bytes, "what was read is not what is printed");
                }
                let _refused = bus.handle_packet(now, from, bytes, &mut random);
            }
            1 => {
                let (name, port) = (input.short()?, input.u16()?);
                let key = [input.u8()? % 12; 32];
                if let Some(said) = announcement(name, port, key, input.short()?) {
                    assert_eq!(Announcement::parse(&said.to_bytes()).as_ref(), Ok(&said));
                    let _refused = bus.handle_packet(now, from, &said.to_bytes(), &mut random);
                }
            }
            2 => {
                let key = PublicKey::new([input.u8()? % 12; 32]);
                if let Some(key) = key.filter(|key| *key != pinned) {
                    bus.unpin(now, &key);
                }
            }
            3 => {
                let open = bus.session_opened(now, &pinned, Some(from));
                assert_eq!(open.is_ok(), bus.peer(&pinned).is_some());
                let _closed = bus.session_closed(now, &pinned);
            }
            _ => now = now + Duration::from_millis(input.u16()?.into()),
        }
        bus.poll(now);
        while bus.poll_transmit(now, &mut random).is_some() {}
        assert!(bus.poll_timeout() > now, "a deadline that is over was not acted upon");
        let (strangers, kept) = bus.occupancy();
        assert!(strangers <= STRANGERS_MAX && kept <= 1, "{strangers} strangers, {kept} kept");
        assert!(bus.peers().all(|peer| (peer.key == pinned) == (peer.device.as_str() == "pin")));
    }
}
