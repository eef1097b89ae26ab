//! The mode of polling, changed while the worker runs.

use std::thread;
use std::time::Duration;

use netd_ipc::PollMode;

use super::{Lab, wait};
use crate::command::{Command, Reply};

fn sleeps(lab: &mut Lab) -> u64 {
    let Reply::Statistics(statistics) = lab.call(Command::Statistics) else { panic!("no statistics") };
    statistics.counters["worker_sleeps"]
}

fn set(lab: &mut Lab, mode: PollMode) -> PollMode {
    let Reply::Poll(previous) = lab.call(Command::SetPoll { mode }) else { panic!("no mode") };
    previous
}

#[test]
fn worker_told_to_be_busy_sleeps_no_more_until_told_otherwise() {
    let mut lab = Lab::new();
    assert_eq!(set(&mut lab, PollMode::Busy), PollMode::Adaptive);
    let before = sleeps(&mut lab);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(sleeps(&mut lab), before);
    let Reply::Device(device) = lab.call(Command::Device) else { panic!("no device") };
    assert_eq!((device.poll, device.spin_us), (PollMode::Busy, None));
    for mode in [PollMode::Interrupt, PollMode::Adaptive] {
        let before = sleeps(&mut lab);
        set(&mut lab, mode);
        wait("a sleep", || (sleeps(&mut lab) > before).then_some(()));
    }
}
