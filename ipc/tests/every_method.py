#!/usr/bin/env python3
"""Calls every method of io.netd with PyPI's varlink, a client that knows nothing of netd: it asks the daemon for its interface.

    every_method.py INTERFACE SOCKET PEER PORT NAME     the interface file, a peer that accepts connections at PORT, and its name

Fails if a method of the interface was never called with success, or if the daemon describes another interface than the file.
"""

import os
import re
import sys

import varlink

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../python"))
import netd as module

interface_file, socket_path, peer, port, name = sys.argv[1:]
port = int(port)
called, succeeded = set(), set()

client = varlink.Client.new_with_address(f"unix:{socket_path}")
with client.open("io.netd") as netd:

    def call(method, **parameters):
        called.add(method)
        result = getattr(netd, method)(**parameters)
        succeeded.add(method)
        return result

    def fails(error, method, **parameters):
        called.add(method)
        try:
            getattr(netd, method)(**parameters)
        except varlink.VarlinkError as raised:
            assert raised.error() == error, raised
            return
        raise AssertionError(f"{method} succeeded")

    status = call("GetStatus")["status"]
    assert status["devnet_enabled"] and status["device"] == "ready", status
    assert call("GetDevice")["device"]["kind"] == "software"
    assert call("ListInterfaces")["interfaces"][0]["routes"]
    connected = call("Connect", address=peer, port=port, timeout_ms=20000)
    assert connected["remote"] == {"address": peer, "port": port}, connected
    outcome = call("Outcome", id=connected["id"])
    assert outcome["end"] in ("open", "finished", "aborted", "connection_reset"), outcome
    # PyPI's library drops the descriptors that come beside a reply, so its sockets end at once. Options are set of sockets of the
    # same user, which our own module holds.
    holder = module.Client(socket_path)
    stream, udp = holder.connect((peer, port)), holder.bind_udp()
    call("SetTcpOptions", id=stream.id, nodelay=True, keepalive_seconds=30, linger_seconds=0)
    call("SetUdpOptions", id=udp.id, peer={"address": peer, "port": 9}, broadcast=True, ttl=3)
    fails("io.netd.InvalidSocket", "SetTcpOptions", id=udp.id, nodelay=True)
    fails("io.netd.InvalidSocket", "SetUdpOptions", id=stream.id, ttl=3)
    assert call("Listen", port=0, backlog=4)["local"]["port"]
    assert call("BindUdp")["local"]["port"]
    assert isinstance(call("ListSockets")["sockets"], list)
    assert any(n["address"] == peer for n in call("ListNeighbors")["neighbors"])
    assert "frames_received" in call("GetStatistics")["statistics"]["counters"]
    assert call("ListClients")["total"]["sockets"]["limit"] > 0
    assert call("Ping", address=peer, timeout_ms=20000, bytes=8)["bytes"] == 8
    assert call("Resolve", name=name)["addresses"] == [peer]
    by_name = call("Connect", address=name, port=port, timeout_ms=20000)
    assert by_name["remote"] == {"address": peer, "port": port} and by_name["tls"] == "any" and by_name["rule"], by_name
    fails("io.netd.NotFound", "Resolve", name="nobody.invalid")
    frames = call("OpenFrames", ether_type=0x88B5)
    assert frames["mtu"] >= 1280 and frames["mac"].count(":") == 5, frames
    fails("io.netd.InvalidInput", "OpenFrames", ether_type=0x0800)
    assert call("Capture", filter="tcp port 80")["descriptor"] == 0
    fails("io.netd.InvalidInput", "Capture", filter="tcp prot 80")
    fails("io.netd.InvalidInput", "Connect", address="no where", port=1)
    fails("org.varlink.service.InvalidParameter", "Connect", address="0.0.0.0", port=1)
    rules = call("ListRules")
    assert rules["devnet_enabled"] and rules["rules"][0]["effect"] in ("grant", "deny"), rules
    explained = call("Explain", uid=os.getuid(), gid=os.getgid(), capability="net.tcp.connect", target=f"{peer}:{port}")
    assert explained["decision"]["allowed"] and explained["decision"]["line"], explained
    fails("io.netd.InvalidInput", "Explain", uid=0, gid=0, capability="net.fly")
    assert call("ListDenials", subject=f"user:{os.getuid()}")["denials"] == []
    own = {"uid": os.getuid(), "gid": os.getgid(), "pid": os.getpid()}
    assert not call("Decide", client=own, capability="net.http.devnet")["decision"]["allowed"]
    call("RecordTrust", client=own, change="added", detail="none, this is a test")
    call("RecordState", client=own, device="camera-1", detail="none, this is a test")
    assert call("SetPollMode", poll="adaptive")["previous"]
    assert call("GetAudit")["audit"]["written"] >= 1
    offloads = {o["name"]: o["on"] for o in call("SetOffload", name="tx_checksum", on=False)["device"]["offloads"]}
    assert not offloads["tx_checksum"] and not offloads["tx_tso4"], offloads
    fails("io.netd.InvalidInput", "SetOffload", name="warp", on=True)
    assert call("SetLogLevel", filter="info")["previous"]

with open(interface_file, encoding="utf-8") as file:
    methods = set(re.findall(r"^method (\w+)\(", file.read(), re.MULTILINE))
described = {member for member, what in client.get_interface("io.netd").members.items() if type(what).__name__ == "_Method"}
assert described == methods, f"the daemon describes {sorted(described ^ methods)} otherwise"
assert len(methods) > 15, f"only {sorted(methods)} in {interface_file}"
assert called == methods, f"never called: {sorted(methods - called)}"
assert succeeded == methods, f"never succeeded: {sorted(methods - succeeded)}"
