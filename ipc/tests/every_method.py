#!/usr/bin/env python3
"""Calls every method of io.netd with PyPI's varlink, a client that knows nothing of netd: it asks the daemon for its interface.

    every_method.py SOCKET PEER PORT NAME     a peer that accepts connections at PORT, and a name for it
"""

import sys

import varlink

socket_path, peer, port, name = sys.argv[1:]
port = int(port)

client = varlink.Client.new_with_address(f"unix:{socket_path}")
interface = client.get_interface("io.netd")
called = set()
with client.open("io.netd") as netd:

    def call(method, **parameters):
        called.add(method)
        return getattr(netd, method)(**parameters)

    def fails(error, method, **parameters):
        try:
            call(method, **parameters)
        except varlink.VarlinkError as raised:
            assert raised.error() == error, raised
            return
        raise AssertionError(f"{method} succeeded")

    status = call("GetStatus")["status"]
    assert status["devnet_enabled"] and status["device"] == "ready", status
    assert call("GetDevice")["device"]["kind"] == "software"
    assert call("ListInterfaces")["interfaces"][0]["routes"]
    connected = call("Connect", address=peer, port=port, timeout_ms=5000)
    assert connected["remote"] == {"address": peer, "port": port}, connected
    # This library drops the descriptors that come beside a reply, so the stream ends at once.
    outcome = call("Outcome", id=connected["id"])
    assert outcome["end"] in ("open", "finished", "aborted", "connection_reset"), outcome
    fails("io.netd.InvalidSocket", "SetTcpOptions", id=1, nodelay=True)
    fails("io.netd.InvalidSocket", "SetUdpOptions", id=1, ttl=3)
    assert call("Listen", port=0, backlog=4)["local"]["port"]
    assert call("BindUdp")["local"]["port"]
    assert isinstance(call("ListSockets")["sockets"], list)
    assert any(n["address"] == peer for n in call("ListNeighbors")["neighbors"])
    assert "frames_received" in call("GetStatistics")["statistics"]["counters"]
    assert call("ListClients")["total"]["sockets"]["limit"] > 0
    assert call("Ping", address=peer, timeout_ms=2000, bytes=8)["bytes"] == 8
    assert call("Resolve", name=name)["addresses"] == [peer]
    fails("io.netd.NotFound", "Resolve", name="nobody.invalid")
    assert call("Capture", filter="tcp port 80")["descriptor"] == 0
    fails("io.netd.InvalidInput", "Capture", filter="tcp prot 80")
    fails("org.varlink.service.InvalidParameter", "Connect", address="nowhere", port=1)
    assert call("SetLogLevel", filter="info")["previous"]

missing = set(interface.members) if hasattr(interface, "members") else set()
methods = {member for member in missing if interface.members[member].__class__.__name__ == "_Method"}
uncalled = methods - called
assert not uncalled, f"never called: {sorted(uncalled)}"
