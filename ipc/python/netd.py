"""netd for Python: sockets over netd, in one file, with the standard library alone.

    import netd
    with netd.create_connection(("example.org", 80)) as stream:
        stream.sendall(b"GET / HTTP/1.0\\r\\nHost: example.org\\r\\n\\r\\n")
        print(stream.makefile("rb").read())

Stream, Listener and UdpSocket are socket.socket objects: they can be selected on, have timeouts and work with modules that take
sockets. What they add: addresses are those of the network, a stream that was cut short raises ConnectionResetError instead of
looking complete, datagrams come without netd's header, setsockopt sets netd's options, and set_deadline bounds every call
until further notice. Errors of netd are netd.Error and what programs catch already: ConnectionRefusedError, TimeoutError,
PermissionError and so on.

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
import sys
import threading
import time

__all__ = [
    "Client", "Error", "Listener", "Stream", "UdpSocket", "bind_udp", "client", "create_connection", "create_server", "ping",
    "resolve",
]

# The accepted-stream record and the datagram header, in the machine's own byte order; see io.netd.varlink.
_RECORD = struct.Struct("=QB3xHH16s16s")
_HEADER = struct.Struct("=BBBBHHII16s")
# The largest datagram (65507) with its header.
_MESSAGE_BYTES_MAX = 65507 + _HEADER.size
# struct linger of socket(7).
_LINGER = struct.Struct("=ii")
# What netd does unless told otherwise: see io.netd.varlink at SetTcpOptions.
_KEEPALIVE_SECONDS = _LINGER_SECONDS = 60
# Of linux/in.h and linux/in6.h, which the socket module does not have.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DO = 10, 23, 2

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
    "InvalidListener": errno.EBADF,
    "InvalidSocket": errno.EBADF,
    "NotConnected": errno.ENOTCONN,
    "DevnetDisabled": errno.EACCES,
    "DeviceUnavailable": errno.ENETDOWN,
    "InvalidInput": errno.EINVAL,
    "NoBufs": errno.ENOBUFS,
    "NotFound": socket.EAI_NONAME,
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


# By name, errors that are also what a socket of the kernel would raise.
_KINDS = {
    name: type(name, (Error, kind), {"__doc__": kind.__doc__})
    for name, kind in {
        "ConnectionRefused": ConnectionRefusedError,
        "ConnectionReset": ConnectionResetError,
        "DevnetDisabled": PermissionError,
        "NotFound": socket.gaierror,
        "PolicyDenied": PermissionError,
        "TimedOut": TimeoutError,
        "WouldBlock": BlockingIOError,
    }.items()
}


def _error(name, message):
    return _KINDS.get(name, Error)(name, message)


def _left(deadline):
    """What is left until a moment of time.monotonic(); None is for ever."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise _error("TimedOut", "the deadline has passed")
    return left


def _deadline(timeout):
    return None if timeout is None else time.monotonic() + timeout


def _pack(address):
    ip = ipaddress.ip_address(address.partition("%")[0])
    return (4 if ip.version == 4 else 6), ip.packed.ljust(16, b"\0")


