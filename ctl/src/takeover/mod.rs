//! takeover, confirm, release: a network function changes hands, and comes back by itself unless somebody says that all is well.

mod guard;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netd_vfio::{
    Bdf, BindOptions, Bound, GiveBackOptions, GivenBack, Sysfs, bind, check_bindable, deadman, give_back,
};
use serde::Serialize;

pub(crate) use guard::run as guard;

use crate::cli;
use crate::error::Error;
use crate::output::{Output, list, or_dash};

/// Shorter, nobody has looked at anything; longer, whoever is locked out has called somebody with a console.
const CONFIRM_SECONDS: std::ops::RangeInclusive<u64> = 2..=3600;

/// What a take-over did.
#[derive(Debug, Serialize)]
struct TakenOver {
    function: Bdf,
    #[serde(flatten)]
    bound: Bound,
    /// Within how many seconds it has to be confirmed.
    confirm_seconds: Option<u64>,
    /// Who gives it back otherwise.
    guard: Option<String>,
}

pub(crate) fn takeover(output: &Output, arguments: &cli::Takeover) -> Result<ExitCode, Error> {
    let sysfs = Sysfs::system();
    let function = arguments.function.resolve(&sysfs, &arguments.state)?;
    let mut options = BindOptions {
        allow_default_route: arguments.allow_default_route,
        state_dir: arguments.state.clone(),
        pledged: None,
    };
    // A refusal should not leave a timer behind.
    check_bindable(&sysfs, function, &options)?;
    // The timer first: from here on, whatever happens to us, somebody gives the function back.
    let (confirm_seconds, guard) = match arguments.confirm {
        Some(time) => {
            let pledge = deadman::arm(&sysfs, function, &token(), time, &arguments.state)?;
            options.pledged = Some(pledge.token.clone());
            (Some(time.as_secs()), Some(guard::start(&pledge, time, &arguments.state)?))
        }
        None => match deadman::withdraw(&sysfs, function, &arguments.state)? {
            // It is taken already, and whoever took it has not said yet that all is well.
            Some(pledge) => {
                (Some(pledge.left(&sysfs).as_secs()), Some("the guard of an earlier take-over".to_owned()))
            }
            None => (None, None),
        },
    };
    let bound = bind(&sysfs, function, &options)?;
    let taken = TakenOver { function, bound, confirm_seconds, guard };
    output.result(&taken, || taken_text(&taken))?;
    Ok(ExitCode::SUCCESS)
}

fn taken_text(taken: &TakenOver) -> String {
    let TakenOver { function, bound, confirm_seconds, guard } = taken;
    let Bound { previous_driver, isolation, mac } = bound;
    let was = or_dash(previous_driver.as_deref());
    let mut text = format!("{function}: taken (was {was}, {}), isolation {isolation}\n", or_dash(*mac));
    if let (Some(seconds), Some(guard)) = (confirm_seconds, guard) {
        text.push_str(&format!(
            "Given back in {seconds} s by {guard}, unless you say that all is well: netctl confirm {function}\n"
        ));
    }
    text
}

/// Tells a take-over from every other of this boot: no process number is given twice within a nanosecond.
fn token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", std::process::id(), now.as_nanos())
}

pub(crate) fn confirm(output: &Output, arguments: &cli::Confirm) -> Result<ExitCode, Error> {
    let sysfs = Sysfs::system();
    let function = arguments.function.resolve(&sysfs, &arguments.state)?;
    let pledge = deadman::confirm(&sysfs, function, &arguments.state)?;
    guard::stop(&pledge);
    output.result(&pledge, || format!("{function}: confirmed, it stays with netd\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn release(output: &Output, arguments: &cli::Release) -> Result<ExitCode, Error> {
    let sysfs = Sysfs::system();
    let function = arguments.function.resolve(&sysfs, &arguments.state)?;
    let options = GiveBackOptions {
        state_dir: arguments.state.clone(),
        wait: arguments.wait,
        evict: arguments.force,
        ..GiveBackOptions::default()
    };
    let given = give_back(&sysfs, function, &options)?;
    output.result(&given, || given_text(function, &given))?;
    Ok(ExitCode::SUCCESS)
}

fn given_text(function: Bdf, given: &GivenBack) -> String {
    let GivenBack { driver, interfaces, restored } = given;
    let names: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let driver = driver.as_deref().unwrap_or("no driver");
    let mut text = format!("{function}: given back to {driver}, interface {}\n", list(&names));
    if !restored.addresses.is_empty() {
        text.push_str(&format!("addresses: {}\n", restored.addresses.join(", ")));
    }
    if !restored.routes.is_empty() {
        text.push_str(&format!("routes: {}\n", restored.routes.join(", ")));
    }
    text
}

/// A time as people write it: 90, 90s, 5m.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    let (least, most) = CONFIRM_SECONDS.into_inner();
    seconds
        .filter(|seconds| (least..=most).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| format!("expected a time such as 60s or 5m, from {least}s to {}m", most / 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_has_seconds_or_minutes_within_bounds() {
        for (text, seconds) in [("60", 60), ("60s", 60), ("5m", 300), ("60m", 3600)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "1", "61m", "1h", "-5", "1.5m", "99999999999999999999"] {
            assert!(time(text).unwrap_err().contains("60s or 5m"), "{text}");
        }
    }

    #[test]
    fn takeover_told_says_how_to_confirm() {
        let bound = Bound {
            previous_driver: Some("virtio-pci".to_owned()),
            isolation: netd_vfio::Isolation::Iommu,
            mac: None,
        };
        let function = "0000:00:04.0".parse().unwrap();
        let taken = TakenOver { function, bound, confirm_seconds: Some(60), guard: Some("x".to_owned()) };
        assert!(taken_text(&taken).contains("in 60 s by x, unless"));
        assert!(taken_text(&taken).contains("netctl confirm 0000:00:04.0"));
        let json = serde_json::to_value(&taken).unwrap();
        assert_eq!((&json["isolation"], &json["confirm_seconds"]), (&"iommu".into(), &60.into()));
    }
}
