//! Take-overs that are confirmed, are not, or are cut short at any step.

use super::*;
use crate::bind::bind;
use crate::fake::{Machine, nic};

const MINUTE: Duration = Duration::from_secs(60);
const TOKEN: &str = "1";

fn arm_nic(machine: &Machine, token: &str) -> Pledge {
    arm(&machine.sysfs(), nic(), token, MINUTE, &machine.state_dir()).unwrap()
}

fn fire_nic(machine: &Machine, token: &str) -> Result<Fired, Error> {
    fire(&machine.sysfs(), nic(), token, &machine.give_back_options(Duration::ZERO))
}

fn take(machine: &Machine) -> Result<crate::Bound, Error> {
    bind(&machine.sysfs(), nic(), &machine.bind_options())
}

fn forget_nic(machine: &Machine) {
    forget(&machine.state_dir(), nic()).unwrap();
}

fn pass(machine: &Machine, time: Duration) {
    machine.state().since_boot += time;
}

/// The function is the kernel's, with all that it had, and nothing is left of the take-over.
#[track_caller]
fn assert_is_the_kernels(machine: &Machine) {
    assert_eq!(machine.driver_of(nic()).as_deref(), Some("virtio-pci"));
    let state = machine.state();
    assert_eq!((state.addresses.len(), state.routes.len()), (1, 2));
    drop(state);
    assert!(!machine.record_exists());
    assert_eq!(pledge(&machine.state_dir(), nic()).unwrap(), None);
    assert_eq!(machine.override_of(nic()), "(null)");
}

fn configured() -> Machine {
    let machine = Machine::with_virtio_net();
    machine.state().configure();
    machine
}

#[test]
fn takeover_confirmed_stays() {
    let machine = configured();
    assert_eq!(pledge(&machine.state_dir(), nic()).unwrap(), None);
    let armed = arm_nic(&machine, TOKEN);
    take(&machine).unwrap();
    assert_eq!(confirm(&machine.sysfs(), nic(), &machine.state_dir()).unwrap(), armed);
    pass(&machine, MINUTE);
    assert!(matches!(fire_nic(&machine, TOKEN).unwrap(), Fired::Nothing));
    assert_eq!(machine.driver_of(nic()).as_deref(), Some("vfio-pci"));
    let again = confirm(&machine.sysfs(), nic(), &machine.state_dir()).unwrap_err();
    assert!(matches!(again, Error::NothingToConfirm { .. }), "{again}");
}

#[test]
fn takeover_slower_than_its_time_takes_nothing() {
    let machine = configured();
    arm_nic(&machine, TOKEN);
    pass(&machine, MINUTE);
    assert!(matches!(fire_nic(&machine, TOKEN).unwrap(), Fired::GivenBack(_)));
    let options = crate::BindOptions { pledged: Some(TOKEN.to_owned()), ..machine.bind_options() };
    let late = bind(&machine.sysfs(), nic(), &options).unwrap_err();
    assert!(matches!(late, Error::PledgeOver { .. }), "{late}");
    // Nor does it take what another promised.
    arm_nic(&machine, "2");
    assert!(matches!(bind(&machine.sysfs(), nic(), &options).unwrap_err(), Error::PledgeOver { .. }));
    forget_nic(&machine);
    assert_is_the_kernels(&machine);
}

#[test]
fn promise_of_a_takeover_that_took_nothing_is_withdrawn_and_one_that_stands_is_told() {
    let machine = configured();
    let withdraw = || withdraw(&machine.sysfs(), nic(), &machine.state_dir()).unwrap();
    let armed = arm_nic(&machine, TOKEN);
    // Its caller is gone; the next one promises nothing.
    assert_eq!(withdraw(), None);
    take(&machine).unwrap();
    pass(&machine, MINUTE);
    assert!(matches!(fire_nic(&machine, TOKEN).unwrap(), Fired::Nothing));
    assert_eq!(machine.driver_of(nic()).as_deref(), Some("vfio-pci"));
    // One that did take it stays, whoever takes it again.
    let later = arm_nic(&machine, "2");
    assert_eq!((withdraw(), later.deadline_ms), (Some(later.clone()), armed.deadline_ms + 60_000));
    assert!(matches!(fire_nic(&machine, "2").unwrap(), Fired::Early(_)));
}

