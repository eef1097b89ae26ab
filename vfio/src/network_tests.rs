//! What an interface had is there again after its function came back.

use super::*;
use crate::fake::{Machine, nic};

/// A machine whose function has addresses and routes, as GCE gives them.
fn configured() -> Machine {
    let machine = Machine::with_virtio_net();
    machine.state().configure();
    machine
}

fn there_and_back(machine: &Machine) -> Restored {
    crate::bind(&machine.sysfs(), nic(), &machine.bind_options()).unwrap();
    let options = machine.give_back_options(Duration::ZERO);
    crate::give_back(&machine.sysfs(), nic(), &options).unwrap().restored
}

#[test]
fn interface_that_came_back_has_its_addresses_and_routes_under_its_new_index() {
    let machine = configured();
    let addresses = machine.state().addresses.clone();
    let restored = there_and_back(&machine);
    assert_eq!(restored.addresses, ["10.0.0.2/32"]);
    // The gateway first: without it the kernel would refuse the default route.
    assert_eq!(restored.routes, ["10.0.0.1/32", "default via 10.0.0.1"]);
    let state = machine.state();
    let mut expected = addresses;
    expected[0].header.index = 2;
    assert_eq!(state.addresses, expected);
    assert_eq!(state.routes.iter().map(output).collect::<Vec<_>>(), [Some(2), Some(2)]);
}

#[test]
fn interface_that_came_back_is_up_with_its_mtu() {
    let machine = configured();
    there_and_back(&machine);
    let state = machine.state();
    let [link] = &state.links[..] else { panic!("{:?}", state.links) };
    assert_eq!((link.header.index, link.header.flags), (2, LinkFlags::Up));
    assert_eq!(link.attributes, [LinkAttribute::Mtu(1460)]);
}

#[test]
fn interface_that_was_down_stays_down() {
    let machine = configured();
    machine.write("sys/bus/pci/devices/0000:00:03.0/virtio0/net/eth0/flags", "0x1002\n");
    assert!(there_and_back(&machine).routes.is_empty());
    assert_eq!(machine.state().links[0].header.flags, LinkFlags::empty());
}

#[test]
fn interface_with_another_name_gets_its_own_back() {
    let machine = configured();
    let link = snapshot(&machine.sysfs(), nic()).unwrap().unwrap();
    let link = Link { name: "ens4".to_owned(), ..link };
    restore(&machine.sysfs(), nic(), &link, Duration::ZERO).unwrap();
    let renamed = machine.state().links[0].clone();
    assert_eq!(renamed.attributes, [LinkAttribute::IfName("ens4".to_owned())]);
}

#[test]
fn routes_of_the_kernel_and_of_others_are_not_remembered() {
    let machine = configured();
    {
        let mut state = machine.state();
        let route = state.routes[1].clone();
        let with = |change: fn(&mut RouteMessage)| {
            let mut route = route.clone();
            change(&mut route);
            route
        };
        let others = [
            with(|route| route.header.protocol = RouteProtocol::Kernel),
            with(|route| route.header.protocol = RouteProtocol::Ra),
            with(|route| route.header.table = TABLE_LOCAL),
            with(|route| route.header.kind = RouteType::Broadcast),
            with(|route| route.attributes = vec![RouteAttribute::Oif(99)]),
        ];
        state.routes.extend(others);
        let mut foreign = state.addresses[0].clone();
        foreign.header.index = 99;
        state.addresses.push(foreign);
    }
    let link = snapshot(&machine.sysfs(), nic()).unwrap().unwrap();
    assert_eq!((link.addresses.len(), link.routes.len()), (1, 2), "{link:?}");
}

#[test]
fn address_that_is_there_already_is_no_error_and_one_refused_is_named() {
    let machine = configured();
    let link = snapshot(&machine.sysfs(), nic()).unwrap().unwrap();
    restore(&machine.sysfs(), nic(), &link, Duration::ZERO).unwrap();
    assert_eq!(machine.state().addresses.len(), 1);
    let damaged = Kept { text: "192.0.2.1/24".to_owned(), message: "zz".to_owned() };
    let link = Link { addresses: vec![damaged], ..link };
    let error = restore(&machine.sysfs(), nic(), &link, Duration::ZERO).unwrap_err().to_string();
    assert!(error.contains("192.0.2.1/24 (the record of it is damaged)"), "{error}");
}

#[test]
fn what_the_kernel_observed_of_a_route_is_not_told_back() {
    let machine = configured();
    machine.state().routes[0].header.flags = RouteFlags::Onlink | RouteFlags::Linkdown;
    there_and_back(&machine);
    assert_eq!(machine.state().routes[1].header.flags, RouteFlags::Onlink);
}
