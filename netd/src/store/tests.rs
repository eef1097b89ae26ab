//! Leases kept over a restart, and files that are not what they should be.

use std::time::{Duration, UNIX_EPOCH};

use netd_stack::Route;

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NOW: Instant = Instant::from_micros(5_000_000);

/// A minute of this clock is as good as any.
fn wall(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn lease() -> Lease {
    Lease {
        cidr: "10.128.0.7/32".parse().unwrap(),
        gateway: Some([10, 128, 0, 1].into()),
        on_link_gateway: true,
        routes: vec![Route { destination: "10.128.0.1/32".parse().unwrap(), via: None }],
        dns: vec![[169, 254, 169, 254].into()],
        ntp: Vec::new(),
        mtu: Some(1460),
        hostname: Some("vm".to_owned()),
        domain: None,
        search: vec!["internal".to_owned()],
        server: [169, 254, 169, 254].into(),
        lease_seconds: 3600,
        renew_at: NOW + Duration::from_secs(1800),
        rebind_at: NOW + Duration::from_secs(3150),
        expires_at: NOW + Duration::from_secs(3600),
    }
}

/// A directory with the lease in it, as a daemon that ended at second 0 left it.
fn kept() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), true).unwrap();
    store.save(MAC, &lease(), NOW, wall(0));
    directory
}

fn reopened(directory: &tempfile::TempDir) -> Store {
    Store::open(directory.path(), true).unwrap()
}

#[test]
fn lease_kept_comes_back_with_the_time_that_is_left_by_the_wall_clock() {
    let directory = kept();
    let start = Instant::from_micros(77);
    let hint = reopened(&directory).lease(MAC, start, wall(2000)).unwrap();
    let back = hint.lease.unwrap();
    let expected = Lease {
        renew_at: start,
        rebind_at: start + Duration::from_secs(1150),
        expires_at: start + Duration::from_secs(1600),
        ..lease()
    };
    assert_eq!((hint.address, *back), (expected.cidr.address(), expected));
}

#[test]
fn lease_that_ran_out_or_is_anothers_is_ignored() {
    let directory = kept();
    let store = reopened(&directory);
    assert_eq!(store.lease(MAC, NOW, wall(3600)), None);
    assert_eq!(store.lease([2, 0, 0, 0, 0, 2], NOW, wall(0)), None, "no file");
    std::fs::copy(store.lease_path(MAC), store.lease_path([2, 0, 0, 0, 0, 2])).unwrap();
    assert_eq!(store.lease([2, 0, 0, 0, 0, 2], NOW, wall(0)), None, "a file for another hardware address");
}

#[test]
fn lease_from_the_future_is_asked_for_and_not_trusted() {
    let directory = kept();
    let hint = reopened(&directory).lease(MAC, NOW, wall(0) - Duration::from_secs(86_400)).unwrap();
    assert_eq!((hint.address, hint.lease), (lease().cidr.address(), None));
}

#[test]
fn malformed_files_are_ignored() {
    let directory = kept();
    let path = reopened(&directory).lease_path(MAC);
    let good = std::fs::read_to_string(&path).unwrap();
    for bad in [
        String::new(),
        "{".to_owned(),
        good[..good.len() / 2].to_owned(),
        good.replace("\"version\": 1", "\"version\": 2"),
        good.replace("10.128.0.7/32", "10.128.0.7/33"),
        good.replace("10.128.0.1/32", "nowhere"),
        good.replace("\"mtu\"", "\"color\""),
        good.replace('\n', &" ".repeat(8192)),
    ] {
        assert_ne!(bad, good);
        std::fs::write(&path, &bad).unwrap();
        assert_eq!(reopened(&directory).lease(MAC, NOW, wall(0)), None, "{bad:.80}");
    }
    std::fs::write(&path, good).unwrap();
    assert!(reopened(&directory).lease(MAC, NOW, wall(0)).is_some());
}

#[test]
fn lease_forgotten_leaves_no_file() {
    let directory = kept();
    let store = reopened(&directory);
    let path = store.lease_path(MAC);
    assert!(path.exists());
    store.forget(MAC);
    drop(store);
    assert!(!path.exists());
}

#[test]
fn device_with_a_new_address_at_every_start_keeps_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), false).unwrap();
    store.save(MAC, &lease(), NOW, wall(0));
    let path = store.lease_path(MAC);
    drop(store);
    assert!(!path.exists());
}

#[test]
fn secret_stays_the_same_is_nobody_elses_to_read_and_is_replaced_when_it_is_none() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let secret = reopened(&directory).secret();
    assert_eq!(reopened(&directory).secret(), secret);
    let path = directory.path().join(SECRET_FILE);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&path, "{\"version\": 1, \"secret\": \"+f\"}").unwrap();
    let other = reopened(&directory).secret();
    assert_ne!(other, secret);
    assert_eq!(reopened(&directory).secret(), other);
}
