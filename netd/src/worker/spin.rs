//! When a worker that has nothing to do goes to sleep.
//!
//! Going to sleep and being woken costs some microseconds, so a worker looks for work a little longer first. How long pays off depends
//! on the traffic, and the last sleep tells: one that work ended soon would not have happened had the worker looked as long, so it looks
//! twice as long the next time; one that lasted shows that looking was wasted, so it looks half as long. The kernel's hypervisor
//! does the same for a processor that halts (Documentation/virt/kvm/halt-polling.rst).

use std::time::Duration;

use netd_ipc::PollMode;

/// An adaptive worker looks no shorter: less than what a sleep costs saves nothing.
const BUDGET_MIN: Duration = Duration::from_micros(10);
/// To begin with: a few round trips on a local network.
const BUDGET_FIRST: Duration = Duration::from_micros(50);
/// And no longer: as long as the kernel's hypervisor does (halt_poll_ns). Traffic that is rarer than this leaves time to sleep.
const BUDGET_MAX: Duration = Duration::from_micros(200);

/// How a worker waits, and how long it looks for work before it sleeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spin {
    mode: PollMode,
    budget: Duration,
    sleeps: u64,
}

impl Spin {
    pub(super) fn new(mode: PollMode) -> Self {
        Self { mode, budget: BUDGET_FIRST, sleeps: 0 }
    }

    pub(super) fn mode(&self) -> PollMode {
        self.mode
    }

    /// Changes the mode, and returns the one before.
    pub(super) fn set_mode(&mut self, mode: PollMode) -> PollMode {
        self.budget = BUDGET_FIRST;
        std::mem::replace(&mut self.mode, mode)
    }

    /// How long to look for work before going to sleep; none for a worker that never sleeps.
    pub(super) fn budget(&self) -> Option<Duration> {
        match self.mode {
            PollMode::Busy => None,
            PollMode::Adaptive => Some(self.budget),
            PollMode::Interrupt => Some(Duration::ZERO),
        }
    }

    /// A sleep is over: after so long, and because there was work or because its time was up.
    pub(super) fn woken(&mut self, slept: Duration, by_work: bool) {
        self.sleeps += 1;
        self.budget = match by_work && slept <= BUDGET_MAX {
            true => (self.budget * 2).min(BUDGET_MAX),
            false => (self.budget / 2).max(BUDGET_MIN),
        };
    }

    /// How often the worker went to sleep.
    pub(super) fn sleeps(&self) -> u64 {
        self.sleeps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adaptive_budget_grows_with_short_sleeps_and_shrinks_with_long_ones() {
        let mut spin = Spin::new(PollMode::Adaptive);
        for _ in 0..10 {
            spin.woken(Duration::from_micros(30), true);
        }
        assert_eq!(spin.budget(), Some(BUDGET_MAX));
        for _ in 0..10 {
            spin.woken(Duration::from_millis(5), true);
        }
        assert_eq!(spin.budget(), Some(BUDGET_MIN));
        spin.woken(Duration::from_micros(30), false);
        assert_eq!(spin.budget(), Some(BUDGET_MIN), "a timer is no traffic");
        spin.woken(Duration::from_micros(30), true);
        assert_eq!(spin.budget(), Some(BUDGET_MIN * 2));
        assert_eq!(spin.sleeps(), 22);
    }

    #[test]
    fn busy_worker_never_sleeps_and_one_on_interrupts_sleeps_at_once() {
        let mut spin = Spin::new(PollMode::Busy);
        assert_eq!(spin.budget(), None);
        assert_eq!(spin.set_mode(PollMode::Interrupt), PollMode::Busy);
        spin.woken(Duration::from_micros(1), true);
        assert_eq!((spin.budget(), spin.mode()), (Some(Duration::ZERO), PollMode::Interrupt));
    }
}
