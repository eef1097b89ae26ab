//! QEMU's own control channel (QEMU Machine Protocol): what an operator of the host does to a machine that runs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Attempt, Error, Result};

/// QEMU answers within milliseconds, unless the host is busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Carries out one command.
pub(super) fn execute(socket: &Path, command: &str, arguments: &Value) -> Result<Value> {
    let stream =
        UnixStream::connect(socket).attempt(|| format!("connect to QEMU at {}", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).attempt(|| "limit QEMU's answers".to_owned())?;
    let mut session = Session(BufReader::new(stream));
    session.next()?;
    session.ask("qmp_capabilities", &json!({}))?;
    session.ask(command, arguments)
}

struct Session(BufReader<UnixStream>);

impl Session {
    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments }).to_string();
        writeln!(self.0.get_mut(), "{request}").attempt(|| format!("send QEMU {request}"))?;
        loop {
            let mut answer = self.next()?;
            if let Some(error) = answer.get("error") {
                return Err(Error::Expectation(format!("QEMU refused {request}: {error}")));
            }
            // Whatever else comes is an event.
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line).attempt(|| "read QEMU's answer".to_owned())?;
        serde_json::from_str(&line)
            .map_err(|error| Error::Expectation(format!("QEMU said {line:?}, which is no JSON: {error}")))
    }
}
