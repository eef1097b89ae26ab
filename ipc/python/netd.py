"""netd for Python: sockets over netd, in one file, with the standard library alone.

    import netd
    with netd.create_connection(("example.org", 80)) as stream:
        stream.sendall(b"GET / HTTP/1.0\\r\\nHost: example.org\\r\\n\\r\\n")
        print(stream.makefile("rb").read())

Stream, Listener and UdpSocket are socket.socket objects: they can be selected on, have timeouts and work with modules that take
sockets. What they add: addresses are those of the network, a stream that was cut short raises ConnectionResetError instead of
looking complete, and datagrams come without netd's header.

netd's socket is $NETD_SOCKET, else /run/netd/netd.sock, else $XDG_RUNTIME_DIR/netd/netd.sock.
"""

import array
import errno
import ipaddress
import json
import os
import select
import socket
import struct
import threading
import time

__all__ = ["Client", "Error", "Listener", "Stream", "UdpSocket", "client", "create_connection", "create_server", "resolve"]

# The accepted-stream record and the datagram header, in the machine's own byte order; see io.netd.varlink.
_RECORD = struct.Struct("=QB3xHH16s")
_HEADER = struct.Struct("=BBBBHHII16s")
# The largest datagram (65507) with its header.
_MESSAGE_BYTES_MAX = 65507 + _HEADER.size
_DATAGRAM_ERRORS = {
    1: (errno.ECONNREFUSED, "nobody listens there"),
    2: (errno.EHOSTUNREACH, "it is unreachable"),
    3: (errno.EMSGSIZE, "it is too big for the path"),
    4: (errno.EACCES, "no grant allows it"),
    5: (errno.EACCES, "the devnet switch is off"),
    6: (errno.ENETDOWN, "there is no live device"),
    7: (errno.ENETUNREACH, "there is no way to it"),
    8: (errno.EHOSTUNREACH, "its time to live ran out on the way"),
    9: (errno.EHOSTUNREACH, "a filter on the way refused it"),
}
_ERRNO = {
    "AddrInUse": errno.EADDRINUSE,
    "ConnectionRefused": errno.ECONNREFUSED,
    "ConnectionReset": errno.ECONNRESET,
    "DevnetDisabled": errno.EACCES,
    "DeviceUnavailable": errno.ENETDOWN,
    "InvalidInput": errno.EINVAL,
    "NoBufs": errno.ENOBUFS,
    "NotFound": errno.ENOENT,
    "PolicyDenied": errno.EACCES,
    "QuotaExceeded": errno.EDQUOT,
    "TimedOut": errno.ETIMEDOUT,
    "Unreachable": errno.EHOSTUNREACH,
    "Unsupported": errno.EOPNOTSUPP,
}


class Error(OSError):
    """netd said no. `name` is the error's name in io.netd.varlink."""

    def __init__(self, name, message):
        super().__init__(_ERRNO.get(name, errno.EIO), f"{name}: {message}")
        self.name = name


def _pack(address):
    ip = ipaddress.ip_address(address.partition("%")[0])
    return (4 if ip.version == 4 else 6), ip.packed.ljust(16, b"\0")


def _unpack(family, packed):
    return str(ipaddress.ip_address(packed[:4] if family == 4 else packed))


