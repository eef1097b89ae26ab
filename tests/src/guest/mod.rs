//! A running guest as the host sees it: programs to start, their output and their end.

pub mod protocol;

use crate::error::{Attempt, Error, Result};
use protocol::{Event, PAYLOAD_BYTES_MAX, Request, Spawn};
use std::collections::HashMap;
use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A command in an emulated guest takes some ten times its native time; a minute means that it hangs.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// The harness's end of the conversation with the agent. Clones talk to the same guest.
#[derive(Clone, Debug)]
pub struct Guest {
    connection: Arc<Connection>,
}

#[derive(Debug)]
struct Connection {
    writer: Mutex<UnixStream>,
    /// Where the events of each process go. Emptied when the guest is gone, which wakes everyone who waits.
    processes: Mutex<HashMap<u32, Sender<Event>>>,
    next: AtomicU32,
}

impl Guest {
    /// Waits for the agent's greeting on a fresh connection.
    pub fn greet(stream: UnixStream, limit: Duration) -> Result<Guest> {
        stream.set_read_timeout(Some(limit)).attempt(|| "set the guest's deadline".to_owned())?;
        let reader = stream.try_clone().attempt(|| "share the guest's connection".to_owned())?;
        let mut reader = BufReader::new(reader);
        match protocol::receive(&mut reader) {
            Ok((0, Event::Hello)) => {}
            Ok((_, other)) => return Err(Error::Guest(format!("greeted with {other:?}"))),
            Err(error) => return Err(Error::Guest(format!("no greeting within {limit:?}: {error}"))),
        }
        stream.set_read_timeout(None).attempt(|| "clear the guest's deadline".to_owned())?;
        let connection = Arc::new(Connection {
            writer: Mutex::new(stream),
            processes: Mutex::default(),
            next: AtomicU32::new(1),
        });
        let dispatcher = Arc::clone(&connection);
        thread::spawn(move || {
            while let Ok((process, event)) = protocol::receive::<Event>(&mut reader) {
                if let Some(receiver) = lock(&dispatcher.processes).get(&process) {
                    // Nobody waits for a process whose handle was dropped.
                    let _dropped = receiver.send(event);
                }
            }
            lock(&dispatcher.processes).clear();
        });
        Ok(Guest { connection })
    }

    /// A program to run in the guest: first the program, then its arguments.
    pub fn command<S: AsRef<str>>(&self, argv: &[S]) -> GuestCommand {
        let argv = argv.iter().map(|word| word.as_ref().to_owned()).collect();
        GuestCommand {
            guest: self.clone(),
            spawn: Spawn { argv, ..Spawn::default() },
            stdin: Vec::new(),
            limit: COMMAND_LIMIT,
        }
    }

    /// A shell script to run in the guest.
    pub fn script(&self, script: &str) -> GuestCommand {
        self.command(&["sh", "-c", script])
    }

    /// Runs a program that must succeed, and returns its standard output.
    pub fn run<S: AsRef<str>>(&self, argv: &[S]) -> Result<String> {
        self.command(argv).run()
    }

    /// The text of a file in the guest.
    pub fn read_file(&self, path: &str) -> Result<String> {
        self.run(&["cat", path])
    }

    /// Writes a file in the guest.
    pub fn write_file(&self, path: &str, content: &[u8]) -> Result<()> {
        self.command(&["dd", "bs=64k", &format!("of={path}")]).stdin(content).run().map(drop)
    }

    fn send(&self, process: u32, request: &Request) -> Result<()> {
        let sent = protocol::send(&mut *lock(&self.connection.writer), process, request);
        sent.map_err(|error| Error::Guest(format!("is gone: {error}")))
    }
}

/// A program to run in the guest, not yet started.
#[derive(Debug)]
pub struct GuestCommand {
    guest: Guest,
    spawn: Spawn,
    stdin: Vec<u8>,
    limit: Duration,
}

impl GuestCommand {
    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.spawn.env.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Runs it as this user and the group of the same number, without supplementary groups.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.spawn.uid = Some(uid);
        self
    }

    /// What it reads from standard input (nothing unless set).
    #[must_use]
    pub fn stdin(mut self, bytes: &[u8]) -> Self {
        bytes.clone_into(&mut self.stdin);
        self
    }

    /// How long [`output`](Self::output) and [`run`](Self::run) wait.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end, whatever that is.
    pub fn output(self) -> Result<Output> {
        let (limit, stdin) = (self.limit, self.stdin.clone());
        let mut process = self.spawn()?;
        process.write(&stdin)?;
        process.close_stdin()?;
        process.wait(limit)
    }

    /// Runs it to its end, which must be a success, and returns its standard output.
    pub fn run(self) -> Result<String> {
        self.output()?.success()
    }

    /// Starts it and leaves it running with its standard input open.
    pub fn spawn(self) -> Result<Process> {
        let connection = &self.guest.connection;
        let number = connection.next.fetch_add(1, Ordering::Relaxed);
        let (sender, events) = channel();
        lock(&connection.processes).insert(number, sender);
        let command = self.spawn.argv.join(" ");
        self.guest.send(number, &Request::Spawn(self.spawn))?;
        let mut process = Process {
            guest: self.guest,
            number,
            events,
            pid: 0,
            output: Output { command, ..Output::default() },
            ended: false,
        };
        let started = process.advance(Instant::now() + COMMAND_LIMIT)?;
        match started {
            Some(Event::Started(pid)) => process.pid = pid,
            other => return Err(Error::Guest(format!("`{}`: {other:?}", process.output.command))),
        }
        Ok(process)
    }
}

