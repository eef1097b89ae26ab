//! Streams of a session that are no client's: the two control streams, and the carriers of payloads.

use netd_ipc::services::{BUS_PRIORITY_DEFAULT, ErrorKind};
use netd_softbus::mux::StreamId;
use netd_softbus::remote::{CARRIERS_MAX, CONTROL_STREAM, carrier_name, carrier_number};
use tokio::io::{DuplexStream, duplex};

use super::super::pump::{End, Pump};
use super::super::remote::{self, Handle, PIPE_BYTES};
use super::{Ended, Link};
use crate::Failure;

/// Control streams go before all others.
const CONTROL_PRIORITY: u8 = 0;
/// What ends is nobody's outcome.
const NO_CLIENT: u64 = 0;

impl Link {
    /// The asking side, which is made when somebody first asks.
    pub(super) fn control(&mut self) -> Result<Handle, Failure> {
        if let Some(handle) = self.asker.as_ref().filter(|handle| !handle.is_over()) {
            return Ok(handle.clone());
        }
        let pipe = self.open_inside(CONTROL_STREAM.parse(), CONTROL_PRIORITY)?;
        let handle = Handle::start(self.bus.clock, self.own_commands.clone(), pipe);
        Ok(self.asker.insert(handle).clone())
    }

    /// A stream for a payload, with its number.
    pub(super) fn open_carrier(&mut self) -> Result<(u32, DuplexStream), Failure> {
        self.carrier = self.carrier.wrapping_add(1);
        let pipe = self.open_inside(carrier_name(self.carrier), BUS_PRIORITY_DEFAULT)?;
        Ok((self.carrier, pipe))
    }

    fn open_inside(
        &mut self,
        name: Result<netd_softbus::StreamName, netd_softbus::Error>,
        priority: u8,
    ) -> Result<DuplexStream, Failure> {
        let gone = || Failure::new(ErrorKind::Unreachable, "the session is not there any more");
        let mux = self.mux.as_mut().ok_or_else(gone)?;
        let opened = name.and_then(|name| mux.open(name, priority));
        let stream = opened.map_err(|error| Ended::from(error).why())?;
        Ok(self.pipe(stream))
    }

    /// The inner end of a stream that both sides have.
    fn pipe(&mut self, stream: StreamId) -> DuplexStream {
        let (ours, theirs) = duplex(PIPE_BYTES);
        self.pumps
            .insert(stream, (NO_CLIENT, Pump::new(stream, End::Inside(ours), Default::default(), None)));
        theirs
    }

    /// The peer opened a stream that is no client's.
    pub(super) fn offered_reserved(&mut self, stream: StreamId, name: &str) {
        let (Some(mux), Some(peer)) = (&mut self.mux, self.session.peer()) else { return };
        if name == CONTROL_STREAM {
            let device = peer.device.clone();
            // It was offered a moment ago.
            if mux.accept(stream).is_ok() {
                let pipe = self.pipe(stream);
                tokio::spawn(remote::serve(self.bus.clone(), device, self.own_commands.clone(), pipe));
            }
        } else if let Some(number) = carrier_number(name) {
            if self.carriers.len() >= CARRIERS_MAX
                && let Some((_, oldest)) = self.carriers.pop_front()
            {
                let _ = mux.refuse(oldest);
            }
            self.carriers.push_back((number, stream));
        } else {
            // A later version's, perhaps.
            let _ = mux.refuse(stream);
        }
    }

    /// The carrier of which an envelope told, if the peer opened it.
    pub(super) fn take_carrier(&mut self, number: u32) -> Option<DuplexStream> {
        let stream = self.find_carrier(number)?;
        self.mux.as_mut()?.accept(stream).ok()?;
        Some(self.pipe(stream))
    }

    /// Nobody wants it.
    pub(super) fn refuse_carrier(&mut self, number: u32) {
        if let (Some(stream), Some(mux)) = (self.find_carrier(number), &mut self.mux) {
            let _ = mux.refuse(stream);
        }
    }

    fn find_carrier(&mut self, number: u32) -> Option<StreamId> {
        let at = self.carriers.iter().position(|(waiting, _)| *waiting == number)?;
        self.carriers.remove(at).map(|(_, stream)| stream)
    }
}
