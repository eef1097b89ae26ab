//! Tests of shared files: what leads outside, what is no file, what goes away or changes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use netd_softbus::remote::share::PATH_BYTES_MAX;
use rustix::fs::{CWD, mknodat};

use super::*;

static WANTED: AtomicBool = AtomicBool::new(true);

/// A share `pub` with a file and a directory, a secret beside it, and links of every kind.
fn shared() -> (tempfile::TempDir, Files) {
    let directory = tempfile::tempdir().unwrap();
    let (root, share) = (directory.path(), directory.path().join("pub"));
    fs::create_dir_all(share.join("inner")).unwrap();
    fs::write(share.join("file"), "content").unwrap();
    fs::write(share.join("inner/deep"), "deep").unwrap();
    fs::write(root.join("secret"), "secret").unwrap();
    fs::create_dir(root.join("private")).unwrap();
    fs::write(root.join("private/secret"), "secret").unwrap();
    symlink(root.join("secret"), share.join("absolute")).unwrap();
    symlink("../secret", share.join("out")).unwrap();
    symlink("file", share.join("in")).unwrap();
    symlink("inner", share.join("directory")).unwrap();
    symlink("../private", share.join("outside")).unwrap();
    symlink("/proc/self/root", share.join("magic")).unwrap();
    symlink("loop", share.join("loop")).unwrap();
    let files = Files::new([("pub".parse().unwrap(), share)].into());
    (directory, files)
}

fn path(path: &str) -> SharePath {
    path.parse().unwrap()
}

fn name() -> ShareName {
    "pub".parse().unwrap()
}

fn content(files: &Files, at: &str) -> Result<Vec<u8>, Error> {
    let (handle, stat) = files.open("a", &name(), &path(at))?;
    let part = files.part("a", handle)?;
    let mut bytes = vec![0; usize::try_from(stat.size).unwrap()];
    let count = part.read(0, &mut bytes)?;
    bytes.truncate(count);
    part.check()?;
    files.close("a", handle)?;
    Ok(bytes)
}

#[test]
fn file_that_is_shared_is_found_read_and_hashed() {
    let (_directory, files) = shared();
    assert_eq!(content(&files, "file").unwrap(), b"content");
    assert_eq!(content(&files, "inner/deep").unwrap(), b"deep");
    let stat = files.stat(&name(), &path("file")).unwrap();
    assert_eq!((stat.kind, stat.size), (Kind::File, 7));
    assert!(stat.modified_ms > 1_600_000_000_000);
    assert_eq!(files.stat(&name(), &path("")).unwrap().kind, Kind::Directory);
    let (handle, _) = files.open("a", &name(), &path("file")).unwrap();
    let part = files.part("a", handle).unwrap();
    let hash: [u8; 32] = Sha256::digest(b"content").into();
    assert_eq!(files.hash(&part, &WANTED).unwrap(), hash);
    assert_eq!(files.hash(&part, &AtomicBool::new(false)).unwrap(), hash, "it is remembered");
    assert_eq!((part.length(0, u64::MAX), part.length(5, 10), part.length(9, 1)), (7, 2, 0));
    let mut rest = [0; 10];
    assert_eq!(part.read(4, &mut rest).unwrap(), 3);
    assert_eq!(&rest[..3], b"ent");
}

#[test]
fn path_over_a_link_of_any_kind_leads_nowhere() {
    let (_directory, files) = shared();
    for at in [
        "absolute",
        "out",
        "in",
        "directory",
        "directory/deep",
        "outside",
        "outside/secret",
        "magic",
        "magic/etc/passwd",
        "loop",
        "loop/x",
        "none",
        "file/x",
        "inner/none",
    ] {
        assert!(matches!(files.stat(&name(), &path(at)), Err(Error::NotThere)), "stat {at}");
        assert!(matches!(files.open("a", &name(), &path(at)), Err(Error::NotThere)), "open {at}");
        assert!(matches!(files.list(&name(), &path(at), 0), Err(Error::NotThere)), "list {at}");
    }
    assert!(files.opened().is_empty());
}

