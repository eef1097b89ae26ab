//! rtnetlink: what the kernel's network knows of interfaces, asked for and changed, one request at a time.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The size and alignment of a message's length field, and of messages in one datagram (linux/netlink.h, NLMSG_ALIGNTO).
const ALIGNMENT: usize = 4;

/// Something to change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// An interface's name, MTU or flags.
    Link(LinkMessage),
    /// An address to add.
    Address(AddressMessage),
    /// A route to add.
    Route(RouteMessage),
}

/// Every address of the machine.
pub(crate) fn addresses() -> io::Result<Vec<AddressMessage>> {
    let answers = dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        })
        .collect())
}

/// Every route of the machine, of all tables.
pub(crate) fn routes() -> io::Result<Vec<RouteMessage>> {
    let answers = dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        })
        .collect())
}

/// Makes a change, and waits for the kernel's word. What is there already is [`io::ErrorKind::AlreadyExists`].
pub(crate) fn change(change: Change) -> io::Result<()> {
    let (flags, message) = match change {
        Change::Link(link) => (0, RouteNetlinkMessage::SetLink(link)),
        Change::Address(address) => (NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewAddress(address)),
        Change::Route(route) => (NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewRoute(route)),
    };
    request(message, NLM_F_ACK | flags).map(drop)
}

fn dump(message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    request(message, NLM_F_DUMP)
}

/// Sends a request on a socket of its own and gathers the answers up to the last.
fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        // The kernel answers with the datagram as a whole, however long it is.
        let (datagram, _kernel) = socket.recv_from_full()?;
        if gather(&datagram, &mut answers)? {
            return Ok(answers);
        }
    }
}

/// Takes the messages of one datagram; whether the last was among them.
fn gather(datagram: &[u8], answers: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's netlink answer is malformed");
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = rest.first_chunk().ok_or_else(malformed)?;
        let length = usize::try_from(u32::from_ne_bytes(*length)).map_err(|_| malformed())?;
        let bytes = rest.get(..length).filter(|bytes| bytes.len() >= ALIGNMENT).ok_or_else(malformed)?;
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            // An acknowledgement is an error of code 0, for which the library has no number.
            NetlinkPayload::Error(error) => match error.code {
                None => return Ok(true),
                Some(_) => return Err(error.to_io()),
            },
            NetlinkPayload::InnerMessage(answer) => answers.push(answer),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_asked_lists_loopbacks_address_and_routes() {
        let loopback = |address: &AddressMessage| address.header.index == 1 && address.header.prefix_len == 8;
        assert!(addresses().unwrap().iter().any(loopback));
        // At least the local table of the loopback interface.
        assert!(!routes().unwrap().is_empty());
    }

    #[test]
    fn answer_that_is_cut_short_is_an_error() {
        for datagram in [&[1, 0][..], &[0, 0, 0, 0], &[200, 0, 0, 0, 1, 2, 3, 4]] {
            assert!(gather(datagram, &mut Vec::new()).is_err(), "{datagram:?}");
        }
    }
}