class Client:
    """Calls netd. Calls from several threads do not wait for each other: each idle connection serves one."""

    def __init__(self, path=None):
        self._paths = [path] if path else self._default_paths()
        self._idle = []
        self._lock = threading.Lock()

    @staticmethod
    def _default_paths():
        if os.environ.get("NETD_SOCKET"):
            return [os.environ["NETD_SOCKET"]]
        paths = ["/run/netd/netd.sock"]
        if os.environ.get("XDG_RUNTIME_DIR"):
            paths.append(os.path.join(os.environ["XDG_RUNTIME_DIR"], "netd/netd.sock"))
        return paths

    def _connect(self):
        tried = []
        for path in self._paths:
            control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                control.connect(path)
                return control
            except OSError as error:
                control.close()
                tried.append(f"{path} ({error.strerror})")
        raise Error("NotRunning", "no netd answers at " + " or ".join(tried))

    def _take(self):
        with self._lock:
            while self._idle:
                control = self._idle.pop()
                # Readable while idle means that the daemon went away.
                if not select.select([control], [], [], 0)[0]:
                    return control
                control.close()
        return self._connect()

    def call(self, method, **parameters):
        """Calls a method of io.netd; returns what it returns, and the descriptors that came with it."""
        parameters = {name: value for name, value in parameters.items() if value is not None}
        control = self._take()
        try:
            request = {"method": f"io.netd.{method}", "parameters": parameters}
            control.sendall(json.dumps(request).encode() + b"\0")
            reply, descriptors = b"", []
            while not reply.endswith(b"\0"):
                data, received, _flags, _address = socket.recv_fds(control, 65536, 4)
                if not data:
                    raise Error("Disconnected", "netd closed the connection without an answer")
                reply += data
                descriptors += received
        except BaseException:
            control.close()
            raise
        with self._lock:
            if len(self._idle) < 4:
                self._idle.append(control)
                control = None
        if control:
            control.close()
        reply = json.loads(reply[:-1])
        if "error" in reply:
            detail = reply.get("parameters") or {}
            raise Error(reply["error"].rpartition(".")[2], detail.get("message") or str(detail))
        return reply.get("parameters", {}), descriptors

    def resolve(self, name, kind="addresses"):
        """The addresses of a name, in the order to try them; with another kind, the whole answer of Resolve."""
        answer, _ = self.call("Resolve", name=name, kind=kind)
        return answer["addresses"] if kind == "addresses" else answer

    def connect(self, address, timeout=None):
        """A Stream to (host, port). A host may be a name; its addresses are tried in turn."""
        host, port = address[:2]
        timeout_ms = None if timeout is None else max(1, int(timeout * 1000))
        failure = Error("NotFound", f"'{host}' has no address")
        for ip in self._addresses(host):
            try:
                reply, descriptors = self.call("Connect", address=ip, port=port, timeout_ms=timeout_ms)
            except Error as error:
                failure = error
                continue
            ends = [(reply[end]["address"], reply[end]["port"]) for end in ("local", "remote")]
            return Stream(self, descriptors[reply["descriptor"]], reply["id"], *ends)
        raise failure

    def _addresses(self, host):
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            return self.resolve(host)

    def listen(self, port=0, backlog=None):
        """A Listener on a port; 0 lets netd choose."""
        reply, descriptors = self.call("Listen", port=port, backlog=backlog)
        local = (reply["local"]["address"], reply["local"]["port"])
        return Listener(self, descriptors[reply["descriptor"]], local)

    def bind_udp(self, port=0):
        """A UdpSocket on a port; 0 lets netd choose."""
        reply, descriptors = self.call("BindUdp", port=port)
        local = (reply["local"]["address"], reply["local"]["port"])
        return UdpSocket(descriptors[reply["descriptor"]], local)


class Stream(socket.socket):
    """A TCP connection. recv returns b"" at the peer's orderly end, and only then."""

    def __init__(self, client, descriptor, identity, local, remote):
        super().__init__(fileno=descriptor)
        self._client, self.id, self._local, self._remote = client, identity, local, remote
        self._write_shut = self._complete = False

    def getsockname(self):
        return self._local

    def getpeername(self):
        return self._remote

    def setsockopt(self, *arguments):
        """Options of TCP have no place on a Unix socket; programs that set them get what they would see: nothing."""
        if arguments[0] not in (socket.IPPROTO_TCP, socket.IPPROTO_IP):
            super().setsockopt(*arguments)

    def shutdown(self, how):
        self._write_shut |= how in (socket.SHUT_WR, socket.SHUT_RDWR)
        super().shutdown(how)

    def recv(self, count, flags=0):
        data = super().recv(count, flags)
        if not data and count:
            self._check_end()
        return data

    def recv_into(self, buffer, nbytes=0, flags=0):
        count = super().recv_into(buffer, nbytes, flags)
        if not count and (nbytes or len(buffer)):
            self._check_end()
        return count

    def _check_end(self):
        """Decides what an end of file means: see io.netd.varlink at Connect."""
        if self._complete:
            return
        poll = select.poll()
        poll.register(self, select.POLLIN)
        if any(events & select.POLLHUP for _, events in poll.poll(0)):
            outcome = self._outcome()
            if not (outcome["receive_finished"] or outcome["end"] == "finished"):
                message = f"the stream was cut short ({outcome['end']}): what was read may be incomplete"
                raise ConnectionResetError(errno.ECONNRESET, message)
        self._complete = True

    def _outcome(self):
        outcome = {"end": "connection_reset", "receive_finished": False}
        # netd closes the descriptor and settles the outcome in one turn of its loop; it takes far less than this.
        for _ in range(20):
            try:
                outcome, _ = self._client.call("Outcome", id=self.id)
            except OSError:
                return outcome
            if outcome["end"] != "open" or outcome["receive_finished"]:
                return outcome
            time.sleep(0.025)
        return outcome


