//! The audit of denials: one line for each, at a bounded rate, and the marker that the devnet switch held.
//!
//! Lines go to `tracing` under the target `audit`. A client that is denied in a loop must not fill the disk: beyond the
//! rate, denials are counted, and the next line that is written says how many were not.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netd_policy::{Denial, Request, Rule, Subject};

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
    bucket: Bucket,
    suppressed: u64,
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
        let bucket = Bucket { tokens: BURST, refilled: Instant::now() };
        Audit { state: Mutex::new(State { bucket, suppressed: 0, console }) }
    }

    /// Records a denial.
    pub fn denied(&self, subject: &Subject, request: &Request, error: Denial, rule: &Rule) {
        // A panic elsewhere while the lock was held leaves a bucket and a counter, both whole.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.bucket.take(Instant::now()) {
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
}

/// A token bucket.
struct Bucket {
    tokens: u32,
    refilled: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let interval = Duration::from_secs(1) / PER_SECOND;
        let elapsed = now.saturating_duration_since(self.refilled);
        let due = elapsed.as_nanos() / interval.as_nanos();
        let due = u32::try_from(due).unwrap_or(BURST).min(BURST);
        if self.tokens + due >= BURST {
            (self.tokens, self.refilled) = (BURST, now);
        } else {
            self.tokens += due;
            self.refilled += interval * due;
        }
        let has = self.tokens > 0;
        self.tokens -= u32::from(has);
        has
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

    #[test]
    fn take_refills_at_the_rate_and_never_beyond_the_burst() {
        let start = Instant::now();
        let mut bucket = Bucket { tokens: 0, refilled: start };
        assert!(!bucket.take(start));
        assert!(bucket.take(start + Duration::from_millis(200)));
        assert!(!bucket.take(start + Duration::from_millis(399)));
        assert!(bucket.take(start + Duration::from_millis(400)));
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| bucket.take(later)).count(), BURST as usize);
    }
}
