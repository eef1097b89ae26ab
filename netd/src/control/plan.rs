//! What becomes of each call: answered here, or decided by policy and done by the worker.

use netd_ipc::ErrorKind;
use netd_ipc::call::{BadCall, Call, Host};
use netd_ipc::policy::{Asker, TrustChange};
use netd_ipc::server::Peer;
use netd_policy::{EtherType, HostName, Subject, SubjectPattern};

use super::policy::{self, Wrong};
use super::reply::{self, Message};
use crate::capture::Filter;
use crate::command::Command;

/// What is to become of a call.
pub(super) enum Plan {
    /// Answered here, and open to everybody.
    Local(Message),
    /// Decided by policy, then done.
    Decided(netd_policy::Request, Todo),
}

/// Who does it.
pub(super) enum Todo {
    /// By the worker.
    Submit(Command),
    /// Here.
    SetLogLevel(String),
    /// Here.
    GetAudit,
    /// Here.
    ListRules { from: usize },
    /// Here.
    Explain { asker: Asker, capability: String, target: Option<String> },
    /// Here.
    Decide { client: Peer, capability: String, target: Option<String> },
    /// Here.
    RecordTrust { client: Peer, change: TrustChange, detail: String },
    /// Here.
    RecordState { client: Peer, device: Option<String>, detail: String },
    /// Here.
    ListDenials { who: SubjectPattern, since: u64 },
}

/// What is to be done for a call, and what policy is asked about it.
pub(super) fn plan(call: Call, caller: &Subject) -> Plan {
    use netd_policy::Request as Ask;
    let (asked, command) = match call {
        Call::GetInfo => return Plan::Local(reply::info()),
        Call::GetInterfaceDescription { interface } => {
            return Plan::Local(
                reply::description(&interface)
                    .unwrap_or_else(|| reply::of_response(&BadCall::InterfaceNotFound(interface).response())),
            );
        }
        Call::SetLogLevel { filter } => return Plan::Decided(Ask::Operate, Todo::SetLogLevel(filter)),
        Call::ListRules { from } => return Plan::Decided(Ask::Observe, Todo::ListRules { from }),
        Call::Explain { asker, capability, target } => {
            return Plan::Decided(Ask::Observe, Todo::Explain { asker, capability, target });
        }
        Call::Decide { client, capability, target } => {
            return Plan::Decided(Ask::Represent, Todo::Decide { client, capability, target });
        }
        Call::RecordTrust { client, change, detail } => {
            return Plan::Decided(Ask::Represent, Todo::RecordTrust { client, change, detail });
        }
        Call::RecordState { client, device, detail } => {
            return Plan::Decided(Ask::Represent, Todo::RecordState { client, device, detail });
        }
        Call::ListDenials { subject, since } => {
            let who = match policy::whose(&subject) {
                Ok(who) => who,
                Err(Wrong(message)) => return Plan::Local(reply::failed(ErrorKind::InvalidInput, &message)),
            };
            // What others asked for is theirs.
            let own = who == SubjectPattern::Uid(caller.uid);
            let asked = if own { Ask::Observe } else { Ask::Operate };
            return Plan::Decided(asked, Todo::ListDenials { who, since });
        }
        Call::SetPollMode { poll } => (Ask::Operate, Command::SetPoll { mode: poll }),
        Call::GetAudit => return Plan::Decided(Ask::Observe, Todo::GetAudit),
        Call::GetStatus => (Ask::Observe, Command::Status),
        Call::GetDevice => (Ask::Observe, Command::Device),
        Call::SetOffload { name, on } => (Ask::Operate, Command::SetOffload { name, on }),
        Call::ListInterfaces => (Ask::Observe, Command::Interfaces),
        Call::ListSockets => (Ask::Observe, Command::Sockets),
        Call::ListNeighbors => (Ask::Observe, Command::Neighbors),
        Call::GetStatistics => (Ask::Observe, Command::Statistics),
        Call::ListClients => (Ask::Observe, Command::Clients),
        Call::Outcome { id } => (Ask::Observe, Command::Outcome { id }),
        Call::Connect { host: Host::Address(address), port, timeout } => {
            let remote = (address, port).into();
            (Ask::TcpConnect { remote }, Command::Connect { remote, timeout })
        }
        Call::Connect { host: Host::Name(name), port, timeout } => match name.parse::<HostName>() {
            Ok(name) => {
                let asked = Ask::TcpConnectName { name: name.clone(), port, address: None };
                (asked, Command::ConnectName { name, port, timeout })
            }
            Err(error) => return Plan::Local(reply::failed(ErrorKind::InvalidInput, &error.to_string())),
        },
        Call::Listen { address, port, backlog } => {
            (Ask::TcpListen { port }, Command::Listen { address, port, backlog })
        }
        Call::BindUdp { address, port } => (Ask::UdpBind { port }, Command::BindUdp { address, port }),
        // Whose socket it is, the worker knows; what it may send, policy decided and decides.
        Call::SetTcpOptions { id, options } => (Ask::Observe, Command::TcpOptions { id, options }),
        Call::SetUdpOptions { id, options } => (Ask::Observe, Command::UdpOptions { id, options }),
        Call::Resolve { name, kind } => {
            let host = name.parse::<HostName>().ok();
            let name = host.as_ref().map_or_else(|| name.clone(), |host| asked_for(&name, host));
            (Ask::Resolve { name: host }, Command::Resolve { name, kind })
        }
        Call::Capture { filter, snap_bytes } => match Filter::parse(&filter) {
            Ok(filter) => (Ask::Capture, Command::Capture { filter, snap_bytes }),
            Err(error) => return Plan::Local(reply::failed(ErrorKind::InvalidInput, &error.to_string())),
        },
        Call::OpenFrames { ether_type } => match EtherType::new(ether_type) {
            Some(ether_type) => (Ask::Raw { ether_type }, Command::OpenFrames { ether_type }),
            None => {
                let wrong = format!("{ether_type:#06x}").parse::<EtherType>();
                let message = wrong.map_or_else(|error| error.to_string(), |_| String::new());
                return Plan::Local(reply::failed(ErrorKind::InvalidInput, &message));
            }
        },
        Call::Ping { to, timeout, bytes } => (Ask::Ping { to }, Command::Ping { to, timeout, bytes }),
    };
    Plan::Decided(asked, Todo::Submit(command))
}

/// A name as it is resolved: in letters of its own it has IDNA's form, in which it is decided on. A dot at the end, of whichever script
/// (UTS 46, 4), says that it is whole.
fn asked_for(name: &str, host: &HostName) -> String {
    match name.chars().last() {
        _ if name.is_ascii() => name.to_owned(),
        Some('.' | '\u{3002}' | '\u{ff0e}' | '\u{ff61}') => format!("{host}."),
        _ => host.to_string(),
    }
}
