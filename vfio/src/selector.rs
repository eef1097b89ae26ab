//! Which function an operator means: by its PCI address, by its Ethernet address, or "the second NIC".

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Bdf, Error, Function, Mac, Sysfs, state};

/// How the second network function is called in configuration.
const SECOND: &str = "second";

/// A name for a network function that holds on more than one machine, or across boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Selector {
    /// The function at this PCI address.
    Address(Bdf),
    /// The function whose interface has this Ethernet address, or had it when it was taken.
    Mac(Mac),
    /// The second network function in the order of PCI addresses: the one that a cloud calls nic1.
    Second,
}

impl Selector {
    /// The function that is meant. A function that VFIO has shows no Ethernet address; `state_dir` remembers it.
    ///
    /// # Errors
    ///
    /// There is no such function; the message lists those that there are. An address of the first kind is not looked up: whoever
    /// uses the function says whether it is there.
    pub fn resolve(self, sysfs: &Sysfs, state_dir: &Path) -> Result<Bdf, Error> {
        let mac = match self {
            Selector::Address(function) => return Ok(function),
            Selector::Mac(mac) => Some(mac),
            Selector::Second => None,
        };
        let functions = sysfs.network_functions()?;
        let found = match mac {
            Some(mac) => find_mac(&functions, mac, state_dir)?,
            None => functions.get(1).map(|function| function.bdf),
        };
        found.ok_or_else(|| {
            let present: Vec<String> = functions.iter().map(|function| function.bdf.to_string()).collect();
            let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
            Error::NothingSelected { selector: self, present }
        })
    }
}

fn find_mac(functions: &[Function], mac: Mac, state_dir: &Path) -> Result<Option<Bdf>, Error> {
    let has_it =
        |function: &&Function| function.interfaces.iter().any(|interface| interface.mac == Some(mac));
    if let Some(function) = functions.iter().find(has_it) {
        return Ok(Some(function.bdf));
    }
    for function in functions {
        if state::load(state_dir, function.bdf)?.is_some_and(|record| record.mac == Some(mac)) {
            return Ok(Some(function.bdf));
        }
    }
    Ok(None)
}

impl From<Bdf> for Selector {
    fn from(function: Bdf) -> Selector {
        Selector::Address(function)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Address(function) => function.fmt(f),
            Selector::Mac(mac) => mac.fmt(f),
            Selector::Second => f.write_str(SECOND),
        }
    }
}

impl FromStr for Selector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Selector, Error> {
        if text == SECOND {
            return Ok(Selector::Second);
        }
        let address = text.parse().map(Selector::Address);
        address
            .or_else(|_| text.parse().map(Selector::Mac))
            .map_err(|_| Error::InvalidSelector { text: text.to_owned() })
    }
}

impl TryFrom<String> for Selector {
    type Error = Error;

    fn try_from(text: String) -> Result<Selector, Error> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> String {
        selector.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{MAC, Machine, nic};

    fn resolve(machine: &Machine, selector: &str) -> Result<Bdf, Error> {
        selector.parse::<Selector>()?.resolve(&machine.sysfs(), &machine.state_dir())
    }

    #[test]
    fn selector_printed_parses_back() {
        for text in ["0000:00:04.0", "42:01:0a:00:00:02", "second"] {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nonsense_parsed_is_refused_with_what_would_be_right() {
        for text in ["", "eth0", "third", "00:04", "42:01:0a:00:00"] {
            let error = text.parse::<Selector>().unwrap_err().to_string();
            assert!(error.contains("second") && error.contains("0000:00:03.0"), "{error}");
        }
    }

    #[test]
    fn mac_of_a_free_and_of_a_taken_function_finds_it() {
        let machine = Machine::with_virtio_net();
        assert_eq!(resolve(&machine, MAC).unwrap(), nic());
        crate::bind(&machine.sysfs(), nic(), &machine.bind_options()).unwrap();
        assert_eq!(machine.sysfs().function(nic()).unwrap().mac, None);
        assert_eq!(resolve(&machine, MAC).unwrap(), nic());
    }

    #[test]
    fn second_is_the_next_by_address_whoever_has_it() {
        let machine = Machine::with_virtio_net();
        assert!(resolve(&machine, "second").unwrap_err().to_string().contains("0000:00:03.0"));
        let later: Bdf = "0000:00:07.0".parse().unwrap();
        machine.add_function(later, 0x1af4, 0x1000, 0x02_0000, "vfio-pci");
        // A disk between them is no NIC.
        machine.add_function("0000:00:05.0".parse().unwrap(), 0x1af4, 0x1001, 0x01_0000, "virtio-pci");
        assert_eq!(resolve(&machine, "second").unwrap(), later);
    }

    #[test]
    fn unknown_mac_is_refused_with_those_present() {
        let machine = Machine::with_virtio_net();
        let error = resolve(&machine, "02:00:00:00:00:01").unwrap_err().to_string();
        assert!(error.contains("02:00:00:00:00:01") && error.contains("0000:00:03.0"), "{error}");
    }
}
