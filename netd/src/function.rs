//! `netd function`: network functions, and which of them the kernel has.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use netd_vfio::{
    Bdf, BindOptions, Bound, Error, Function, GiveBackOptions, GivenBack, STATE_DIRECTORY, Selector, Sysfs,
    bind, give_back,
};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Show every PCI network function.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a function from its kernel driver: bind it to vfio-pci.
    Bind {
        /// Its PCI address (`0000:00:03.0`), its Ethernet address, or `second`: the machine's second network function.
        function: Selector,
        /// Take it even if the default route goes through it. This can lock you out.
        #[arg(long)]
        allow_default_route: bool,
        /// Where to remember what it was.
        #[arg(long, value_name = "DIRECTORY", default_value = STATE_DIRECTORY)]
        state: PathBuf,
    },
    /// Give a function back to the kernel driver that it had.
    Release {
        /// Its PCI address (`0000:00:03.0`), its Ethernet address, or `second`: the machine's second network function.
        function: Selector,
        /// Where it is remembered what it was.
        #[arg(long, value_name = "DIRECTORY", default_value = STATE_DIRECTORY)]
        state: PathBuf,
        /// How long to wait for another process to let it go.
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        wait: u64,
        /// Where the memory of a daemon that was killed may still lie; it is freed.
        #[arg(long, value_name = "DIRECTORY", default_value = "/dev/hugepages")]
        hugetlbfs: PathBuf,
    },
}

pub(crate) fn run(command: &Command) -> Result<(), Error> {
    let sysfs = Sysfs::system();
    match command {
        Command::List { json } => list(&sysfs.network_functions()?, *json),
        Command::Bind { function, allow_default_route, state } => {
            let function = function.resolve(&sysfs, state)?;
            let options = BindOptions {
                allow_default_route: *allow_default_route,
                state_dir: state.clone(),
                pledged: None,
            };
            let Bound { previous_driver, isolation, mac } = bind(&sysfs, function, &options)?;
            let driver = previous_driver.unwrap_or_else(|| "no driver".to_owned());
            let mac = mac.map_or_else(String::new, |mac| format!(", {mac}"));
            println!("{function}: bound to vfio-pci (was {driver}{mac}), isolation {isolation}");
        }
        Command::Release { function, state, wait, hugetlbfs } => {
            let function = function.resolve(&sysfs, state)?;
            let options = GiveBackOptions {
                state_dir: state.clone(),
                wait: Duration::from_secs(*wait),
                evict: false,
                hugetlbfs: hugetlbfs.clone(),
            };
            let GivenBack { driver, interfaces, restored } = give_back(&sysfs, function, &options)?;
            let driver = driver.unwrap_or_else(|| "no driver".to_owned());
            let names: Vec<String> = interfaces.into_iter().map(|interface| interface.name).collect();
            let names =
                if names.is_empty() { String::new() } else { format!(", interface {}", names.join(", ")) };
            let restored = [restored.addresses, restored.routes].concat();
            let restored =
                if restored.is_empty() { String::new() } else { format!(", with {}", restored.join(", ")) };
            println!("{function}: given back to {driver}{names}{restored}");
        }
    }
    Ok(())
}

fn list(functions: &[Function], json: bool) {
    if json {
        match serde_json::to_string_pretty(functions) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("netd: {error}"),
        }
        return;
    }
    if functions.is_empty() {
        println!("no PCI network function on this machine");
        return;
    }
    println!(
        "{:<13} {:<10} {:<12} {:<6} {:<18} {:<12} NOTES",
        "FUNCTION", "ID", "DRIVER", "GROUP", "MAC", "INTERFACE"
    );
    for function in functions {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let names: Vec<&str> = function.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        println!(
            "{:<13} {:<10} {:<12} {:<6} {:<18} {:<12} {}",
            function.bdf.to_string(),
            format!("{:04x}:{:04x}", function.vendor_id, function.device_id),
            or_dash(function.driver.clone()),
            or_dash(function.iommu_group.map(|group| group.to_string())),
            or_dash(function.mac.map(|mac| mac.to_string())),
            if names.is_empty() { "-".to_owned() } else { names.join(",") },
            notes(function),
        );
    }
}

fn notes(function: &Function) -> String {
    let mut notes = Vec::new();
    if !function.is_virtio_net() {
        notes.push("not virtio-net".to_owned());
    }
    if function.default_route {
        notes.push("carries the default route".to_owned());
    }
    if !function.group_members.is_empty() {
        let others: Vec<String> = function.group_members.iter().map(Bdf::to_string).collect();
        notes.push(format!("shares its group with {}", others.join(", ")));
    }
    notes.join(", ")
}