/// Whatever text gets past the check of paths - none does - the kernel holds it beneath the directory.
#[test]
fn path_with_dots_is_held_by_the_kernel_as_well() {
    let (_directory, files) = shared();
    let (root, _) = files.find(&name(), &path("")).unwrap();
    for outside in ["..", "../secret", "inner/../../secret", "/etc/passwd", "inner/../.."] {
        assert!(outside.parse::<SharePath>().is_err());
        let opened = beneath(&root, outside, OFlags::PATH);
        assert!(matches!(opened, Err(Errno::XDEV)), "{outside}: {opened:?}");
    }
}

#[test]
fn what_is_no_file_is_never_opened() {
    let (directory, files) = shared();
    let share = directory.path().join("pub");
    mknodat(CWD, share.join("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(share.join("socket")).unwrap();
    // Needs a privilege that a developer may not have; whoever has it sees more.
    let device =
        mknodat(CWD, share.join("device"), FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 5));
    for at in ["fifo", "socket"].into_iter().chain(device.is_ok().then_some("device")) {
        assert!(matches!(files.stat(&name(), &path(at)), Err(Error::NotThere)), "{at}");
        assert!(matches!(files.open("a", &name(), &path(at)), Err(Error::NotThere)), "{at}");
    }
    assert!(matches!(files.open("a", &name(), &path("inner")), Err(Error::IsDirectory)));
    assert!(matches!(files.list(&name(), &path("file"), 0), Err(Error::NoDirectory)));
    let listed: Vec<_> =
        files.list(&name(), &path(""), 0).unwrap().entries.into_iter().map(|entry| entry.name).collect();
    assert_eq!(listed, [Box::from("file"), Box::from("inner")]);
    let other = "other".parse().unwrap();
    assert!(matches!(files.stat(&other, &path("file")), Err(Error::NoShare(_))));
}

#[test]
fn file_that_is_too_long_is_named_and_not_hashed() {
    let (directory, files) = shared();
    let huge = fs::File::create(directory.path().join("pub/huge")).unwrap();
    huge.set_len(FILE_BYTES_MAX + 1).unwrap();
    assert_eq!(files.stat(&name(), &path("huge")).unwrap().size, FILE_BYTES_MAX + 1);
    assert!(matches!(files.open("a", &name(), &path("huge")), Err(Error::TooLong(_))));
    huge.set_len(FILE_BYTES_MAX).unwrap();
    let (handle, _) = files.open("a", &name(), &path("huge")).unwrap();
    let part = files.part("a", handle).unwrap();
    assert!(matches!(files.hash(&part, &AtomicBool::new(false)), Err(Error::NotWanted)));
}

#[test]
fn file_that_vanishes_while_it_is_read_is_read_to_its_end() {
    let (directory, files) = shared();
    let (handle, _) = files.open("a", &name(), &path("file")).unwrap();
    let part = files.part("a", handle).unwrap();
    fs::remove_file(directory.path().join("pub/file")).unwrap();
    let mut bytes = [0; 7];
    assert_eq!(part.read(0, &mut bytes).unwrap(), 7);
    assert_eq!(&bytes, b"content");
    part.check().unwrap();
    assert!(matches!(files.open("a", &name(), &path("file")), Err(Error::NotThere)));
}

#[test]
fn file_that_changes_while_it_is_read_is_not_the_one_that_was_asked_for() {
    let (directory, files) = shared();
    let target = directory.path().join("pub/file");
    let open = || {
        let (handle, _) = files.open("a", &name(), &path("file")).unwrap();
        files.part("a", handle).unwrap()
    };
    let longer = open();
    fs::write(&target, "content and more").unwrap();
    assert!(matches!(longer.check(), Err(Error::Changed)));
    assert!(matches!(files.hash(&longer, &WANTED), Err(Error::Changed)));
    let shorter = open();
    fs::write(&target, "c").unwrap();
    assert!(matches!(shorter.read(1, &mut [0; 10]), Err(Error::Changed)));
    assert!(matches!(shorter.check(), Err(Error::Changed)));
    let same_length = open();
    let file = fs::File::options().write(true).open(&target).unwrap();
    file.write_at(b"d", 0).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(5)).unwrap();
    assert!(matches!(same_length.check(), Err(Error::Changed)));
    let another = open();
    fs::rename(directory.path().join("pub/inner/deep"), &target).unwrap();
    another.check().unwrap();
    let hash: [u8; 32] = Sha256::digest(b"d").into();
    assert_eq!(files.hash(&another, &WANTED).unwrap(), hash);
    assert_eq!(content(&files, "file").unwrap(), b"deep");
}