#[test]
fn takeover_not_confirmed_is_given_back_at_the_deadline_and_not_before() {
    let machine = configured();
    pass(&machine, Duration::from_secs(1000));
    arm_nic(&machine, TOKEN);
    take(&machine).unwrap();
    pass(&machine, MINUTE - Duration::from_millis(1));
    assert!(
        matches!(fire_nic(&machine, TOKEN).unwrap(), Fired::Early(left) if left == Duration::from_millis(1))
    );
    assert_eq!(machine.driver_of(nic()).as_deref(), Some("vfio-pci"));
    let left = |token| left(&machine.sysfs(), nic(), token, &machine.state_dir()).unwrap();
    assert_eq!(left(TOKEN), Some(Duration::from_millis(1)));
    pass(&machine, Duration::from_millis(1));
    assert_eq!((left(TOKEN), left("2")), (Some(Duration::ZERO), None));
    assert!(matches!(fire_nic(&machine, TOKEN).unwrap(), Fired::GivenBack(_)));
    assert_is_the_kernels(&machine);
    let late = confirm(&machine.sysfs(), nic(), &machine.state_dir()).unwrap_err();
    assert!(matches!(late, Error::NothingToConfirm { .. }), "{late}");
}

#[test]
fn earlier_takeovers_timer_does_not_end_a_later_takeover() {
    let machine = configured();
    arm_nic(&machine, "1");
    pass(&machine, MINUTE / 2);
    arm_nic(&machine, "2");
    take(&machine).unwrap();
    pass(&machine, MINUTE / 2);
    assert!(matches!(fire_nic(&machine, "1").unwrap(), Fired::Nothing));
    assert!(matches!(fire_nic(&machine, "2").unwrap(), Fired::Early(_)));
}

#[test]
fn function_released_by_hand_is_not_given_back_again() {
    let machine = configured();
    arm_nic(&machine, TOKEN);
    take(&machine).unwrap();
    crate::give_back(&machine.sysfs(), nic(), &machine.give_back_options(Duration::ZERO)).unwrap();
    assert_is_the_kernels(&machine);
    pass(&machine, MINUTE);
    assert!(matches!(fire_nic(&machine, TOKEN).unwrap(), Fired::Nothing));
}

#[test]
fn function_that_is_still_held_keeps_its_pledge_for_another_try() {
    let machine = configured();
    arm_nic(&machine, TOKEN);
    take(&machine).unwrap();
    machine.state().busy_opens = 1;
    pass(&machine, MINUTE);
    assert!(matches!(fire_nic(&machine, TOKEN), Err(Error::InUse { .. })));
    assert!(matches!(fire_nic(&machine, TOKEN).unwrap(), Fired::GivenBack(_)));
    assert_is_the_kernels(&machine);
}

/// An error at the n-th thing that the kernel is told while the function is taken: it goes back at once, or by the dead man's switch.
#[test]
fn error_at_any_step_of_taking_leaves_the_function_with_the_kernel() {
    let mut step = 0;
    loop {
        let machine = configured();
        arm_nic(&machine, TOKEN);
        machine.state().fail_at(step, false);
        let taken = take(&machine);
        if taken.is_ok() {
            break;
        }
        pass(&machine, MINUTE);
        fire_nic(&machine, TOKEN).unwrap();
        assert_is_the_kernels(&machine);
        step += 1;
    }
    // driver_override, unbind, probe.
    assert_eq!(step, 3);
}

/// The same for whoever takes being killed there: nothing that it would have done afterwards happens.
#[test]
fn death_at_any_step_of_taking_is_mended_at_the_deadline() {
    for step in 0.. {
        let machine = configured();
        arm_nic(&machine, TOKEN);
        machine.state().fail_at(step, true);
        let taken = take(&machine);
        machine.state().fails_at = None;
        pass(&machine, MINUTE);
        fire_nic(&machine, TOKEN).unwrap();
        assert_is_the_kernels(&machine);
        if taken.is_ok() {
            break;
        }
    }
}

/// And for whoever gives back, whether it meets an error or dies: firing again finishes the work.
#[test]
fn error_or_death_at_any_step_of_giving_back_is_mended_by_another_try() {
    for dies in [false, true] {
        let mut step = 0;
        loop {
            let machine = configured();
            arm_nic(&machine, TOKEN);
            take(&machine).unwrap();
            pass(&machine, MINUTE);
            machine.state().fail_at(step, dies);
            let first = fire_nic(&machine, TOKEN);
            machine.state().fails_at = None;
            let second = fire_nic(&machine, TOKEN).unwrap();
            assert_is_the_kernels(&machine);
            if first.is_ok() {
                assert!(matches!(second, Fired::Nothing));
                break;
            }
            step += 1;
        }
        // driver_override, unbind, probe, driver_override; the interface, an address, two routes.
        assert_eq!(step, 8, "dies: {dies}");
    }
}

#[test]
fn unintelligible_pledge_is_an_error_that_names_the_file() {
    let machine = configured();
    arm_nic(&machine, TOKEN);
    machine.write("run/netd/takeover-0000:00:03.0.json", "{");
    let error = fire_nic(&machine, TOKEN).unwrap_err().to_string();
    assert!(error.contains("takeover-0000:00:03.0.json"), "{error}");
}
