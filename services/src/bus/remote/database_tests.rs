//! Tests of the state on the disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;
use crate::Failure;

fn key(name: &str) -> Key {
    format!("/state/shared/{name}").parse().unwrap()
}

fn prefix(name: &str) -> Prefix {
    format!("/state/shared/{name}").parse().unwrap()
}

fn database() -> (tempfile::TempDir, Database) {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::open(&directory.path().join("state.redb")).unwrap();
    (directory, database)
}

fn change(
    database: &Database,
    writer: &str,
    name: &str,
    expected: Expected,
    value: Option<&[u8]>,
) -> Result<u64, Error> {
    let key = key(name);
    database.change(Write { writer, now_ms: 7, key: &key, expected, value }, |_| Ok(()))
}

fn put(database: &Database, name: &str, value: &str) -> u64 {
    change(database, "device:a", name, Expected::Any, Some(value.as_bytes())).unwrap()
}

fn remove(database: &Database, name: &str) -> u64 {
    change(database, "device:a", name, Expected::Any, None).unwrap()
}

#[test]
fn value_written_is_read_with_its_version_also_after_the_file_was_opened_again() {
    let (directory, database) = database();
    assert_eq!(database.get(&key("a")).unwrap(), None);
    assert_eq!(
        (put(&database, "a", "one"), put(&database, "b", "two"), put(&database, "a", "three")),
        (1, 2, 3)
    );
    drop(database);
    let database = Database::open(&directory.path().join("state.redb")).unwrap();
    let kept = Kept { version: 3, modified_ms: 7, value: b"three".to_vec() };
    assert_eq!((database.get(&key("a")).unwrap(), database.revision().unwrap()), (Some(kept), 3));
}

#[test]
fn change_of_another_version_than_expected_changes_nothing_and_says_which_it_is() {
    let (_directory, database) = database();
    let cas = |expected, value| change(&database, "device:a", "a", Expected::Version(expected), value);
    assert!(matches!(cas(1, Some(b"x")), Err(Error::Conflict { version: 0 })));
    assert_eq!(cas(0, Some(b"one")).unwrap(), 1);
    assert!(matches!(cas(0, Some(b"x")), Err(Error::Conflict { version: 1 })));
    assert_eq!(cas(1, Some(b"two")).unwrap(), 2);
    assert!(matches!(cas(1, None), Err(Error::Conflict { version: 2 })));
    assert_eq!(cas(2, None).unwrap(), 3);
    // A key that is written anew has a version that no former one had.
    assert_eq!(cas(0, Some(b"three")).unwrap(), 4);
    assert!(matches!(cas(2, Some(b"x")), Err(Error::Conflict { version: 4 })));
    assert_eq!(database.get(&key("a")).unwrap().unwrap().value, b"three");
    remove(&database, "a");
    assert!(matches!(change(&database, "device:a", "a", Expected::Any, None), Err(Error::NotThere)));
    assert_eq!(database.revision().unwrap(), 5);
}

#[test]
fn change_that_cannot_be_recorded_has_not_happened() {
    let (_directory, database) = database();
    put(&database, "a", "one");
    let (key, expected) = (key("a"), Expected::Any);
    let write = Write { writer: "device:a", now_ms: 8, key: &key, expected, value: Some(b"two") };
    let refused = Failure::new(netd_ipc::services::ErrorKind::NetdUnavailable, "no audit");
    let error = database.change(write, |revision| {
        assert_eq!(revision, 2);
        Err(refused.clone())
    });
    assert!(matches!(error, Err(Error::NotRecorded(failure)) if failure == refused));
    assert_eq!(database.get(&key).unwrap().unwrap().value, b"one");
    assert_eq!(database.revision().unwrap(), 1);
}

