#!/usr/bin/env python3
"""Turns a capture of real traffic (pcap, Ethernet, not pcapng) into first inputs for the fuzz targets.

    fuzz/seeds.py CAPTURE          then          cargo xtask fuzz --seconds 60 --keep

The machine under test has the hardware address 02:00:00:00:00:01 and the addresses that the harnesses use: 10.0.0.1 and
fe80::ff:fe00:1. Frames for it, from a peer at ...:02, become scripts as the module comments in `fuzz/src` describe them. The
requests, filters and configurations are those of this repository. What is written here is raw; `--keep` makes it small.
"""

import hashlib
import json
import pathlib
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz" / "corpus"
OURS = bytes.fromhex("020000000001")
# Flags of a frame in `frames`: checksums mended (a kernel leaves them to the device), and everything used afterwards.
FRAME_FLAGS = 0x02 | 0x08
ND_KINDS = {133: 0, 134: 1, 135: 3, 136: 4, 137: 5, 130: 6, 143: 7}


def keep(target, data):
    directory = CORPUS / target
    directory.mkdir(parents=True, exist_ok=True)
    data = data[:4096]
    (directory / hashlib.sha1(data).hexdigest()).write_bytes(data)


def long(data):
    return struct.pack("<H", min(len(data), 0x7FF)) + data[:0x7FF]


def frames(path):
    raw = path.read_bytes()
    order = "<" if struct.unpack("<I", raw[:4])[0] in (0xA1B2C3D4, 0xA1B23C4D) else ">"
    at = 24
    while at + 16 <= len(raw):
        kept = struct.unpack(order + "I", raw[at + 8 : at + 12])[0]
        yield raw[at + 16 : at + 16 + kept]
        at += 16 + kept


def ipv4(packet):
    header = (packet[0] & 15) * 4
    packet = packet[: struct.unpack(">H", packet[2:4])[0]]
    protocol, fragment = packet[9], struct.unpack(">H", packet[6:8])[0]
    payload = packet[header:]
    if fragment & 0x3FFF:
        return fragment_step(0, fragment & 0x1FFF, len(payload))
    if protocol == 17 and payload[:4] == struct.pack(">HH", 67, 68):
        return dhcp(payload[8:])
    if protocol == 17 and payload[:2] == struct.pack(">H", 53):
        return dns(payload[8:])
    if protocol == 1 and payload[0] in (3, 11, 12):
        keep("icmp", bytes([0, 2, payload[0], payload[1]]) + payload[4:8][::-1] + bytes([1, 48]))


def ipv6(packet):
    kind, payload = packet[6], packet[40:]
    if kind == 44:
        offset = struct.unpack(">H", payload[2:4])[0]
        return fragment_step(1, offset >> 3, len(payload) - 8)
    if kind == 0:
        kind, payload = payload[0], payload[8 * (payload[1] + 1) :]
    if kind == 58 and payload[0] in ND_KINDS:
        to = 0 if packet[24] == 0xFF else 2 << 2
        keep("nd", bytes([ND_KINDS[payload[0]], to]) + long(payload[4:]) + bytes([9, 4]))
    elif kind == 58 and payload[0] < 5:
        keep("icmp", bytes([0, 3, payload[0], payload[1]]) + payload[4:8][::-1] + bytes([1, 64]))


FRAGMENTS = [b"", b""]


def fragment_step(version, offset, length):
    FRAGMENTS[version] += struct.pack("<BBHH", version, 4, offset, length)


DHCP = []


def dhcp(message):
    options, rest = b"", message[240:]
    kind = 2
    while rest and rest[0] != 255:
        code, length = rest[0], rest[1] if rest[0] else -1
        value = rest[2 : 2 + length] if rest[0] else b""
        if code == 53:
            kind = value[0]
        elif code not in (0, 54):
            options += rest[: 2 + length]
        rest = rest[2 + length :]
    DHCP.append(bytes([0, kind, 0]) + long(options))


def dns(message):
    counts = struct.unpack(">HHHHHH", message[:12])
    at = 12
    while message[at]:
        at += 1 + message[at]
    step = struct.pack("<BBHBBB", 2, 0, counts[1], counts[3], counts[4], counts[5]) + long(message[at + 5 :])
    for which in range(6):
        keep("dns", bytes([0, which]) + step.replace(b"\x02\x00", b"\x02\x01", 1) + bytes([1, 10]))


