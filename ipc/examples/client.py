#!/usr/bin/env python3
"""A client of netd with nothing but Python's standard library.

    client.py HOST PORT < request        sends standard input, prints the answer
    client.py HOST PORT 'one line'       sends the line

The socket is $NETD_SOCKET, else /run/netd/netd.sock, else $XDG_RUNTIME_DIR/netd/netd.sock.
The interface is described in io.netd.varlink: requests are JSON objects that end with a NUL byte, and the descriptor of
the connection comes beside the reply.
"""

import json
import os
import select
import socket
import sys
import threading


class NetdError(Exception):
    """netd said no; the message begins with the name of the error."""


def connect_to_netd():
    if "NETD_SOCKET" in os.environ:
        paths = [os.environ["NETD_SOCKET"]]
    else:
        paths = ["/run/netd/netd.sock"]
        if os.environ.get("XDG_RUNTIME_DIR"):
            paths.append(os.path.join(os.environ["XDG_RUNTIME_DIR"], "netd/netd.sock"))
    tried = []
    for path in paths:
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            control.connect(path)
            return control
        except OSError as error:
            control.close()
            tried.append(f"{path} ({error.strerror})")
    raise NetdError("no netd answers at " + " or ".join(tried))


def call(control, method, **parameters):
    """Calls a method of io.netd; returns what it returns, and the descriptors that came with it."""
    request = {"method": f"io.netd.{method}", "parameters": parameters}
    control.sendall(json.dumps(request).encode() + b"\0")
    reply, descriptors = b"", []
    while not reply.endswith(b"\0"):
        data, received, _flags, _address = socket.recv_fds(control, 65536, 4)
        if not data:
            raise NetdError("netd closed the connection without an answer")
        reply += data
        descriptors += received
    reply = json.loads(reply[:-1])
    if "error" in reply:
        message = reply.get("parameters", {}).get("message", "")
        raise NetdError(f"{reply['error'].rpartition('.')[2]}: {message}")
    return reply["parameters"], descriptors


def send(stream, data):
    """Sends everything and then says that it was all; the peer may have gone, which the reader finds out, and has then closed."""
    try:
        if data is not None:
            stream.sendall(data)
        else:
            # Not through sys.stdin's buffer: its lock would still be held if the peer ends first and the program exits.
            while chunk := os.read(sys.stdin.fileno(), 65536):
                stream.sendall(chunk)
        stream.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def is_complete(control, stream, identity):
    """Whether the end of file is the peer's own end, and not a connection that was cut."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    hung_up = any(events & select.POLLHUP for _, events in poll.poll(0))
    if not hung_up:
        return True
    # A reset hangs up; so does an orderly end once both directions are shut. Only netd knows which it was.
    outcome, _ = call(control, "Outcome", id=identity)
    return outcome["receive_finished"] or outcome["end"] == "finished"


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    host, port = sys.argv[1], int(sys.argv[2])
    data = (sys.argv[3] + "\n").encode() if len(sys.argv) == 4 else None

    control = connect_to_netd()
    reply, descriptors = call(control, "Connect", address=host, port=port)
    with socket.socket(fileno=descriptors[reply["descriptor"]]) as stream:
        threading.Thread(target=send, args=(stream, data), daemon=True).start()
        try:
            while chunk := stream.recv(65536):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
        except ConnectionResetError as error:
            raise NetdError("the connection was cut: the answer may be incomplete") from error
        if not is_complete(control, stream, reply["id"]):
            raise NetdError("the connection was cut: the answer may be incomplete")


if __name__ == "__main__":
    try:
        main()
    except NetdError as error:
        sys.exit(f"client.py: {error}")
