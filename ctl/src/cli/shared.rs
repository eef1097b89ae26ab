//! Arguments of `bus files` and `bus state`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::seconds;

/// PLACE: a share, and where in it: `firmware/v2/image.bin`.
#[derive(Debug, Subcommand)]
pub(crate) enum BusFilesCommand {
    /// What a device shares (dsoftbus.discover); or what is in a share, or in a directory of it
    List {
        /// The device
        device: String,
        /// The share, or a directory in it
        #[arg(value_name = "PLACE")]
        place: Option<BusPlace>,
    },
    /// What a file is: its size, and when it was changed
    Stat {
        #[command(flatten)]
        file: BusFile,
        /// The SHA-256 of all of it as well
        #[arg(long)]
        hash: bool,
        /// How long session, hash and answer may take, in seconds
        #[arg(short = 'w', long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
        timeout: Duration,
    },
    /// Get a file, check it against its SHA-256, and write it whole or not at all
    Get(BusFileGet),
}

/// A file of a device.
#[derive(Debug, Args)]
pub(crate) struct BusFile {
    /// The device
    pub(crate) device: String,
    /// The share, and where in it the file is
    #[arg(value_name = "PLACE")]
    pub(crate) place: BusPlace,
}

#[derive(Debug, Args)]
pub(crate) struct BusFileGet {
    #[command(flatten)]
    pub(crate) file: BusFile,
    /// Write to this file. What broke off is kept beside it as FILE.part, and gone on with the next time, unless the file is another by then
    /// [default: standard output]
    #[arg(short = 'o', long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// How long all that is before the first byte may take, in seconds: the device hashes the whole file
    #[arg(short = 'w', long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
    pub(crate) timeout: Duration,
    /// Show no progress
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
}

/// A share, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BusPlace {
    pub(crate) share: String,
    /// Empty: the share's own directory.
    pub(crate) path: String,
}

impl std::str::FromStr for BusPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<BusPlace, String> {
        let (share, path) = text.split_once('/').unwrap_or((text, ""));
        if share.is_empty() {
            return Err("expected a share and a path in it, such as firmware/v2/image.bin".to_owned());
        }
        // As people end the names of directories.
        let path = path.strip_suffix('/').unwrap_or(path);
        Ok(BusPlace { share: share.to_owned(), path: path.to_owned() })
    }
}

impl std::fmt::Display for BusPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.share, self.path)
    }
}

/// KEY: `/state/shared/cameras/1`, or for short `cameras/1`.
#[derive(Debug, Subcommand)]
pub(crate) enum BusStateCommand {
    /// Print a value
    Get {
        /// Its key
        key: String,
    },
    /// Write a value (dsoftbus.share.state.write)
    Put {
        /// Its key
        key: String,
        /// The value: up to 32 KiB; - reads standard input [default: standard input]
        #[arg(allow_hyphen_values = true)]
        value: Option<String>,
        /// Only if the key has this version, as get --json and list show it
        #[arg(long, value_name = "VERSION")]
        version: Option<u64>,
        /// Only if the key is not there
        #[arg(long, conflicts_with = "version")]
        create: bool,
    },
    /// Remove a key (dsoftbus.share.state.write)
    Delete {
        /// Which
        key: String,
        /// Only if it has this version
        #[arg(long, value_name = "VERSION")]
        version: Option<u64>,
    },
    /// The keys, with their versions
    List {
        /// What they begin with, up to a '/'; without one at its end, the one of this name [default: all]
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Show what is there, and then each change as it is made
    Watch {
        /// Of which keys, as in list [default: all]
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
        /// Begin after this revision
        #[arg(long, value_name = "REVISION", default_value = "0", hide_default_value = true)]
        since: u64,
        /// End after so many
        #[arg(short = 'n', long, value_name = "COUNT")]
        count: Option<usize>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_of_a_shared_file_is_a_share_and_a_path() {
        let place = |text: &str| text.parse::<BusPlace>().map(|place| (place.share, place.path));
        let of = |share: &str, path: &str| Ok((share.to_owned(), path.to_owned()));
        assert_eq!(place("firmware/v2/image.bin"), of("firmware", "v2/image.bin"));
        assert_eq!(place("firmware"), of("firmware", ""));
        assert_eq!(place("firmware/v2/"), of("firmware", "v2"));
        assert_eq!(place("firmware/../etc"), of("firmware", "../etc"), "the device refuses it by name");
        assert!(place("/etc/passwd").is_err() && place("").is_err());
    }
}
