//! Streams between two clients of this machine: each has an end of a socketpair of its own, and what one writes the other reads.

use std::sync::Arc;

use netd_ipc::services::BusOutcome;
use tokio::io::copy_bidirectional;
use tokio::net::UnixStream;

use super::Bus;
use super::streams::{Claim, Made, pair};
use crate::Failure;

/// Makes a stream between two clients, and carries its bytes until it is over. Gives each client's end.
pub(super) fn join(bus: &Arc<Bus>, mut one: Claim, mut other: Claim) -> Result<[Made; 2], Failure> {
    let (mut ours, socket) = pair()?;
    let (mut others, other_socket) = pair()?;
    let (id, other_id) = {
        let mut core = bus.core();
        (core.outcomes.begin(one.uid).0, core.outcomes.begin(other.uid).0)
    };
    let bus = Arc::clone(bus);
    tokio::spawn(async move {
        let outcome = tokio::select! {
            outcome = carry(&mut ours, &mut others) => outcome,
            _ = one.right.lost() => BusOutcome::Reset,
            _ = other.right.lost() => BusOutcome::Reset,
        };
        // Before our ends are closed: whoever sees that asks.
        let mut core = bus.core();
        core.outcomes.end(id, outcome);
        core.outcomes.end(other_id, outcome);
        drop((ours, others, one, other));
    });
    Ok([Made { id, socket }, Made { id: other_id, socket: other_socket }])
}

async fn carry(one: &mut UnixStream, other: &mut UnixStream) -> BusOutcome {
    match copy_bidirectional(one, other).await {
        Ok(_) => BusOutcome::Finished,
        Err(_) => BusOutcome::Reset,
    }
}