/// A program that was started in the guest. Dropping the handle leaves it running.
#[derive(Debug)]
pub struct Process {
    guest: Guest,
    number: u32,
    events: Receiver<Event>,
    pid: u32,
    output: Output,
    ended: bool,
}

impl Process {
    /// Its process id in the guest.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal by number.
    pub fn signal(&self, number: i32) -> Result<()> {
        self.guest.send(self.number, &Request::Signal(number))
    }

    /// Writes to its standard input.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        for chunk in bytes.chunks(PAYLOAD_BYTES_MAX) {
            self.guest.send(self.number, &Request::Stdin(chunk.to_vec()))?;
        }
        Ok(())
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) -> Result<()> {
        self.guest.send(self.number, &Request::StdinEnd)
    }

    /// What it has printed so far, without waiting.
    pub fn output_so_far(&mut self) -> Result<&Output> {
        while self.advance(Instant::now())?.is_some() {}
        Ok(&self.output)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        self.output_so_far()?;
        Ok(!self.ended)
    }

    /// Waits until it has printed `text` on either stream; its end before that is an error.
    pub fn wait_for_text(&mut self, text: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !self.output.text().contains(text) {
            if self.ended {
                return Err(self.output.failure(&format!("ended before it printed {text:?}")));
            }
            if self.advance(deadline)?.is_none() {
                return Err(self.timeout(&format!("the text {text:?}"), limit));
            }
        }
        Ok(())
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<Output> {
        let deadline = Instant::now() + limit;
        while !self.ended {
            if self.advance(deadline)?.is_none() {
                let _gone = self.signal(9);
                return Err(self.timeout("the end", limit));
            }
        }
        Ok(self.output.clone())
    }

    /// Copies both streams to the given writers as they come, until the end, without a time limit.
    pub fn forward(&mut self, stdout: &mut impl Write, stderr: &mut impl Write) -> Result<Ending> {
        while !self.ended {
            let event = self.events.recv().map_err(|_| Error::Guest("is gone".to_owned()))?;
            let copied = match &event {
                Event::Stdout(bytes) => stdout.write_all(bytes).and_then(|()| stdout.flush()),
                Event::Stderr(bytes) => stderr.write_all(bytes).and_then(|()| stderr.flush()),
                _ => Ok(()),
            };
            copied.attempt(|| "print the guest's output".to_owned())?;
            self.take(&event);
        }
        Ok(self.output.ending)
    }

    /// A handle that can write to this process's standard input from another thread.
    pub fn stdin_handle(&self) -> impl FnMut(Option<&[u8]>) -> Result<()> + Send + 'static {
        let (guest, number) = (self.guest.clone(), self.number);
        move |bytes| match bytes {
            Some(bytes) => guest.send(number, &Request::Stdin(bytes.to_vec())),
            None => guest.send(number, &Request::StdinEnd),
        }
    }

    /// Takes the next event; `None` when none came before the deadline, or none will come.
    fn advance(&mut self, deadline: Instant) -> Result<Option<Event>> {
        if self.ended {
            return Ok(None);
        }
        let event = match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(self.output.failure("was lost: the guest is gone"));
            }
        };
        self.take(&event);
        Ok(Some(event))
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Stdout(bytes) => self.output.stdout.extend_from_slice(bytes),
            Event::Stderr(bytes) => self.output.stderr.extend_from_slice(bytes),
            Event::Exited(code) => self.end(Ending::Exited(*code)),
            Event::Signaled(signal) => self.end(Ending::Signaled(*signal)),
            Event::Refused(_) => self.end(Ending::Exited(127)),
            Event::Started(_) | Event::Hello => {}
        }
    }

    fn end(&mut self, ending: Ending) {
        self.output.ending = ending;
        self.ended = true;
        lock(&self.guest.connection.processes).remove(&self.number);
    }

    fn timeout(&self, what: &str, limit: Duration) -> Error {
        Error::Timeout {
            what: format!("{what} of `{}` in the guest", self.output.command),
            limit,
            detail: self.output.text(),
        }
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It returned this code.
    Exited(i32),
    /// It was ended by this signal.
    Signaled(i32),
}

/// What a program in the guest printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line.
    pub command: String,
    /// How it ended; meaningful once it has.
    pub ending: Ending,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Default for Output {
    fn default() -> Output {
        Output { command: String::new(), ending: Ending::Exited(0), stdout: Vec::new(), stderr: Vec::new() }
    }
}

impl Output {
    /// Standard output of a program that must have succeeded.
    pub fn success(&self) -> Result<String> {
        match self.ending {
            Ending::Exited(0) => Ok(self.stdout_text()),
            Ending::Exited(code) => Err(self.failure(&format!("exited with {code}"))),
            Ending::Signaled(signal) => Err(self.failure(&format!("was killed by signal {signal}"))),
        }
    }

    /// Whether it returned 0.
    pub fn is_success(&self) -> bool {
        self.ending == Ending::Exited(0)
    }

    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Both streams as text, standard output first.
    pub fn text(&self) -> String {
        self.stdout_text() + &String::from_utf8_lossy(&self.stderr)
    }

    fn failure(&self, status: &str) -> Error {
        Error::Command {
            command: format!("{} (in the guest)", self.command),
            status: status.to_owned(),
            output: self.text(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