def ours():
    """What needs no capture."""
    parameters = {
        "Connect": {"address": "192.0.2.1", "port": 80, "timeout_ms": 1000},
        "Listen": {"port": 8000, "backlog": 4},
        "BindUdp": {"port": 9},
        "Ping": {"address": "2001:db8::1", "timeout_ms": 1000, "bytes": 8},
        "Resolve": {"name": "www.example.com", "kind": "srv"},
        "Capture": {"filter": "tcp", "snap_bytes": 96},
        "SetTcpOptions": {"id": 1, "nodelay": True, "keepalive_seconds": 5, "linger_seconds": 0},
        "SetUdpOptions": {"id": 1, "broadcast": True, "ttl": 3, "join": "224.0.0.251"},
        "Outcome": {"id": 7},
        "SetLogLevel": {"filter": "debug"},
        "SetOffload": {"name": "rx_tso4", "on": False},
        "GetStatus": {},
    }
    for method, fields in parameters.items():
        request = {"method": f"io.netd.{method}", "parameters": fields}
        keep("ipc_request", b"\x40" + json.dumps(request).encode() + b"\0")
    service = {"method": "org.varlink.service.GetInfo", "more": True}
    keep("ipc_request", b"\x07" + json.dumps(service).encode() + b"\0")
    stream = {"id": 1, "local": {"address": "10.0.0.1", "port": 5}, "remote": {"address": "10.0.0.2", "port": 80}, "descriptor": 0}
    refused = {"error": "io.netd.PolicyDenied", "parameters": {"message": "no"}}
    for method in range(12):
        for reply in ({"parameters": stream}, refused, {"parameters": {}}):
            keep("ipc_reply", bytes([method, 1]) + json.dumps(reply).encode() + b"\0")
    for example in (ROOT / "configs").glob("*.toml"):
        keep("config", example.read_bytes())
    for example in (ROOT / "configs").glob("*.policy.d/*.toml"):
        for table in example.read_text().split("\n\n"):
            keep("policy", table.encode())
    name = b"\0\x09a.example"
    keep("client_hello", b"\x01\xff\xff" + b"\x07\x02\0\0" + name + b"\x08\x03abc")
    keep("client_hello", b"\x01\x20\x03" + name + b"\x04\x01\0" + name)
    extension = b"\0\0\0\x0e\0\x0c\0\0\x09a.example"
    body = b"\x03\x03" + bytes(32) + b"\0\0\x02\x13\x01\x01\0" + struct.pack(">H", len(extension)) + extension
    message = b"\x01\0" + struct.pack(">H", len(body)) + body
    keep("client_hello", b"\0\0\x10\x16\x03\x01" + struct.pack(">H", len(message)) + message)
    for text in ("tcp and port 80", "not (src host 10.0.0.1 or dst net 2001:db8::/32)", "udp portrange 1-99 || arp",
                 "ether dst host 02:00:00:00:00:01 and less 128", "icmp6 and ip6 or broadcast and ! multicast"):
        frame = OURS + OURS[:5] + b"\x02\x08\x00E" + bytes(40)
        keep("capture", bytes([len(text)]) + text.encode() + long(frame))
    association = bytes.fromhex("0003002800000001000003e800000640000500182001 0db8000300000000000000000007000007d000000bb8")
    resolvers = bytes.fromhex("001700102001 0db8000300000000000000000053 0018000d036c6162076578616d706c6500")
    for flags in (0x80, 0x40):
        keep("dhcp6", bytes([flags, 0, 2]) + long(association + resolvers) + bytes([0, 7]) + long(association + resolvers) + bytes([7, 6]))
    camera = b"NXSB\x01\x05cam-1\x87\x07" + bytes([7]) * 32 + b"\x02\x05video\x03ptz"
    said = b"\x01\x03pin\x87\x07\x09\x06videtc"
    keep("bus_discovery", b"\0" + long(camera) + said + b"\3\4\xff\xff" + b"\x01\x01a\0\1\2\3abc")
    opened = b"\1\0\1\5\3chat" + b"\1\2\1\3abc" + b"\7\xff" + b"\5\xff" + b"\6\xff" + b"\1\7\1\0"
    keep("bus_mux", opened + b"\3\1" + b"\5\0" + b"\1\1\2\0" + b"\1\3\1\4\0\1\0\0" + b"\4\xff\x7f" + b"\1\4\1\1\0")
    call = bytes.fromhex("00000001 00007530 01 0b") + b"\4lamp\5blink" + b"\0twice"
    asked = b"\4\0" + b"\3\1\0" + long(b"done") + b"\4\1" + b"\3\2\0" + long(b"") + b"\3\2\2" + long(b"\0\0\0\1\4heat21")
    keep("bus_remote", b"\0" + long(struct.pack(">H", len(call)) + call) + asked + b"\2" + long(b"\1\4lamp") + b"\5\1" + b"\6\4lamp\7\xff\x7f")
    fields = b"\4\3\"a\"" + b"\0\0015" + b"\1\x0cbytes 5-9/10" + b"\2\4gzip" + b"\5\7../x?y#"
    for url, status in ((b"https://a.example/x/y?z", 200), (b"http://fixture.local./a", 206), (b"http://[::1]:81/", 302)):
        keep("fetch", bytes([len(url)]) + url + b"\5" + struct.pack("<H", status) + fields)
    keep("ipc_records", struct.pack("=BBBBHHII16s", 0, 4, 0, 64, 53, 0, 0, 0, bytes([192, 0, 2, 1])) + b"payload")


def main():
    whole = b"\0"
    for frame in frames(pathlib.Path(sys.argv[1])):
        if frame[6:12] == OURS or not (frame[:6] == OURS or frame[0] & 1):
            continue
        step = bytes([FRAME_FLAGS]) + long(frame)
        keep("frames", b"\0" + step)
        keep("frames", b"\1" + step)
        if len(whole) + len(step) > 4000:
            keep("frames", whole)
            whole = b"\0"
        whole += step
        kind = struct.unpack(">H", frame[12:14])[0]
        if kind == 0x0800:
            ipv4(frame[14:])
        elif kind == 0x86DD:
            ipv6(frame[14:])
    for steps in FRAGMENTS:
        keep("fragments", steps)
    keep("dhcp4", b"".join(DHCP) + bytes([7, 6]))
    for step in DHCP:
        keep("dhcp4", step)
    ours()


main()