def _unpack(family, packed):
    return str(ipaddress.ip_address(packed[: 4 if family == 4 else 16]))


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
        raise _error("NotRunning", "no netd answers at " + " or ".join(tried))

    def _take(self):
        with self._lock:
            while self._idle:
                control = self._idle.pop()
                # Readable while idle means that the daemon went away.
                if not select.select([control], [], [], 0)[0]:
                    return control
                control.close()
        return self._connect()

    def call(self, method, _deadline=None, **parameters):
        """Calls a method of io.netd; returns what it returns, and the descriptors that came with it."""
        left = _left(_deadline)
        parameters = {name: value for name, value in parameters.items() if value is not None}
        control = self._take()
        try:
            control.settimeout(left)
            request = {"method": f"io.netd.{method}", "parameters": parameters}
            control.sendall(json.dumps(request).encode() + b"\0")
            reply, descriptors = b"", []
            while not reply.endswith(b"\0"):
                control.settimeout(_left(_deadline))
                data, received, _flags, _address = socket.recv_fds(control, 65536, 4)
                if not data:
                    raise _error("Disconnected", "netd closed the connection without an answer")
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
            raise _error(reply["error"].rpartition(".")[2], detail.get("message") or str(detail))
        return reply.get("parameters", {}), descriptors

    def resolve(self, name, kind="addresses", timeout=None):
        """The addresses of a name, in the order to try them; with another kind, the whole answer of Resolve."""
        answer, _ = self.call("Resolve", _deadline(timeout), name=name, kind=kind)
        return answer["addresses"] if kind == "addresses" else answer

    def connect(self, address, timeout=None):
        """A Stream to (host, port). A host may be a name, which netd resolves; the timeout is for all of it. What allowed the
        connection is in its attribute "rule"; with "tls" required, it must begin with a ClientHello for that very name."""
        host, port = address[:2]
        timeout_ms = None if timeout is None else min(max(1, int(timeout * 1000)), 600000)
        reply, descriptors = self.call("Connect", address=host, port=port, timeout_ms=timeout_ms)
        ends = [(reply[end]["address"], reply[end]["port"]) for end in ("local", "remote")]
        stream = Stream(self, descriptors[reply["descriptor"]], reply["id"], *ends)
        stream.rule, stream.tls = reply["rule"], reply.get("tls")
        return stream

    def _addresses(self, host, timeout=None):
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            return self.resolve(host, timeout=timeout)

    def ping(self, address, timeout=1, size=56):
        """Sends one echo request; returns the round trip in seconds."""
        reply, _ = self.call("Ping", address=address, timeout_ms=max(1, int(timeout * 1000)), bytes=size)
        return reply["rtt_us"] / 1e6

    def listen(self, port=0, backlog=None, address=None):
        """A Listener on a port, of one of netd's addresses or of all; port 0 lets netd choose."""
        reply, descriptors = self.call("Listen", address=address, port=port, backlog=backlog)
        local = (reply["local"]["address"], reply["local"]["port"])
        return Listener(self, descriptors[reply["descriptor"]], local)

    def bind_udp(self, port=0, address=None):
        """A UdpSocket on a port, of one of netd's addresses or of all; port 0 lets netd choose."""
        reply, descriptors = self.call("BindUdp", address=address, port=port)
        local = (reply["local"]["address"], reply["local"]["port"])
        return UdpSocket(self, descriptors[reply["descriptor"]], reply["id"], local)


class _Socket(socket.socket):
    """What all three have in common: netd's options, and deadlines."""

    def __init__(self, client, descriptor, local):
        super().__init__(fileno=descriptor)
        self._client, self._local = client, local
        self._options = {}
        self._deadline = None

    def getsockname(self):
        return self._local

    def set_deadline(self, deadline):
        """From this moment of time.monotonic() on every call raises TimeoutError and does nothing; None takes it back."""
        self._deadline = deadline
        self.settimeout(None)

    def _begin(self):
        """Before anything is done: lets it take as long as the deadline allows."""
        if self._deadline is not None:
            self.settimeout(_left(self._deadline))

    def setsockopt(self, level, option, *value):
        """Options of the network are set in netd; what it has not raises OSError (ENOPROTOOPT). Others are the descriptor's."""
        if level == socket.SOL_SOCKET and (level, option) not in self._SETTERS:
            return super().setsockopt(level, option, *value)
        setter = self._SETTERS.get((level, option))
        if setter is None:
            raise OSError(errno.ENOPROTOOPT, "netd has no such option")
        setter(self, value[0])
        self._options[level, option] = value[0]

    def getsockopt(self, level, option, *size):
        """What was set, or netd's own choice; of other levels what the descriptor says."""
        if (level, option) in self._SETTERS:
            return self._options.get((level, option), self._DEFAULTS.get((level, option), 0))
        if level == socket.SOL_SOCKET:
            return super().getsockopt(level, option, *size)
        raise OSError(errno.ENOPROTOOPT, "netd has no such option")

    _SETTERS = {}
    _DEFAULTS = {}


