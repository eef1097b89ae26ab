//! The fuzz targets of `fuzz/`: built with coverage counters, and run, one on each processor, on what is known and what comes to mind.
//!
//! They are libFuzzer programs, and `cargo fuzz run TARGET --sanitizer none` from `fuzz/` works as well; building them here needs no
//! more than the stable compiler and a C++ compiler for libFuzzer itself. No sanitizer: all of the code but the driver's few argued
//! blocks is safe Rust, whose own checks (and overflow checks, and assertions) are on.
//!
//! Two corpora: `fuzz/corpus/TARGET` is committed, small, and only read; what an exploration finds is kept in the target directory, and
//! the next one begins with it. [`Run::keep`] writes the smallest set of inputs that covers as much as both back to the first.
//!
//! What decides about a change should give the same answer twice, so a [`Start::Known`] begins with the committed corpus alone and rolls
//! known dice, and differs only in how far it gets; what is new is for a [`Start::Anywhere`] to find. For that the programs lie at the same
//! addresses each time, since libFuzzer learns from every comparison, those of pointers too, and do not look every second what other processes
//! found meanwhile.

use crate::error::{Attempt, Error, Result};
use crate::process::describe;
use crate::{binaries, ensure, install};
use std::fs;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::personality::{self, Persona};

/// What `-C` flags make a program one that libFuzzer can steer: edge counters, the table of their places, and the operands of
/// comparisons. As `cargo fuzz` has them; all of them are stable flags.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0 -Ccodegen-units=16 \
    --cfg=fuzzing";

/// The longest input: two frames of the largest size, or a hundred steps of a script.
const INPUT_BYTES_MAX: u32 = 4096;
/// The committed corpus of a target has at most this many inputs of at most this length: a start, from which a run finds the rest
/// within seconds, and not a thousand files in everybody's clone.
const KEPT_MAX: usize = 64;
const KEPT_BYTES_MAX: u64 = 1024;
/// How reluctantly inputs grow, of 100: a script of a few steps shows little.
const LENGTH_CONTROL: u32 = 10;
/// An input that takes longer is a finding. Scripts take a millisecond; a busy machine may stop one for a while.
const INPUT_SECONDS_MAX: u32 = 25;
/// More resident memory is a finding: the largest harness stays below 100 MiB.
const MEMORY_MIB_MAX: u32 = 1024;
/// Lines of a failed run that are shown: the panic, the stack, and where the input was put.
const LINES_SHOWN: usize = 60;

/// The dice of [`Start::Known`].
const SEED: u32 = 1;

/// What a run begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The committed corpus and the same dice in each run.
    Known,
    /// Everything found so far, and dice of its own.
    Anywhere,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Run {
    /// These targets; all of them when empty.
    pub targets: Vec<String>,
    /// With what they begin.
    pub start: Start,
    /// How long each looks for something new.
    pub duration: Duration,
    /// Keep, minimised, what was found in the committed corpus.
    pub keep: bool,
}

impl Run {
    /// Builds and runs; fails with the first target that found something.
    pub fn start(&self) -> Result<()> {
        let known = targets()?;
        for name in &self.targets {
            ensure!(known.contains(name), "there is no fuzz target '{name}'; there are {}", known.join(", "));
        }
        let chosen = if self.targets.is_empty() { known } else { self.targets.clone() };
        install::ensure(install::FUZZING)?;
        let begun = Instant::now();
        let programs = build(&chosen)?;
        println!("built {} fuzz targets in {} s", chosen.len(), begun.elapsed().as_secs());
        let targets: Vec<Target> =
            chosen.iter().map(|name| Target::new(name, &programs)).collect::<Result<_>>()?;
        // Inherited by what this process runs. Where it is not allowed, two runs differ a little more.
        let _ = personality::get().and_then(|now| personality::set(now | Persona::ADDR_NO_RANDOMIZE));
        for together in targets.chunks(thread::available_parallelism().map_or(1, NonZero::get)) {
            thread::scope(|scope| {
                let explore =
                    |target| scope.spawn(move || Target::explore(target, self.start, self.duration));
                let runs: Vec<_> = together.iter().map(explore).collect();
                runs.into_iter().try_for_each(|run| run.join().unwrap_or_else(|panic| resume_unwind(panic)))
            })?;
        }
        if self.keep {
            targets.iter().try_for_each(Target::keep)?;
        }
        Ok(())
    }
}

fn directory() -> PathBuf {
    binaries::workspace().join("fuzz")
}

/// The names of all targets.
pub fn targets() -> Result<Vec<String>> {
    let sources = directory().join("fuzz_targets");
    let entries = fs::read_dir(&sources).attempt(|| format!("list {}", sources.display()))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort_unstable();
    Ok(names)
}