#[test]
fn two_clients_that_count_at_once_lose_nothing() {
    let (_directory, database) = database();
    put(&database, "count", "0");
    let count = |_| {
        for _ in 0..20 {
            loop {
                let Kept { version, value, .. } = database.get(&key("count")).unwrap().unwrap();
                let next = String::from_utf8(value).unwrap().parse::<u32>().unwrap() + 1;
                let expected = Expected::Version(version);
                match change(&database, "device:a", "count", expected, Some(next.to_string().as_bytes())) {
                    Ok(_) => break,
                    Err(Error::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let counting: Vec<_> = (0..2).map(|number| scope.spawn(move || count(number))).collect();
        counting.into_iter().for_each(|counting| counting.join().unwrap());
    });
    assert_eq!(database.get(&key("count")).unwrap().unwrap().value, b"40");
    assert_eq!(database.revision().unwrap(), 41);
}

#[test]
fn list_has_the_keys_of_its_prefix_in_pages() {
    let (_directory, database) = database();
    let names: Vec<String> = (0..300).map(|number| format!("many/{number:04}")).collect();
    for name in ["m", "many", "many2", "z"].into_iter().chain(names.iter().map(String::as_str)) {
        put(&database, name, name);
    }
    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let (listed, more) = database.list(&prefix("many/"), after.as_ref()).unwrap();
        after = listed.last().map(|listed| listed.key.clone());
        found.extend(listed);
        pages += 1;
        if !more {
            break;
        }
    }
    let expected: Vec<Key> = names.iter().map(|name| key(name)).collect();
    assert_eq!(found.iter().map(|listed| listed.key.clone()).collect::<Vec<_>>(), expected);
    assert!(found.iter().all(|listed| listed.length == 9) && pages > 1);
    let (one, more) = database.list(&prefix("many"), None).unwrap();
    assert_eq!((one.len(), one[0].key.clone(), more), (1, key("many"), false));
    assert_eq!(database.list(&prefix("none/"), None).unwrap(), (vec![], false));
}

/// Follows the changes from nothing, as a peer does: what it knows at the end.
fn follow(database: &Database, known: &mut BTreeMap<Key, u64>, place: &mut (u64, u64)) -> Result<(), Error> {
    loop {
        let Changes { until, base, changes, more } = database.changes(&Prefix::all(), place.0, place.1)?;
        for Change { key, revision, length } in changes {
            match length {
                Some(_) => drop(known.insert(key, revision)),
                None => drop(known.remove(&key)),
            }
        }
        *place = (until, base);
        if !more {
            return Ok(());
        }
    }
}

fn all(database: &Database) -> BTreeMap<Key, u64> {
    let (mut known, mut after) = (BTreeMap::new(), None);
    loop {
        let (listed, more) = database.list(&Prefix::all(), after.as_ref()).unwrap();
        after = listed.last().map(|listed| listed.key.clone());
        known.extend(listed.into_iter().map(|listed| (listed.key, listed.version)));
        if !more {
            return known;
        }
    }
}

#[test]
fn follower_of_changes_knows_what_is_there() {
    let (_directory, database) = database();
    let (mut known, mut place) = (BTreeMap::new(), (0, 0));
    let mut random = fastrand::Rng::with_seed(6);
    for _ in 0..12 {
        for _ in 0..random.usize(1..40) {
            let name = format!("k{}", random.u8(0..60));
            let value = random.bool().then_some(&b"x"[..]);
            match change(&database, "device:a", &name, Expected::Any, value) {
                Ok(_) | Err(Error::NotThere) => {}
                Err(error) => panic!("{error}"),
            }
        }
        follow(&database, &mut known, &mut place).unwrap();
        assert_eq!(known, all(&database));
    }
    let changes = database.changes(&prefix("k1"), 0, 0).unwrap();
    assert!(changes.changes.iter().all(|change| change.key == key("k1")));
}

#[test]
fn follower_of_forgotten_removals_is_told_to_begin_anew() {
    let (_directory, database) = database();
    put(&database, "a", "x");
    let (mut known, mut place) = (BTreeMap::new(), (0, 0));
    follow(&database, &mut known, &mut place).unwrap();
    // As if the removal were the oldest of too many.
    let removal = remove(&database, "a");
    database
        .write(|transaction| {
            transaction.open_table(REMOVALS)?.remove(removal)?;
            transaction.open_table(REMOVED)?.remove(key("a").as_str())?;
            transaction.open_table(NUMBERS)?.insert(HORIZON, removal)?;
            Ok(())
        })
        .unwrap();
    let forgotten = follow(&database, &mut known, &mut place);
    assert!(matches!(forgotten, Err(Error::Forgotten { horizon: 2 })), "{forgotten:?}");
    let (mut known, mut place) = (BTreeMap::new(), (0, 0));
    follow(&database, &mut known, &mut place).unwrap();
    assert_eq!(known, BTreeMap::new());
}

#[test]
fn writer_at_its_bound_is_refused_and_room_returns() {
    let (_directory, database) = database();
    let longest = vec![b'x'; VALUE_BYTES_MAX];
    database
        .write(|transaction| {
            transaction.open_table(WRITERS)?.insert("device:a", (7, BYTES_OF_ONE_MAX - 10))?;
            Ok(())
        })
        .unwrap();
    let full = change(&database, "device:a", "a", Expected::Any, Some(&longest));
    assert!(
        matches!(full, Err(Error::Full { what: "too many bytes", of: "for one writer", .. })),
        "{full:?}"
    );
    assert_eq!(database.get(&key("a")).unwrap(), None);
    change(&database, "device:a", "a", Expected::Any, Some(b"0123456789")).unwrap();
    assert!(change(&database, "device:a", "b", Expected::Any, Some(b"1")).is_err());
    // Whoever writes a key has it from then on.
    change(&database, "device:b", "a", Expected::Any, Some(b"other")).unwrap();
    change(&database, "device:a", "b", Expected::Any, Some(b"1")).unwrap();
    let too_long = change(&database, "device:b", "c", Expected::Any, Some(&[0; VALUE_BYTES_MAX + 1]));
    assert!(matches!(too_long, Err(Error::TooLong { .. })));
}

#[test]
fn file_that_is_damaged_is_named_and_never_a_panic() {
    let (directory, database) = database();
    let path = directory.path().join("state.redb");
    for number in 0..50 {
        put(&database, &format!("k{number}"), "value");
    }
    drop(database);
    let good = fs::read(&path).unwrap();
    let damage = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Database::open(&path).map(drop)
    };
    for bytes in [&b"{}"[..], &[0; 4096], &good[..good.len() / 2], &good[..700]] {
        let error = damage(bytes).unwrap_err().to_string();
        assert!(error.contains("state.redb is damaged"), "{error}");
    }
    let mut random = fastrand::Rng::with_seed(7);
    let mut named = 0;
    for _ in 0..60 {
        let mut bytes = good.clone();
        let at = random.usize(..bytes.len().min(64 << 10));
        bytes[at..].iter_mut().take(64).for_each(|byte| *byte = !*byte);
        // What lies in no page that is used harms nobody.
        named += usize::from(damage(&bytes).is_err_and(|error| error.to_string().contains("is damaged")));
    }
    assert!(named > 0);
    assert!(damage(&good).is_ok());
}

#[test]
fn file_is_its_owners_alone_and_has_one_user_at_a_time() {
    use std::os::unix::fs::PermissionsExt as _;
    let (directory, _database) = database();
    let path = directory.path().join("state.redb");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = Database::open(&path).unwrap_err();
    assert!(!matches!(error, Error::Damaged { .. }), "{error}");
    assert!(matches!(Database::open(Path::new("/proc/none/x")), Err(Error::Open { .. })));
}

const KILLED: &str = "NETD_TEST_STATE_OF_THE_KILLED";

/// The keeper that [`keeper_killed_at_any_moment_has_what_it_answered`] starts and kills.
#[test]
#[ignore = "a part of another test, which starts it as a process of its own"]
fn keeper_that_writes_until_it_is_killed() {
    use std::io::Write as _;
    let path = std::env::var_os(KILLED).expect("the other test names the file");
    let database = Database::open(Path::new(&path)).unwrap();
    let mut out = std::io::stderr();
    for number in 1.. {
        put(&database, "a", &format!("{number}.").repeat(1000));
        writeln!(out, "{number}").unwrap();
    }
}

#[test]
fn keeper_killed_at_any_moment_has_what_it_answered() {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    for round in 0..5 {
        let name = "bus::remote::database::tests::keeper_that_writes_until_it_is_killed";
        let mut keeper = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", name])
            .env(KILLED, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(keeper.stderr.take().unwrap()).lines();
        let mut answered: Vec<u64> = lines
            .by_ref()
            .map_while(Result::ok)
            .filter_map(|line| line.parse().ok())
            .take(5 + round)
            .collect();
        keeper.kill().unwrap();
        keeper.wait().unwrap();
        answered.extend(lines.map_while(Result::ok).filter_map(|line| line.parse::<u64>().ok()));
        let last = *answered.last().expect("it answered");
        let database = Database::open(&path).unwrap();
        let kept = String::from_utf8(database.get(&key("a")).unwrap().unwrap().value).unwrap();
        // What was under way when it was killed may have come to the disk.
        let [one, next] = [last, last + 1].map(|number| format!("{number}.").repeat(1000));
        assert!(kept == one || kept == next, "answered {last}, kept {}", &kept[..20]);
    }
}
