//! The agent: starts programs on the host's request and streams what they print.
//!
//! One thread reads requests; each program has four of its own (its input, its two outputs, its end). The port is
//! written under a lock, a whole frame at a time. A program's end is told after both of its outputs are drained.

use netd_tests::guest::protocol::{self, Event, PAYLOAD_BYTES_MAX, PORT_NAME, Request, Spawn};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long the port may take to appear.
const PORT_LIMIT: Duration = Duration::from_secs(10);
/// Chunks of input that wait for one program. A program that does not read stops the agent after these (4 MiB), which
/// is preferred to a guest that runs out of memory.
const STDIN_CHUNKS_MAX: usize = 64;

/// The port's writing side, shared by every thread that reports.
type Port = Arc<Mutex<File>>;

struct Program {
    pid: u32,
    /// `None` once the host said that there is no more input.
    stdin: Option<SyncSender<Vec<u8>>>,
}

/// Serves requests until the host closes its end.
pub(crate) fn run() -> io::Result<()> {
    let mut requests = open_port()?;
    let port: Port = Arc::new(Mutex::new(requests.try_clone()?));
    let programs: Arc<Mutex<HashMap<u32, Program>>> = Arc::default();
    report(&port, 0, &Event::Hello);
    loop {
        let (process, request) = match protocol::receive(&mut requests) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            received => received?,
        };
        match request {
            Request::Spawn(spawn) => start(process, &spawn, &port, &programs),
            Request::Stdin(bytes) => {
                let stdin = lock(&programs).get(&process).and_then(|program| program.stdin.clone());
                // A program that has ended no longer reads; its end is reported by its own thread.
                let _ended = stdin.map(|stdin| stdin.send(bytes));
            }
            Request::StdinEnd => {
                if let Some(program) = lock(&programs).get_mut(&process) {
                    program.stdin = None;
                }
            }
            Request::Signal(number) => {
                let pid = lock(&programs).get(&process).map(|program| program.pid);
                signal(pid, number);
            }
        }
    }
}

/// The driver learns of the port from the device a moment after it was loaded.
fn open_port() -> io::Result<File> {
    let deadline = Instant::now() + PORT_LIMIT;
    loop {
        if let Some(path) = find_port()? {
            return OpenOptions::new().read(true).write(true).open(path);
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no virtio port {PORT_NAME:?}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The node's own name counts virtio devices, so it depends on how many NICs there are.
fn find_port() -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT_NAME {
            return Ok(Some(Path::new("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

fn start(process: u32, spawn: &Spawn, port: &Port, programs: &Arc<Mutex<HashMap<u32, Program>>>) {
    let mut child = match command(spawn).and_then(|mut command| command.spawn()) {
        Ok(child) => child,
        Err(error) => {
            return report(port, process, &Event::Refused(format!("cannot run {:?}: {error}", spawn.argv)));
        }
    };
    let pid = child.id();
    let (stdin_sender, stdin_chunks) = sync_channel(STDIN_CHUNKS_MAX);
    lock(programs).insert(process, Program { pid, stdin: Some(stdin_sender) });
    report(port, process, &Event::Started(pid));
    if let Some(stdin) = child.stdin.take() {
        thread::spawn(move || feed(stdin, &stdin_chunks));
    }
    let (port, programs) = (Arc::clone(port), Arc::clone(programs));
    thread::spawn(move || {
        let end = watch(child, process, &port);
        lock(&programs).remove(&process);
        report(&port, process, &end);
    });
}

fn command(spawn: &Spawn) -> io::Result<Command> {
    let (program, arguments) = spawn
        .argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an empty command"))?;
    let mut command = Command::new(program);
    command.args(arguments).envs(&spawn.env);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(uid) = spawn.uid {
        command.uid(uid).gid(uid);
    }
    Ok(command)
}

fn feed(mut stdin: ChildStdin, chunks: &Receiver<Vec<u8>>) {
    for chunk in chunks {
        if stdin.write_all(&chunk).is_err() {
            return;
        }
    }
}

/// Streams both outputs, then waits for the end. A descendant that keeps an output open delays the end: as with ssh.
fn watch(mut child: Child, process: u32, port: &Port) -> Event {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        scope.spawn(|| stdout.map(|output| stream(output, process, port, Event::Stdout)));
        scope.spawn(|| stderr.map(|output| stream(output, process, port, Event::Stderr)));
    });
    match child.wait() {
        Ok(status) => match status.signal() {
            Some(signal) => Event::Signaled(signal),
            None => Event::Exited(status.code().unwrap_or(-1)),
        },
        Err(error) => Event::Refused(format!("cannot wait for process {}: {error}", child.id())),
    }
}

fn stream(mut output: impl Read, process: u32, port: &Port, event: fn(Vec<u8>) -> Event) {
    let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
    while let Ok(count @ 1..) = output.read(&mut buffer) {
        report(port, process, &event(buffer[..count].to_vec()));
    }
}

fn signal(pid: Option<u32>, number: i32) {
    let pid = pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(number)) {
        // A process that has just ended needs no signal.
        let _ended = kill_process(pid, signal);
    }
}

fn report(port: &Port, process: u32, event: &Event) {
    // A port that cannot be written means that the host is gone: the reading loop sees it and ends the agent.
    let _host_gone = protocol::send(&mut *lock(port), process, event);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
