"""A server that lies: PORT TLS_PORT BETWEEN_PORT CHAIN KEY. What it does wrong is the path of the request."""

import gzip
import socket
import ssl
import sys
import threading
import time
import zlib

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


def bomb(wbits):
    """Some tens of megabytes of zeros, a piece at a time."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    for _ in range(48):
        yield packer.compress(bytes(1 << 20))
    yield packer.flush()


def serve(stream, path):
    if path.startswith("/redirect/"):
        number = int(path.rsplit("/", 1)[1])
        stream.sendall(b"HTTP/1.1 302 Found\r\nLocation: /redirect/%d\r\nContent-Length: 0\r\n\r\n" % (number + 1))
    elif path == "/elsewhere":
        stream.sendall(b"HTTP/1.1 302 Found\r\nLocation: //other.host.test:8099/\r\nContent-Length: 0\r\n\r\n")
    elif path == "/granted":
        stream.sendall(b"HTTP/1.1 302 Found\r\nLocation: //pinned.host.test:8099/ok\r\nContent-Length: 0\r\n\r\n")
    elif path == "/denied":
        stream.sendall(b"HTTP/1.1 302 Found\r\nLocation: //secret.test:8099/ok\r\nContent-Length: 0\r\n\r\n")
    elif path == "/fixture":
        stream.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://fixture.local/hello\r\nContent-Length: 0\r\n\r\n")
    elif path == "/plain":
        stream.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://www.host.test:8099/ok\r\nContent-Length: 0\r\n\r\n")
    elif path == "/headers":
        stream.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            stream.sendall(b"X-Endless: " + b"x" * 1000 + b"\r\n")
    elif path == "/truncated":
        stream.sendall(HEAD + b"Content-Length: 1000\r\nETag: \"t\"\r\n\r\nonly this")
    elif path == "/chunk":
        stream.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    elif path == "/closed":
        # Neither a length nor, with TLS, a close_notify: nobody could say that this is all.
        stream.sendall(HEAD + b"\r\nall of it?")
        if isinstance(stream, ssl.SSLSocket):
            socket.socket(fileno=stream.detach()).close()
    elif path == "/bomb":
        stream.sendall(HEAD + b"Content-Encoding: gzip\r\n\r\n")
        for piece in bomb(31):
            stream.sendall(piece)
    elif path == "/cut-gzip":
        body = gzip.compress(b"hello" * 1000)[:-12]
        stream.sendall(HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    elif path == "/encoded":
        stream.sendall(HEAD + b"Content-Encoding: rot13\r\n\r\nuryyb")
    elif path == "/drip":
        stream.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
        for _ in range(600):
            stream.sendall(b".")
            time.sleep(0.1)
    elif path == "/steady":
        stream.sendall(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        for _ in range(1800):
            stream.sendall(b"x" * 4096)
            time.sleep(0.05)
    elif path == "/stalls":
        stream.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n" + b"x" * 262144)
        time.sleep(60)
    elif path == "/silent":
        time.sleep(60)
    elif path == "/garbage":
        stream.sendall(b"SSH-2.0-liar\r\n")
    elif path == "/missing":
        stream.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone")
    elif path == "/big":
        stream.sendall(HEAD + b"\r\n" + b"x" * 100000)
    else:
        stream.sendall(HEAD + b"Content-Length: 3\r\n\r\nok\n")


def handle(connection, context):
    try:
        stream = context.wrap_socket(connection, server_side=True) if context else connection
        with stream:
            request = b""
            while b"\r\n\r\n" not in request:
                piece = stream.recv(4096)
                if not piece:
                    return
                request += piece
                if request.startswith(b"\x16"):
                    # A ClientHello, and we speak no TLS.
                    stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    return
            serve(stream, request.split(b" ")[1].decode())
    except OSError:
        pass


# The extension supported_versions of a ClientHello (RFC 8446, 4.2.1): TLS 1.3 and 1.2, and twice 1.2.
VERSIONS = bytes.fromhex("002b00050403040303"), bytes.fromhex("002b00050403030303")


def carry(source, sink):
    try:
        while piece := source.recv(65536):
            sink.sendall(piece)
    except OSError:
        pass
    for stream in source, sink:
        try:
            stream.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def between(client, port):
    """Carries bytes, but for what the client says of TLS 1.3."""
    server = socket.create_connection((client.getsockname()[0], port))
    hello = b""
    while len(hello) < 5 or len(hello) < 5 + int.from_bytes(hello[3:5]):
        hello += client.recv(65536)
    assert VERSIONS[0] in hello, hello.hex()
    server.sendall(hello.replace(*VERSIONS))
    threading.Thread(target=carry, args=(server, client), daemon=True).start()
    carry(client, server)


def listen(port, serve, argument):
    listener = socket.create_server(("", port))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, argument), daemon=True).start()


port, tls_port, between_port, chain, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(chain, key)
threading.Thread(target=listen, args=(int(port), handle, None), daemon=True).start()
threading.Thread(target=listen, args=(int(between_port), between, int(tls_port)), daemon=True).start()
listen(int(tls_port), handle, context)
