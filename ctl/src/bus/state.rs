//! bus state: the values that one device keeps for all, read, written and followed.

use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use netd_ipc::services::{BusChange, BusChanges, BusKey, BusValue, CALL_BYTES_MAX, Client};
use serde_json::json;

use crate::cli::BusStateCommand;
use crate::error::Error;
use crate::output::{Output, table};

/// What every key begins with; those who leave it out mean it.
const ROOT: &str = "/state/shared/";
/// How long netd-services waits for a change at a time.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) fn run(client: &Client, output: &Output, command: &BusStateCommand) -> Result<(), Error> {
    match command {
        BusStateCommand::Get { key } => get(client, output, &whole(key)),
        BusStateCommand::Put { key, value, version, create } => {
            let value = match value.as_deref() {
                None | Some("-") => typed()?,
                Some(value) => value.as_bytes().to_vec(),
            };
            let version = if *create { Some(0) } else { *version };
            let revision = client.put_bus_state(&whole(key), &value, version)?;
            output.result(&json!({ "revision": revision }), || format!("written, version {revision}\n"))
        }
        BusStateCommand::Delete { key, version } => {
            let revision = client.delete_bus_state(&whole(key), *version)?;
            output.result(&json!({ "revision": revision }), || format!("removed, revision {revision}\n"))
        }
        BusStateCommand::List { prefix } => {
            let keys = client.bus_state_keys(&whole(prefix))?;
            output.result(&keys, || keys_text(&keys))
        }
        BusStateCommand::Watch { prefix, since, count } => {
            watch(client, output, &whole(prefix), *since, *count)
        }
    }
}

/// A key, or a prefix, as it is called on the bus.
fn whole(key: &str) -> String {
    if key.starts_with('/') { key.to_owned() } else { format!("{ROOT}{key}") }
}

/// A value from standard input; one byte more than may be, so that too much is told and not cut.
fn typed() -> Result<Vec<u8>, Error> {
    let mut value = Vec::new();
    let most = u64::try_from(CALL_BYTES_MAX + 1).unwrap_or(u64::MAX);
    io::stdin().lock().take(most).read_to_end(&mut value).map_err(Error::Input)?;
    Ok(value)
}

fn get(client: &Client, output: &Output, key: &str) -> Result<(), Error> {
    let found = client.bus_state(key)?;
    if output.is_json() {
        let BusValue { value, version, modified_ms } = &found;
        let text = std::str::from_utf8(value).ok();
        let shown = json!({ "value": value, "text": text, "version": version, "modified_ms": modified_ms });
        return output.result(&shown, String::new);
    }
    let mut out = io::stdout().lock();
    out.write_all(&found.value).and_then(|()| out.flush()).map_err(Error::Output)
}

fn watch(
    client: &Client,
    output: &Output,
    prefix: &str,
    since: u64,
    count: Option<usize>,
) -> Result<(), Error> {
    let (mut since, mut base, mut left) = (since, since, count.unwrap_or(usize::MAX));
    while left > 0 {
        let BusChanges { changes, until, base: next, more: _ } =
            client.bus_state_changes(prefix, since, base, Some(PATIENCE))?;
        for change in changes.iter().take(left) {
            let line = if output.is_json() { json!(change).to_string() } else { change_text(change) };
            output.line(&line)?;
        }
        left = left.saturating_sub(changes.len());
        (since, base) = (until, next);
    }
    Ok(())
}

fn change_text(change: &BusChange) -> String {
    let BusChange { key, revision, size } = change;
    let what = match size {
        Some(size) => format!("written, {size} bytes"),
        None => "removed".to_owned(),
    };
    format!("{revision}  {}  {what}", key.escape_debug())
}

fn keys_text(keys: &[BusKey]) -> String {
    if keys.is_empty() {
        return "no keys\n".to_owned();
    }
    let row =
        |key: &BusKey| [key.size.to_string(), key.version.to_string(), key.key.escape_debug().to_string()];
    table([">SIZE", ">VERSION", "KEY"], &keys.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_without_its_root_has_it_added() {
        assert_eq!(whole("cameras/1"), "/state/shared/cameras/1");
        assert_eq!(whole(""), "/state/shared/");
        assert_eq!(whole("/state/shared/a"), "/state/shared/a");
        assert_eq!(whole("/state/own"), "/state/own", "netd-services says what is wrong with it");
    }

    #[test]
    fn changes_and_keys_are_lines() {
        let change = |size| BusChange { key: "/state/shared/a".into(), revision: 7, size };
        assert_eq!(change_text(&change(Some(3))), "7  /state/shared/a  written, 3 bytes");
        assert_eq!(change_text(&change(None)), "7  /state/shared/a  removed");
        let key = BusKey { key: "/state/shared/a".into(), version: 7, size: 3 };
        assert_eq!(keys_text(&[key]), "SIZE  VERSION  KEY\n   3        7  /state/shared/a\n");
    }
}