class Listener(socket.socket):
    """A TCP listener; accept returns a Stream and the peer's address."""

    def __init__(self, client, descriptor, local):
        super().__init__(fileno=descriptor)
        self._client, self._local = client, local

    def getsockname(self):
        return self._local

    def accept(self):
        record, ancillary, _flags, _address = self.recvmsg(_RECORD.size, socket.CMSG_LEN(4))
        if not record:
            raise Error("InvalidListener", f"netd closed the listener on port {self._local[1]}")
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        identity, family, remote_port, local_port, packed = _RECORD.unpack(record)
        remote = (_unpack(family, packed), remote_port)
        return Stream(self._client, descriptors[0], identity, (self._local[0], local_port), remote), remote


class UdpSocket(socket.socket):
    """A UDP socket. recvfrom raises OSError for a datagram of ours that failed."""

    def __init__(self, descriptor, local):
        super().__init__(fileno=descriptor)
        self._local, self._peer, self.ttl = local, None, 0

    def getsockname(self):
        return self._local

    def getpeername(self):
        if self._peer is None:
            raise OSError(errno.ENOTCONN, "the UDP socket has no peer")
        return self._peer

    def connect(self, address):
        """Names the peer of send and recv; datagrams of others are passed over."""
        self._peer = (str(ipaddress.ip_address(address[0])), address[1])

    def sendto(self, payload, *arguments):
        address, port = arguments[-1][:2]
        family, packed = _pack(address)
        header = _HEADER.pack(0, family, 0, self.ttl, port, 0, 0, 0, packed)
        return self.sendmsg([header, payload]) - _HEADER.size

    def send(self, payload, flags=0):
        return self.sendto(payload, self.getpeername())

    def recvfrom(self, count, flags=0):
        message = super().recv(_MESSAGE_BYTES_MAX, flags)
        if not message:
            raise Error("InvalidSocket", f"netd closed the UDP socket on port {self._local[1]}")
        kind, family, _ecn, _ttl, port, _flags, _scope, code, packed = _HEADER.unpack_from(message)
        peer = (_unpack(family, packed), port)
        if kind == 1:
            number, what = _DATAGRAM_ERRORS.get(code, _DATAGRAM_ERRORS[2])
            raise OSError(number, f"a datagram to {peer[0]} port {peer[1]} failed: {what}")
        return message[_HEADER.size : _HEADER.size + count], peer

    def recv(self, count, flags=0):
        while True:
            payload, peer = self.recvfrom(count, flags)
            if peer == self.getpeername():
                return payload


_shared = None


def client():
    """The client that the functions below use."""
    global _shared
    if _shared is None:
        _shared = Client()
    return _shared


def create_connection(address, timeout=None, source_address=None):
    """As socket.create_connection, over netd. The source address is netd's to choose."""
    stream = client().connect(address, timeout)
    stream.settimeout(timeout)
    return stream


def create_server(port, backlog=None):
    """As socket.create_server, over netd."""
    return client().listen(port, backlog)


def resolve(name):
    """The addresses of a name."""
    return client().resolve(name)