#[test]
fn handle_is_its_peers_alone_and_their_number_is_bounded() {
    let (_directory, files) = shared();
    let open = |peer: &str| files.open(peer, &name(), &path("file")).map(|(handle, _)| handle);
    let own = open("a").unwrap();
    assert!(matches!(files.part("b", own), Err(Error::NotOpen)));
    assert!(matches!(files.close("b", own), Err(Error::NotOpen)));
    for _ in 1..OPEN_OF_ONE_MAX {
        open("a").unwrap();
    }
    assert!(matches!(open("a"), Err(Error::Full)));
    let more = |peer: usize| (0..OPEN_OF_ONE_MAX).filter(|_| open(&format!("p{peer}")).is_ok()).count();
    let others: usize = (0..OPEN_MAX / OPEN_OF_ONE_MAX).map(more).sum();
    assert_eq!(others, OPEN_MAX - OPEN_OF_ONE_MAX);
    files.close("a", own).unwrap();
    assert!(matches!(files.part("a", own), Err(Error::NotOpen)));
    assert!(open("a").is_ok());
}

#[test]
fn handle_that_nobody_asks_for_is_closed() {
    let (_directory, files) = shared();
    let (handle, _) = files.open("a", &name(), &path("file")).unwrap();
    let later = Instant::now() + IDLE;
    assert!(files.close_idle());
    close_idle(&mut files.opened(), later);
    assert!(matches!(files.part("a", handle), Err(Error::NotOpen)));
    assert!(!files.close_idle());
}

#[test]
fn directory_with_many_entries_is_listed_in_pages_and_one_with_too_many_is_refused() {
    let (directory, files) = shared();
    let many = directory.path().join("pub/many");
    fs::create_dir(&many).unwrap();
    for number in 0..1000 {
        fs::write(many.join(format!("{number:04}")), "x").unwrap();
    }
    fs::write(many.join("x".repeat(PATH_BYTES_MAX)), "nobody could ask for it").unwrap();
    let (mut names, mut pages) = (Vec::new(), 0);
    loop {
        let page = files.list(&name(), &path("many"), u32::try_from(names.len()).unwrap()).unwrap();
        assert!(page.entries.iter().all(|entry| entry.stat.size == 1));
        names.extend(page.entries.into_iter().map(|entry| entry.name));
        pages += 1;
        if !page.more {
            break;
        }
    }
    let expected: Vec<Box<str>> = (0..1000).map(|number| format!("{number:04}").into()).collect();
    assert!(names == expected && pages > 5, "{pages} pages, {} names", names.len());
    for number in 1000..=ENTRIES_MAX {
        fs::hard_link(many.join("0000"), many.join(format!("{number:05}"))).unwrap();
    }
    assert!(matches!(files.list(&name(), &path("many"), 0), Err(Error::TooMany)));
}

#[test]
fn share_whose_directory_is_not_there_has_nothing() {
    let files = Files::new([("pub".parse().unwrap(), Path::new("/nowhere/at/all").to_owned())].into());
    assert!(matches!(files.stat(&name(), &path("")), Err(Error::NotThere)));
    assert!(matches!(files.list(&name(), &path(""), 0), Err(Error::NotThere)));
}