def _number(value):
    """The value of an option, which may come as the bytes of an int."""
    return value if isinstance(value, int) else int.from_bytes(value[:4], sys.byteorder, signed=True)


class Stream(_Socket):
    """A TCP connection. recv returns b"" at the peer's orderly end, and only then."""

    def __init__(self, client, descriptor, identity, local, remote):
        super().__init__(client, descriptor, local)
        self.id, self._remote = identity, remote
        self.rule = self.tls = None
        self._write_shut = self._complete = False

    def getpeername(self):
        return self._remote

    def _set(self, **options):
        self._client.call("SetTcpOptions", id=self.id, **options)

    def _set_linger(self, value):
        on, seconds = _LINGER.unpack(value)
        self._set(linger_seconds=seconds if on else _LINGER_SECONDS)

    def _set_keepalive(self, value):
        idle = self._options.get((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), _KEEPALIVE_SECONDS)
        self._set(keepalive_seconds=_number(idle) if _number(value) else 0)

    _SETTERS = {
        (socket.IPPROTO_TCP, socket.TCP_NODELAY): lambda self, value: self._set(nodelay=bool(_number(value))),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): lambda self, value: self._set(keepalive_seconds=_number(value)),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE): _set_keepalive,
        (socket.SOL_SOCKET, socket.SO_LINGER): _set_linger,
        (socket.IPPROTO_IP, socket.IP_TTL): lambda self, value: self._set(ttl=_number(value)),
        (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS): lambda self, value: self._set(ttl=_number(value)),
    }
    _DEFAULTS = {
        (socket.IPPROTO_IP, socket.IP_TTL): 64,
        (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS): 64,
        (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): _KEEPALIVE_SECONDS,
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
        (socket.SOL_SOCKET, socket.SO_LINGER): _LINGER.pack(1, _LINGER_SECONDS),
    }

    def send(self, data, flags=0):
        self._begin()
        return super().send(data, flags)

    def sendall(self, data, flags=0):
        self._begin()
        return super().sendall(data, flags)

    def shutdown(self, how):
        self._write_shut |= how in (socket.SHUT_WR, socket.SHUT_RDWR)
        super().shutdown(how)

    def recv(self, count, flags=0):
        self._begin()
        data = super().recv(count, flags)
        if not data and count:
            self._check_end()
        return data

    def recv_into(self, buffer, nbytes=0, flags=0):
        self._begin()
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


class Listener(_Socket):
    """A TCP listener; accept returns a Stream and the peer's address."""

    def accept(self):
        self._begin()
        record, ancillary, _flags, _address = self.recvmsg(_RECORD.size, socket.CMSG_LEN(4))
        if not record:
            raise _error("InvalidListener", f"netd closed the listener on port {self._local[1]}")
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        identity, family, remote_port, local_port, remote, local = _RECORD.unpack(record)
        remote = (_unpack(family, remote), remote_port)
        local = (_unpack(family, local), local_port)
        return Stream(self._client, descriptors[0], identity, local, remote), remote


