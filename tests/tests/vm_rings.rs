//! The ring formats of a modern device in a virtual machine.

use netd_tests::{Result, rings};

#[test]
#[ignore = "boots a virtual machine: cargo xtask test"]
fn ring_format_follows_the_offer_and_the_configuration() -> Result<()> {
    rings::ring_format_follows_the_offer_and_the_configuration()
}
