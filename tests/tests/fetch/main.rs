//! netctl fetch through netd-services and netd, from real servers behind a tap: nginx, openssl s_server, gnutls-serv, and a server that
//! lies. All of it in one netd: twenty seconds.

mod certificates;
mod changes;
mod encodings;
mod refusals;
mod running;
mod served;

use netd_tests::capture::Allowed;
use netd_tests::tapped::{self, STATIC};
use netd_tests::{Error, Result};

use crate::certificates::Certificates;
use crate::running::Running;

/// Errors of libraries, as the scenario's.
trait Trying<T> {
    /// Names what was tried, an infinitive.
    fn trying(self, action: &str) -> Result<T>;
}

impl<T, E: std::fmt::Display> Trying<T> for std::result::Result<T, E> {
    fn trying(self, action: &str) -> Result<T> {
        self.map_err(|error| Error::Expectation(format!("cannot {action}: {error}")))
    }
}

/// What is right when what was asked for is given up in the middle.
const ALLOWED: &[Allowed] = &[
    Allowed {
        remark: "Connection reset (RST)",
        on: "",
        because: "a server that is refused is hung up on while it still sends, and one that lies hangs up itself",
    },
    Allowed {
        remark: "Decompression failed",
        on: "tcp.srcport == 8099 || tcp.srcport == 8080",
        because: "some compressed bodies break off, others are cut by us",
    },
];

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn servers_of_others_are_fetched_from_and_those_that_lie_are_refused() -> Result<()> {
    tapped::scenario(ALLOWED, |tapped| {
        let certificates = Certificates::new(&tapped.path("certificates"))?;
        std::fs::write(tapped.path("hosts"), running::hosts()).trying("use our own directory")?;
        tapped.start(STATIC, &running::configuration(&tapped.path("hosts")))?;
        let running = Running::start(tapped, &certificates)?;
        running.explained(|running| {
            served::check(running)?;
            refusals::check(running)?;
            changes::check(running)
        })
    })
}