class UdpSocket(_Socket):
    """A UDP socket. recvfrom raises OSError for a datagram of ours that failed."""

    def __init__(self, client, descriptor, identity, local):
        super().__init__(client, descriptor, local)
        self.id, self._peer, self._connected, self.ttl = identity, None, None, 0

    def getsockname(self):
        """Where it is bound; once connected, its own address towards the peer."""
        return self._connected or self._local

    def getpeername(self):
        if self._peer is None:
            raise OSError(errno.ENOTCONN, "the UDP socket has no peer")
        return self._peer

    def connect(self, address):
        """Makes (host, port) the only peer: the one of send and recv, and nobody else is heard."""
        ip, port = self._client._addresses(address[0])[0], address[1]
        reply, _ = self._client.call("SetUdpOptions", id=self.id, peer={"address": ip, "port": port})
        self._peer = (ip, port)
        self._connected = (reply["local"]["address"], reply["local"]["port"])

    def disconnect(self):
        """Hears everybody again."""
        self._set(peer={"address": self._local[0], "port": 0})
        self._peer = self._connected = None

    def join(self, group):
        """Receives what is sent to a multicast group at this socket's port."""
        self._set(join=group)

    def leave(self, group):
        """Leaves a multicast group."""
        self._set(leave=group)

    def _set(self, **options):
        self._client.call("SetUdpOptions", id=self.id, **options)

    def _set_ttl(self, value):
        # -1 is the system's own choice, as of ip(7).
        self.ttl = max(0, _number(value))

    def _set_mtu_discover(self, value):
        self._set(dont_fragment=_number(value) >= _PMTUDISC_DO)

    # The group comes first in struct ip_mreq, ip_mreqn and ipv6_mreq.
    _SETTERS = {
        (socket.SOL_SOCKET, socket.SO_BROADCAST): lambda self, value: self._set(broadcast=bool(_number(value))),
        (socket.IPPROTO_IP, _IP_MTU_DISCOVER): _set_mtu_discover,
        (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER): _set_mtu_discover,
        (socket.IPPROTO_IP, socket.IP_TTL): _set_ttl,
        (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS): _set_ttl,
        (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL): lambda self, value: self._set(multicast_ttl=_number(value)),
        (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS): lambda self, value: self._set(multicast_ttl=_number(value)),
        (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP): lambda self, value: self.join(_unpack(4, value)),
        (socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP): lambda self, value: self.leave(_unpack(4, value)),
        (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP): lambda self, value: self.join(_unpack(6, value)),
        (socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP): lambda self, value: self.leave(_unpack(6, value)),
    }
    _DEFAULTS = {
        (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL): 1,
        (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS): 1,
    }

    def sendto(self, payload, *arguments):
        self._begin()
        address, port = arguments[-1][:2]
        family, packed = _pack(address)
        header = _HEADER.pack(0, family, 0, self.ttl, port, 0, 0, 0, packed)
        try:
            return self.sendmsg([header, payload]) - _HEADER.size
        except (BrokenPipeError, ConnectionResetError):
            raise self._closed() from None

    def send(self, payload, flags=0):
        return self.sendto(payload, self.getpeername())

    def recvfrom(self, count, flags=0):
        self._begin()
        try:
            message = super().recv(_MESSAGE_BYTES_MAX, flags)
        except ConnectionResetError:
            message = b""
        if not message:
            raise self._closed()
        kind, family, _ecn, _ttl, port, mtu, _scope, code, packed = _HEADER.unpack_from(message)
        peer = (_unpack(family, packed), port)
        if kind == 1:
            number, what = _DATAGRAM_ERRORS.get(code, _DATAGRAM_ERRORS[2])
            path = f", which carries packets of {mtu} bytes at most" if mtu else ""
            raise OSError(number, f"a datagram to {peer[0]} port {peer[1]} failed: {what}{path}")
        return message[_HEADER.size : _HEADER.size + count], peer

    def recv(self, count, flags=0):
        while True:
            payload, peer = self.recvfrom(count, flags)
            if peer == self.getpeername():
                return payload


    def _closed(self):
        return _error("InvalidSocket", f"netd closed the UDP socket on port {self._local[1]}")


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


def create_server(port, backlog=None, address=None):
    """As socket.create_server, over netd."""
    return client().listen(port, backlog, address)


def bind_udp(port=0, address=None):
    """A UdpSocket on a port; 0 lets netd choose."""
    return client().bind_udp(port, address)


def resolve(name, timeout=None):
    """The addresses of a name."""
    return client().resolve(name, timeout=timeout)


def ping(address, timeout=1):
    """Sends one echo request; returns the round trip in seconds."""
    return client().ping(address, timeout)
