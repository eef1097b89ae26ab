#!/usr/bin/env python3
"""What sockets of the Python module do: module.py OUR_SOCKET THEIR_SOCKET PEER"""

import errno
import os
import select
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../python"))
import netd

ours, theirs, peer = netd.Client(sys.argv[1]), netd.Client(sys.argv[2]), sys.argv[3]


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} expected")


# A stream: half-close, an orderly end, addresses, select.
listener = theirs.listen()
stream = ours.connect((peer, listener.getsockname()[1]), timeout=5)
accepted, remote = listener.accept()
assert stream.getpeername() == (peer, listener.getsockname()[1])
assert remote == stream.getsockname()
stream.sendall(b"x" * 300000)
stream.shutdown(socket.SHUT_WR)
with accepted.makefile("rb") as file:
    assert file.read() == b"x" * 300000
accepted.sendall(b"answer")
accepted.shutdown(socket.SHUT_WR)
select.select([stream], [], [], 5)
assert stream.recv(100) == b"answer" and stream.recv(100) == b"" and stream.recv(100) == b""

# Options are netd's own, and what it has not is refused.
stream = ours.connect((peer, listener.getsockname()[1]), timeout=30)
accepted, _ = listener.accept()
assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
stream.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 7)
assert stream.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 7
error = raises(OSError, lambda: stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 500))
assert error.errno == errno.ENOPROTOOPT, error
# That they arrive is seen by the one that shows: closing with linger 0 is a reset.
stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
stream.close()
raises(ConnectionResetError, lambda: accepted.recv(100))
error = raises(netd.Error, lambda: stream._client.call("SetTcpOptions", id=stream.id, nodelay=True))
assert error.name == "InvalidSocket", error

# A deadline that has passed takes nothing, and one that has not is no obstacle.
stream = ours.connect((peer, listener.getsockname()[1]))
accepted, _ = listener.accept()
accepted.sendall(b"there")
select.select([stream], [], [], 30)
stream.set_deadline(time.monotonic() - 1)
raises(TimeoutError, lambda: stream.recv(100))
raises(TimeoutError, lambda: stream.sendall(b"x"))
stream.set_deadline(time.monotonic() + 30)
assert stream.recv(100) == b"there"
listener.set_deadline(time.monotonic() + 0.05)
raises(TimeoutError, listener.accept)
listener.set_deadline(None)
raises(TimeoutError, lambda: ours.resolve("nobody.invalid", timeout=0))

# A stream that is cut short is an error, and not an end.
stream = ours.connect((peer, listener.getsockname()[1]))
accepted, _ = listener.accept()
stream.sendall(b"unread")
select.select([accepted], [], [], 5)
accepted.close()
raises(ConnectionResetError, lambda: [stream.recv(100), stream.recv(100)])

# Refusals have names and the errno that programs know.
raises(ConnectionRefusedError, lambda: ours.connect((peer, 1)))
error = raises(netd.Error, lambda: ours.connect((peer, 1)))
assert error.name == "ConnectionRefused" and isinstance(error, OSError), error
error = raises(netd.Error, lambda: ours.resolve("nobody.invalid"))
assert error.name == "NotFound", error

# Datagrams, and a peer where nobody listens.
server, client = theirs.bind_udp(), ours.bind_udp()
client.connect((peer, server.getsockname()[1]))
client.send(b"ping")
payload, source = server.recvfrom(100)
assert payload == b"ping" and source == client.getsockname(), (source, client.getsockname())
server.sendto(b"pong", source)
assert client.recv(100) == b"pong"
own = source[0]
client.disconnect()
assert client.getsockname() == ("::", source[1]), client.getsockname()
# What would have to leave in pieces is refused, if asked, and the error says what fits.
client.settimeout(30)
client.setsockopt(socket.IPPROTO_IP, 10, 2)
client.sendto(bytes(3000), (peer, 9))
error = raises(OSError, lambda: client.recvfrom(100))
assert error.errno == errno.EMSGSIZE and "1500 bytes" in str(error), error
# On one address alone.
bound = ours.bind_udp(address=own)
assert bound.getsockname()[0] == own and ours.listen(address=own).getsockname()[0] == own
error = raises(netd.Error, lambda: ours.bind_udp(address=peer))
assert error.name == "InvalidInput", error
client.sendto(b"nobody", (peer, 9))
client.settimeout(10)
raises(ConnectionRefusedError, lambda: client.recvfrom(100))

# A connected socket hears its peer alone; groups and broadcast by setsockopt.
server, client, stranger = theirs.bind_udp(), ours.bind_udp(), theirs.bind_udp()
client.connect((peer, server.getsockname()[1]))
ours_address = client._client.call("ListInterfaces")[0]["interfaces"][0]["addresses"][0].partition("/")[0]
stranger.sendto(b"stranger", (ours_address, client.getsockname()[1]))
server.sendto(b"friend", (ours_address, client.getsockname()[1]))
client.set_deadline(time.monotonic() + 30)
assert client.recvfrom(100)[0] == b"friend"
member = ours.bind_udp()
member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.2.3") + bytes(4))
stranger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 3)
stranger.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
stranger.sendto(b"to all", ("239.1.2.3", member.getsockname()[1]))
member.settimeout(30)
assert member.recvfrom(100)[0] == b"to all"
member.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, socket.inet_aton("239.1.2.3") + bytes(4))
raises(OSError, lambda: member.join(peer))
stranger.sendto(b"to everybody", ("255.255.255.255", member.getsockname()[1]))
assert member.recvfrom(100)[0] == b"to everybody"
assert ours.ping(peer, timeout=30) > 0

# Calls from threads do not wait for each other.
threads = [threading.Thread(target=ours.call, args=("GetStatus",)) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
