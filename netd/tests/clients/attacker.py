#!/usr/bin/env python3
"""A hostile client of netd: attacker.py KIND SOCKET [ADDRESS PORT], until it is killed. Prints "ready" once it is at work.

It speaks the bare protocol, as somebody would who means harm. ADDRESS and PORT are a peer that sends without end.
"""

import array
import json
import os
import random
import resource
import socket
import struct
import sys
import threading
import time

kind, path = sys.argv[1:3]
peer = (sys.argv[3], int(sys.argv[4])) if len(sys.argv) > 4 else None
# As many descriptors as the user may have.
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
# The same harm in every run.
chance = random.Random(7)
held = []


def connect():
    """A connection to netd, or none if it is not to be had at once."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.setblocking(False)
    try:
        client.connect(path)
        return client
    except OSError:
        client.close()
        return None


def request(method, **parameters):
    return json.dumps({"method": f"io.netd.{method}", "parameters": parameters}).encode() + b"\0"


def call(method, **parameters):
    """What an honest client gets: the reply's parameters and its descriptors."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(60)
        client.connect(path)
        client.sendall(request(method, **parameters))
        reply, descriptors = b"", []
        while not reply.endswith(b"\0"):
            data, received, _, _ = socket.recv_fds(client, 65536, 4)
            if not data:
                return {}, []
            reply, descriptors = reply + data, descriptors + received
        return json.loads(reply[:-1]).get("parameters", {}), descriptors


def push(client, data, descriptors=()):
    """Sends what goes without waiting; whether something went."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    try:
        return client.sendmsg([data], ancillary, socket.MSG_DONTWAIT) > 0
    except OSError:
        return False


def lingering():
    """A TCP socket of the kernel's whose last close waits an hour for a peer that never reads."""
    # Small buffers, since there will be many.
    listener, client = socket.socket(), socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    client.connect(listener.getsockname())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    client.setblocking(False)
    try:
        while True:
            client.send(bytes(65536))
    except BlockingIOError:
        pass
    held.append(listener)
    return client


def close_all(sockets):
    for each in sockets:
        each.close()


def garbage():
    """Bytes without sense, halves of messages, and requests that are too long."""
    while True:
        client = connect()
        if client:
            what = chance.choice(["noise", "half", "long", "nonsense"])
            if what == "noise":
                push(client, chance.randbytes(chance.randrange(1, 60000)))
            elif what == "half":
                push(client, request("Connect", address="192.0.2.1", port=1)[: chance.randrange(1, 60)])
            elif what == "long":
                while push(client, b'{"method":"' + b"x" * 65536):
                    pass
            else:
                nonsense = [b"null\0", b"[]\0", b'{"method":7}\0', b"\0", b'{"method":"a"}\0', b"[" * 60000 + b"\0"]
                while nonsense and push(client, nonsense.pop()):
                    pass
            held.append(client)
        if len(held) > 40:
            held.pop(chance.randrange(len(held))).close()
        yield


def descriptors():
    """Descriptors in every message, as many as go into one."""
    ends = socket.socketpair()
    while True:
        client = connect()
        while client and push(client, request("GetStatus"), [ends[0].fileno()] * 253):
            pass
        if client:
            client.close()
        yield


def linger():
    """Sockets that linger, in everything that netd reads or closes, and within other sockets."""
    streams = []
    while True:
        outer, inner = socket.socketpair()
        trap = lingering()
        push(inner, b"!", [trap.fileno()])
        for carried in (trap, outer):
            client = connect()
            if client:
                push(client, request("GetStatus"), [carried.fileno()] * 8)
                push(client, request("GetStatus"), [carried.fileno()] * 8)
                client.close()
            for method, parameters in (("Connect", {"address": peer[0], "port": peer[1]}), ("BindUdp", {}), ("Listen", {})):
                for descriptor in call(method, **parameters)[1]:
                    given = socket.socket(fileno=descriptor)
                    push(given, bytes(40), [carried.fileno()])
                    push(given, bytes(40), [carried.fileno()])
                    streams.append(given)
        given_up = [trap, outer, inner]
        if len(streams) > 12:
            given_up += streams
            streams.clear()
        # Whoever closes the last copy waits an hour, and that may be ourselves: netd has closed its own, or never took one.
        threading.Thread(target=close_all, args=(given_up,), daemon=True).start()
        yield


def silence():
    """Streams from a peer that sends without end, datagrams, and replies: none of them read."""
    while True:
        if len(held) < 30:
            _, given = call("Connect", address=peer[0], port=peer[1])
            held.extend(socket.socket(fileno=descriptor) for descriptor in given)
            client = connect()
            while client and push(client, request("ListSockets")):
                pass
            if client:
                held.append(client)
        yield


def idle_listeners():
    """Listeners without end, of which none accepts; the peer connects to them, as does this one by itself."""
    while True:
        reply, given = call("Listen")
        held.extend(socket.socket(fileno=descriptor) for descriptor in given)
        if given:
            print("listening", reply["local"]["port"], flush=True)
        yield


def connections():
    """A thousand connections, and others for the oldest of them."""
    while True:
        client = connect()
        if client:
            held.append(client)
        if len(held) > 1000:
            for client in held[:100]:
                client.close()
            del held[:100]
        yield


def drip():
    """Requests of which a byte comes at a time."""
    message = request("GetStatus") * 2
    sent = 0
    while True:
        while len(held) < 50:
            client = connect()
            if not client:
                break
            held.append(client)
        for client in list(held):
            if not push(client, message[sent % len(message)].to_bytes(1, "big")):
                held.remove(client)
                client.close()
        sent += 1
        time.sleep(0.01)
        yield


kinds = [garbage, descriptors, linger, silence, idle_listeners, connections, drip]
chosen = {what: what() for what in kinds if kind in (what.__name__, "everything")}
assert chosen, f"no kind of attack: {kind}"
begun = False
while True:
    for what, attack in chosen.items():
        try:
            next(attack)
        except OSError:
            # Refused, turned away or cut off: that is what ought to happen, and no reason to stop. It begins again.
            chosen[what] = what()
            time.sleep(0.001)
    if os.getppid() == 1:
        sys.exit("the test is gone")
    if not begun:
        print("ready", flush=True)
    begun = True
