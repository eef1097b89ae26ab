#!/usr/bin/env python3
"""A client of netd in Python's standard library alone: Varlink by hand, descriptors by SCM_RIGHTS.

usage: netd_client.py connect ADDRESS PORT    standard input goes out, what comes back goes to standard output
       netd_client.py status                  the daemon's status as JSON

NETD_SOCKET names the daemon's socket when it is not /run/netd/netd.sock.
"""

import json
import os
import select
import socket
import sys

REPLY_BYTES_MAX = 1 << 20
CHUNK_BYTES = 1 << 16


class NetdError(Exception):
    """What netd answered instead of a result."""


def call(method, **parameters):
    """One call on a connection of its own; returns its parameters and the descriptors that came along."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.connect(os.environ.get("NETD_SOCKET", "/run/netd/netd.sock"))
        request = {"method": "io.netd." + method, "parameters": parameters}
        daemon.sendall(json.dumps(request).encode() + b"\0")
        reply, descriptors = b"", []
        while not reply.endswith(b"\0"):
            data, received, _flags, _from = socket.recv_fds(daemon, CHUNK_BYTES, 8)
            descriptors += received
            reply += data
            if not data or len(reply) > REPLY_BYTES_MAX:
                raise NetdError("netd closed the connection without an answer")
    answer = json.loads(reply[:-1])
    if "error" in answer:
        raise NetdError(answer["error"] + ": " + answer.get("parameters", {}).get("message", ""))
    return answer.get("parameters", {}), descriptors


def connect(address, port):
    """A connected TCP stream: a plain Unix socket, with the id that `Outcome` knows it by."""
    reply, descriptors = call("Connect", address=address, port=port)
    return socket.socket(fileno=descriptors[reply["descriptor"]]), reply["id"]


def exchange(address, port):
    """Standard input to the peer, the peer to standard output. True when the peer ended its stream in order."""
    stream, stream_id = connect(address, port)
    output, sending, complete = sys.stdout.buffer, True, True
    with stream:
        while True:
            ready, _, _ = select.select([stream, sys.stdin] if sending else [stream], [], [])
            if sys.stdin in ready:
                data = os.read(sys.stdin.fileno(), CHUNK_BYTES)
                if data:
                    stream.sendall(data)
                else:
                    stream.shutdown(socket.SHUT_WR)
                    sending = False
            if stream in ready:
                data = stream.recv(CHUNK_BYTES)
                if not data:
                    break
                output.write(data)
        # End of file alone does not tell an orderly end from a cut one after our own half-close: ask.
        outcome, _ = call("Outcome", id=stream_id)
        complete = outcome["receive_finished"]
    output.flush()
    return complete


def main(arguments):
    try:
        if arguments[:1] == ["status"]:
            print(json.dumps(call("GetStatus")[0]["status"], indent=2))
            return 0
        if arguments[:1] == ["connect"] and len(arguments) == 3:
            if exchange(arguments[1], int(arguments[2])):
                return 0
            print("netd_client: the peer cut the stream short", file=sys.stderr)
            return 1
    except (NetdError, OSError) as error:
        print("netd_client:", error, file=sys.stderr)
        return 1
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
