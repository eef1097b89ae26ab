//! Raw frames with a program of the kernel's packet sockets as the peer.

use netd_tests::process::{Background, run};
use netd_tests::tapped::{BRIDGE, LIMIT, MAC, STATIC, scenario};
use netd_tests::{Error, Result, ensure};
use serde_json::Value;

/// Answers every frame of the type with its payload in capitals, and says first which address it has.
const PEER: &str = "
import socket, sys
kind = int(sys.argv[2], 16)
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
link.bind((sys.argv[1], kind))
mac = link.getsockname()[4]
print('at', mac.hex(':'), flush=True)
while True:
    frame, (_, _, passing, _, _) = link.recvfrom(65535)
    if passing != socket.PACKET_OUTGOING:
        link.send(frame[6:12] + mac + frame[12:14] + frame[14:].upper())
";
const RULES: &str = "[[grant]]\nsubject = \"any\"\nallow = [\"net.raw\"]\nether_types = [\"0x88b5\"]\n\
    [[grant]]\nsubject = \"any\"\nallow = [\"net.capture\"]\n";

#[test]
#[ignore = "needs root for a namespace: cargo xtask test"]
fn frames_of_a_granted_type_are_answered_by_a_packet_socket_and_others_are_denied() -> Result<()> {
    scenario(&[], |tapped| {
        tapped.start_granting(STATIC, "", RULES)?;
        let mut command = tapped.namespace.command("/usr/bin/python3");
        let mut peer =
            Background::spawn(command.args(["-c", PEER, BRIDGE, "0x88b5"]), &tapped.path("packets.log"))?;
        peer.wait_until_ready(LIMIT, |said| Ok(said.contains("at ")))?;
        let said = peer.output();
        let mac = said.split_whitespace().nth(1).unwrap_or_default();
        for to in [mac, "ff:ff:ff:ff:ff:ff"] {
            let arguments = ["--json", "frames", "send", "0x88b5", to, "hello", "-w", "60"];
            let answer: Value = serde_json::from_str(&run(&mut tapped.netctl(&arguments))?)
                .map_err(|error| Error::Expectation(format!("no JSON: {error}")))?;
            ensure!(answer["text"] == "HELLO", "to {to} came {answer}");
            ensure!(
                answer["from"] == mac && answer["to"] == MAC,
                "to {to} came {answer}, and not from {mac}"
            );
        }
        for (ether_type, refused) in
            [("0x88b6", "PolicyDenied"), ("0x0800", "InvalidInput"), ("0x86dd", "InvalidInput")]
        {
            let mut send = tapped.netctl(&["--json", "frames", "send", ether_type, mac, "hello"]);
            let sent =
                send.output().map_err(|source| Error::Io { action: "run netctl".to_owned(), source })?;
            let said = String::from_utf8_lossy(&sent.stderr);
            ensure!(!sent.status.success() && said.contains(refused), "type {ether_type}: {said}");
        }
        Ok(())
    })
}
