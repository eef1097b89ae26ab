//! Bodies that nginx has in files that gzip, brotli and zstd made, and such as become too large.

use std::fs;
use std::path::Path;
use std::process::Command;

use netd_tests::process::run;
use netd_tests::{Result, ensure};

use crate::Trying as _;
use crate::running::Running;

/// Each encoding as HTTP calls it, and the program that makes it.
const ENCODINGS: [(&str, &str); 3] = [("gzip", "gzip -c"), ("br", "brotli -q 5 -c"), ("zstd", "zstd -q -c")];
/// Zeros of a bomb; every program makes a few kilobytes of them, or fewer.
const BOMB_MIB: usize = 48;

/// What nginx says of these files.
pub(crate) fn locations() -> String {
    ENCODINGS
        .map(|(encoding, _)| {
            format!("location ~ \\.{encoding}$ {{ gzip off; etag off; add_header Content-Encoding {encoding}; }}\n")
        })
        .concat()
}

/// Makes the files, from the text that is there.
pub(crate) fn make(files: &Path) -> Result<()> {
    for (encoding, program) in ENCODINGS {
        let script = format!(
            "cd {}; {program} text > text.{encoding}; head -c {BOMB_MIB}M /dev/zero | {program} > bomb.{encoding}",
            files.display()
        );
        run(Command::new("sh").args(["-ec", &script]))?;
    }
    Ok(())
}

/// Each is decoded to what it was; a bomb is refused, and so is a body that is whole for HTTP and broken off in itself.
pub(crate) fn check(running: &Running<'_>, server: &str, text: &str) -> Result<()> {
    let files = running.path("nginx/files");
    for (encoding, _) in ENCODINGS {
        let (body, told) = running.fetched(&format!("{server}/text.{encoding}"), &["--compressed"])?;
        ensure!(body == text.as_bytes(), "another text came as {encoding}");
        ensure!(told["bytes"] == text.len(), "{told:#}");
        let bomb = format!("{server}/bomb.{encoding}");
        running.refused(&bomb, &["--compressed"], "TooLarge", "taken for a bomb")?;
        let whole = fs::read(files.join(format!("text.{encoding}"))).trying("read what was made")?;
        let cut = files.join(format!("cut.{encoding}"));
        fs::write(cut, &whole[..whole.len() / 2]).trying("use our own directory")?;
        let cut = format!("{server}/cut.{encoding}");
        running.refused(&cut, &["--compressed"], "Truncated", "in the middle of what it encodes")?;
    }
    Ok(())
}
