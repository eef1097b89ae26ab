//! The examples in every language, and PyPI's `varlink` as the client of every method.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::lab::{Lab, OURS, PEER, PEER_NAME};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{said}");
    output
}

/// Builds the Rust examples and the C library, once, unless `NETD_BINARIES` says that all of the workspace is built; returns where they are.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if std::env::var_os("NETD_BINARIES").is_none() {
            let mut cargo = Command::new(env!("CARGO"));
            run(cargo.current_dir(repository()).args(["build", "--quiet", "--workspace", "--all-targets"]));
        }
        Path::new(env!("CARGO_BIN_EXE_netd")).parent().unwrap().to_owned()
    })
}

/// Runs a client of our daemon, and checks that it prints the whole answer of the peer's server.
fn assert_fetches(lab: &Lab, command: &mut Command, has_head: bool) {
    let output = run(command.env("NETD_SOCKET", &lab.ours.socket));
    let text = String::from_utf8(output.stdout).unwrap();
    let body = match has_head {
        true => text.split_once("\r\n\r\n").unwrap().1,
        false => &text,
    };
    assert!(body == "the answer\n".repeat(10_000), "{} bytes", body.len());
}

#[test]
fn rust_examples_fetch_by_name() {
    let lab = Lab::start();
    let endpoint = format!("{PEER_NAME}:{}", lab.http_server());
    for example in ["blocking", "tokio"] {
        assert_fetches(&lab, Command::new(built().join("examples").join(example)).arg(&endpoint), true);
    }
}

/// Compiles a program of the C library's.
fn compiled(lab: &Lab, source: &str) -> PathBuf {
    let (directory, program) = (repository().join("ipc/c"), lab.directory.path().join("program"));
    let library = built().join("libnetd_c.a");
    let mut compile = Command::new("cc");
    compile.args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program);
    compile.arg("-I").arg(directory.join("include")).arg(directory.join(source)).arg(library);
    run(compile.args(["-lpthread", "-ldl", "-lm"]));
    program
}

#[test]
fn c_example_fetches_by_name() {
    let lab = Lab::start();
    let port = lab.http_server().to_string();
    let program = compiled(&lab, "examples/http.c");
    assert_fetches(&lab, Command::new(&program).args([PEER_NAME, &port]), true);
    let refused =
        Command::new(&program).args([PEER, "1"]).env("NETD_SOCKET", &lab.ours.socket).output().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.starts_with("http: cannot connect: ConnectionRefused"), "{said}");
}

#[test]
fn c_library_does_what_sockets_do() {
    let lab = Lab::start();
    let port = lab.echo_servers().to_string();
    let mut program = Command::new(compiled(&lab, "tests/sockets.c"));
    run(program.args([OURS, PEER, &port, PEER_NAME]).env("NETD_SOCKET", &lab.ours.socket));
}

#[test]
fn tokio_module_does_what_sockets_do() {
    let lab = Lab::start();
    let port = lab.echo_servers().to_string();
    let mut program = Command::new(built().join("examples/tokio_sockets"));
    run(program.args([OURS, PEER, &port, PEER_NAME]).env("NETD_SOCKET", &lab.ours.socket));
}

#[test]
fn python_examples_fetch_by_name_and_by_the_bare_protocol() {
    let lab = Lab::start();
    let port = lab.http_server().to_string();
    let examples = repository().join("ipc/examples");
    let python = |script: &str| {
        let mut command = Command::new("python3");
        command.arg(examples.join(script));
        command
    };
    assert_fetches(&lab, python("http_client.py").args([PEER_NAME, &port]), false);
    let request = "GET / HTTP/1.0\r\n\r";
    assert_fetches(&lab, python("client.py").args([PEER, &port, request]), true);
}

#[test]
fn python_module_does_what_sockets_do() {
    let lab = Lab::start();
    let script = repository().join("ipc/tests/module.py");
    run(Command::new("python3").arg(script).args([&lab.ours.socket, &lab.theirs.socket]).arg(PEER));
}

/// The independent client: it reads the interface from the daemon itself.
#[test]
fn varlink_of_pypi_calls_every_method() {
    let lab = Lab::start();
    let port = lab.http_server().to_string();
    let script = repository().join("ipc/tests/every_method.py");
    let python = python_with_varlink(lab.directory.path());
    let interface = repository().join("ipc/io.netd.varlink");
    run(Command::new(python).arg(script).args([&interface, &lab.ours.socket]).args([PEER, &port, PEER_NAME]));
}

/// A Python that has the package: the system's, or an environment of our own.
fn python_with_varlink(directory: &Path) -> PathBuf {
    let system = Command::new("python3").args(["-c", "import varlink"]).output().unwrap();
    if system.status.success() {
        return PathBuf::from("python3");
    }
    let environment = directory.join("python");
    run(Command::new("python3").args(["-m", "venv"]).arg(&environment));
    run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", "varlink"]));
    environment.join("bin/python3")
}
