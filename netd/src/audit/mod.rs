//! The audit of denials: one line for each, at a bounded rate, and the marker that the devnet switch held.
//!
//! Lines go to `tracing` under the target `audit`. A client that is denied in a loop must not fill the disk: beyond the
//! rate, denials are counted, and the next line that is written says how many were not.

mod denied;

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netd_policy::{Denial, Request, Rule, Subject, SubjectPattern};

pub use self::denied::Denied;
use self::denied::Memory;

use crate::bucket::Bucket;

/// The line on standard output that tells a test, or a person at the console, of a denial by the devnet switch.
pub const DEVNET_MARKER: &str = "net: devnet off deny";

/// Denials written at once: as many as a person reads on one screen.
const BURST: u32 = 20;
/// Denials written per second after that; at 300 bytes a line, 130 MB a day at the very most.
const PER_SECOND: u32 = 5;

/// Where denials are written. The control thread and the workers share one.
pub struct Audit {
    state: Mutex<State>,
}

struct State {
    started: Instant,
    bucket: Bucket,
    suppressed: u64,
    memory: Memory,
    console: Box<dyn Write + Send>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

impl Default for Audit {
    fn default() -> Audit {
        Audit::new(Box::new(io::stdout()))
    }
}

impl Audit {
    /// An audit whose markers go to `console`.
    pub fn new(console: Box<dyn Write + Send>) -> Audit {
        let bucket = Bucket::new(BURST, PER_SECOND, Duration::ZERO);
        let started = Instant::now();
        let state = State { started, bucket, suppressed: 0, memory: Memory::default(), console };
        Audit { state: Mutex::new(state) }
    }

    /// Records a denial.
    pub fn denied(&self, subject: &Subject, request: &Request, error: Denial, rule: &Rule) {
        // A panic elsewhere while the lock was held leaves a bucket and a counter, both whole.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.memory.add(subject, request);
        let now = state.started.elapsed();
        if !state.bucket.take(now) {
            state.suppressed += 1;
            return;
        }
        let suppressed = std::mem::take(&mut state.suppressed);
        let Subject { uid, gid, pid, unit } = subject;
        let unit = unit.as_deref().unwrap_or("-");
        tracing::warn!(target: "audit", uid, gid, pid, unit, %request, ?error, %rule, suppressed, "denied");
        if error == Denial::DevnetDisabled {
            // Nobody may be reading standard output any more, and that is no reason to stop serving.
            let _ = writeln!(state.console, "{DEVNET_MARKER}").and_then(|()| state.console.flush());
        }
    }

    /// What `who` was denied since the number `since`, the oldest first, and the number to go on with. Also what was not written.
    pub fn denied_since(&self, since: u64, who: &SubjectPattern) -> (Vec<Denied>, u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).memory.since(since, who)
    }

    /// Records that a flow was cut because the rules changed. All of these are written: there are never more than flows.
    pub fn cut(&self, subject: &Subject, request: &Request, rule: &Rule) {
        let Subject { uid, gid, pid, unit } = subject;
        let unit = unit.as_deref().unwrap_or("-");
        tracing::warn!(target: "audit", uid, gid, pid, unit, %request, %rule, "cut");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A console that the test can read.
    #[derive(Clone, Default)]
    struct Console(Arc<Mutex<Vec<u8>>>);

    impl Write for Console {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn deny(audit: &Audit, error: Denial) {
        let subject = Subject { uid: 1, gid: 1, pid: 1, unit: None };
        audit.denied(&subject, &Request::TcpListen { port: None }, error, &Rule::Devnet);
    }

    #[test]
    fn denied_by_devnet_prints_the_marker_once_and_other_denials_none() {
        let console = Console::default();
        let audit = Audit::new(Box::new(console.clone()));
        deny(&audit, Denial::PolicyDenied);
        deny(&audit, Denial::DevnetDisabled);
        assert_eq!(*console.0.lock().unwrap(), b"net: devnet off deny\n");
    }

    #[test]
    fn denied_in_a_loop_prints_a_burst_and_counts_the_rest() {
        let console = Console::default();
        let audit = Audit::new(Box::new(console.clone()));
        (0..1000).for_each(|_| deny(&audit, Denial::DevnetDisabled));
        let lines = console.0.lock().unwrap().iter().filter(|byte| **byte == b'\n').count();
        // A slow machine may refill a few within the loop.
        assert!((BURST as usize..100).contains(&lines), "{lines}");
        assert_eq!(audit.state.lock().unwrap().suppressed as usize, 1000 - lines);
    }
}
