#!/usr/bin/env python3
"""What sockets of the Python module do: module.py OUR_SOCKET THEIR_SOCKET PEER"""

import os
import select
import socket
import sys
import threading

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

# A stream that is cut short is an error, and not an end.
stream = ours.connect((peer, listener.getsockname()[1]))
accepted, _ = listener.accept()
stream.sendall(b"unread")
select.select([accepted], [], [], 5)
accepted.close()
raises(ConnectionResetError, lambda: [stream.recv(100), stream.recv(100)])

# Refusals have names and the errno that programs know.
error = raises(netd.Error, lambda: ours.connect((peer, 1)))
assert error.name == "ConnectionRefused" and isinstance(error, OSError), error
error = raises(netd.Error, lambda: ours.resolve("nobody.invalid"))
assert error.name == "NotFound", error

# Datagrams, and a peer where nobody listens.
server, client = theirs.bind_udp(), ours.bind_udp()
client.connect((peer, server.getsockname()[1]))
client.send(b"ping")
payload, source = server.recvfrom(100)
assert payload == b"ping" and source == client.getsockname(), source
server.sendto(b"pong", source)
assert client.recv(100) == b"pong"
client.sendto(b"nobody", (peer, 9))
client.settimeout(10)
raises(ConnectionRefusedError, lambda: client.recvfrom(100))

# Calls from threads do not wait for each other.
threads = [threading.Thread(target=ours.call, args=("GetStatus",)) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