/// Builds the programs and says where they are.
fn build(targets: &[String]) -> Result<PathBuf> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = binaries::target_directory()?.join("fuzz");
    let mut command = binaries::cargo();
    command.current_dir(directory());
    // Naming the target keeps the counters out of build scripts and macros.
    command.args(["build", "--release", "--quiet", "--target", &host, "--target-dir"]).arg(&output);
    for target in targets {
        command.args(["--bin", target]);
    }
    command.env("RUSTFLAGS", COVERAGE).env_remove("CARGO_ENCODED_RUSTFLAGS");
    let status = command.status().attempt(|| format!("run {}", describe(&command)))?;
    ensure!(status.success(), "`{}` failed: {status}", describe(&command));
    Ok(output.join(host).join("release"))
}

/// One target, built.
struct Target {
    name: String,
    program: PathBuf,
    /// What is committed, and what runs on this machine found.
    committed: PathBuf,
    found: PathBuf,
}

impl Target {
    fn new(name: &str, programs: &Path) -> Result<Target> {
        let committed = directory().join("corpus").join(name);
        let found = binaries::target_directory()?.join("fuzz-corpus").join(name);
        for path in [&committed, &found] {
            fs::create_dir_all(path).attempt(|| format!("make {}", path.display()))?;
        }
        Ok(Target { name: name.to_owned(), program: programs.join(name), committed, found })
    }

    fn command(&self) -> Result<Command> {
        let findings = directory().join("artifacts");
        fs::create_dir_all(&findings).attempt(|| format!("make {}", findings.display()))?;
        let mut command = Command::new(&self.program);
        command.arg(format!("-artifact_prefix={}/{}-", findings.display(), self.name));
        command.arg(format!("-max_len={INPUT_BYTES_MAX}")).arg(format!("-len_control={LENGTH_CONTROL}"));
        command.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
        command.arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"));
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Everything that is known, then what comes to mind, for as long as it may take.
    fn explore(&self, start: Start, duration: Duration) -> Result<()> {
        let mut command = self.command()?;
        command.arg(format!("-max_total_time={}", duration.as_secs().max(1))).arg("-print_final_stats=1");
        // The first corpus that is named gets what is found.
        let forgotten = tempfile::tempdir().attempt(|| "make a temporary directory".to_owned())?;
        match start {
            Start::Known => command.arg(format!("-seed={SEED}")).arg("-reload=0").arg(forgotten.path()),
            Start::Anywhere => command.arg(&self.found),
        };
        let output = finish(command.arg(&self.committed))?;
        let value = |name: &str| {
            let line = output.lines().find_map(|line| line.strip_prefix(name));
            line.map_or("?", str::trim).to_owned()
        };
        let covered = output.lines().rev().find_map(|line| line.split(" cov: ").nth(1));
        println!(
            "{:<14} {:>9} inputs, {:>6} a second, {:>5} edges",
            self.name,
            value("stat::number_of_executed_units:"),
            value("stat::average_exec_per_sec:"),
            covered.and_then(|rest| rest.split(' ').next()).unwrap_or("?"),
        );
        Ok(())
    }

    /// The fewest inputs of both corpora that cover as much as all of them become the committed one.
    fn keep(&self) -> Result<()> {
        let smallest =
            tempfile::tempdir_in(directory()).attempt(|| "make a temporary directory".to_owned())?;
        let mut command = self.command()?;
        finish(command.arg("-set_cover_merge=1").arg(smallest.path()).arg(&self.committed).arg(&self.found))?;
        thin_out(smallest.path())?;
        let earlier = self.committed.with_extension("earlier");
        fs::rename(&self.committed, &earlier).attempt(|| format!("move {}", self.committed.display()))?;
        fs::rename(smallest.keep(), &self.committed).attempt(|| "move the new corpus".to_owned())?;
        fs::remove_dir_all(&earlier).attempt(|| format!("remove {}", earlier.display()))
    }
}

/// Leaves the bounded number of inputs, of lengths from the shortest to the longest.
fn thin_out(corpus: &Path) -> Result<()> {
    let entries = fs::read_dir(corpus).attempt(|| format!("list {}", corpus.display()))?;
    let mut inputs: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| entry.ok().and_then(|entry| Some((entry.metadata().ok()?.len(), entry.path()))))
        .collect();
    inputs.sort();
    let short = inputs.partition_point(|(len, _)| *len <= KEPT_BYTES_MAX);
    let step = short.div_ceil(KEPT_MAX).max(1);
    let superfluous =
        inputs.iter().enumerate().filter(|(index, _)| *index >= short || !index.is_multiple_of(step));
    for (_, (_, path)) in superfluous {
        fs::remove_file(path).attempt(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Runs a target to its end; what it said is shown only when it failed.
fn finish(command: &mut Command) -> Result<String> {
    let output = command.output().attempt(|| format!("run {}", describe(command)))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let lines: Vec<&str> = said.lines().collect();
    eprintln!("{}", lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n"));
    let input = lines.iter().find_map(|line| line.split("Test unit written to ").nth(1));
    let replay = input.map_or_else(String::new, |input| {
        format!("; once more with `{} {}`", command.get_program().to_string_lossy(), input.trim())
    });
    Err(Error::Expectation(format!("`{}` failed: {}{replay}", describe(command), output.status)))
}
