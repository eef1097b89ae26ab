//! What a process uses of the machine, as the kernel accounts for it.

use crate::error::{Attempt, Error, Result};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Processor time of the calling thread: what a computation costs, whoever else wants the processor meanwhile.
pub(super) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Processor time that a process has used, all its threads together, from the text of /proc/PID/stat (proc(5): utime and stime).
pub(super) fn cpu_time(stat: &str, ticks_per_second: u64) -> Result<Duration> {
    // The command's name, in parentheses, may hold anything; the state follows it, and utime is the 12th word from there.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut ticks = fields.split_whitespace().skip(11).map_while(|word| word.parse::<u64>().ok());
    match (ticks.next(), ticks.next()) {
        (Some(user), Some(system)) => {
            Ok(Duration::from_secs_f64((user + system) as f64 / ticks_per_second as f64))
        }
        _ => Err(Error::Expectation(format!("no processor time in {stat:?}"))),
    }
}

/// Processor time of a process on this machine.
pub(super) fn cpu_time_of(pid: u32) -> Result<Duration> {
    cpu_time(&read(&format!("/proc/{pid}/stat"))?, rustix::param::clock_ticks_per_second())
}

/// Memory of a process and of the kernel, in bytes.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    /// The process's own share of what is resident (PSS).
    pub(super) process: u64,
    /// Its page tables.
    pub(super) page_tables: u64,
    /// The kernel's slab, of everybody.
    pub(super) slab: u64,
    /// By cache: objects in use, and the size of each.
    pub(super) caches: BTreeMap<String, (u64, u64)>,
}

impl Memory {
    /// What process `pid` and the kernel use now.
    pub(super) fn of(pid: u32) -> Result<Memory> {
        Ok(Memory {
            process: kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")?,
            page_tables: kib(&format!("/proc/{pid}/status"), "VmPTE:")?,
            slab: kib("/proc/meminfo", "Slab:")?,
            caches: slab_caches(&fs::read_to_string("/proc/slabinfo").unwrap_or_default()),
        })
    }
}

/// Caches by name from the text of /proc/slabinfo, which only root may read.
fn slab_caches(slabinfo: &str) -> BTreeMap<String, (u64, u64)> {
    let cache = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let (active, _total, size) =
            (words.next()?.parse().ok()?, words.next()?.parse::<u64>().ok()?, words.next()?.parse().ok()?);
        Some((name, (active, size)))
    };
    slabinfo.lines().filter_map(cache).collect()
}

/// A line of the form "NAME   123 kB", in bytes.
fn kib(path: &str, name: &str) -> Result<u64> {
    let text = read(path)?;
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    let kib: u64 = value.ok_or_else(|| Error::Expectation(format!("{path} has no line {name:?}")))?;
    Ok(kib * 1024)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).attempt(|| format!("read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_a_process_with_an_odd_name_is_found() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 1 2 3";
        assert_eq!(cpu_time(stat, 100).unwrap(), Duration::from_secs(3));
        assert!(cpu_time("7 (a) S 1", 100).is_err());
    }

    #[test]
    fn slab_caches_are_read_with_their_sizes_and_titles_are_not() {
        let text = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\nfilp 300 320 256 16 1 : tunables\n";
        assert_eq!(slab_caches(text), BTreeMap::from([("filp".to_owned(), (300, 256))]));
    }
}
