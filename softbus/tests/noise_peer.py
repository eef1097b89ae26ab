#!/usr/bin/env python3
"""A bus session by an independent implementation of Noise, over standard input and output.

    noise_peer.py LIBRARY ROLE PRIVATE [REMOTE]

LIBRARY is noiseprotocol or dissononce, ROLE initiator or responder; keys are hexadecimal. Frames have their length, two bytes,
big-endian, in front. After the handshake: HELLO as device "python", then every frame of data comes back reversed.
"""

import struct
import sys

PROTOCOL = b"Noise_XK_25519_ChaChaPoly_BLAKE2s"
DATA, HELLO, REKEY = 0, 1, 2
# A multiple of what the bus sends before it changes its keys: then we change ours.
FRAMES_UNTIL_REKEY = 3


def receive():
    header = sys.stdin.buffer.read(2)
    if len(header) < 2:
        sys.exit(0)
    return sys.stdin.buffer.read(struct.unpack(">H", header)[0])


def send(frame):
    sys.stdout.buffer.write(struct.pack(">H", len(frame)) + frame)
    sys.stdout.buffer.flush()


class NoiseProtocol:
    def __init__(self, initiator, private, remote):
        from noise.connection import Keypair, NoiseConnection

        self.connection = NoiseConnection.from_name(PROTOCOL)
        (self.connection.set_as_initiator if initiator else self.connection.set_as_responder)()
        self.connection.set_keypair_from_private_bytes(Keypair.STATIC, private)
        if initiator:
            self.connection.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, remote)
        self.connection.start_handshake()

    def write(self):
        return bytes(self.connection.write_message())

    def read(self, message):
        assert self.connection.read_message(message) == b""

    def ready(self):
        protocol = self.connection.noise_protocol
        self.encrypt, self.decrypt = self.connection.encrypt, self.connection.decrypt
        self.rekey_sent = protocol.cipher_state_encrypt.rekey
        self.rekey_received = protocol.cipher_state_decrypt.rekey


class Dissononce:
    def __init__(self, initiator, private, remote):
        from dissononce.cipher.chachapoly import ChaChaPolyCipher
        from dissononce.dh.x25519.x25519 import X25519DH, PrivateKey, PublicKey
        from dissononce.hash.blake2s import Blake2sHash
        from dissononce.processing.handshakepatterns.interactive.XK import XKHandshakePattern
        from dissononce.processing.impl.cipherstate import CipherState
        from dissononce.processing.impl.handshakestate import HandshakeState
        from dissononce.processing.impl.symmetricstate import SymmetricState

        class Cipher(ChaChaPolyCipher):
            def rekey(self, key):
                # Noise, 4.2: the first 32 bytes. dissononce 0.34.3 leaves the tag behind them.
                return super().rekey(key)[:32]

        class Keyed(CipherState):
            def rekey(self):
                # Noise, 5.1: the key alone. dissononce 0.34.3 begins to count from zero again.
                nonce = self._nonce
                super().rekey()
                self.set_nonce(nonce)

        curve = X25519DH()
        symmetric = SymmetricState(CipherState(Cipher()), Blake2sHash())
        self.state = HandshakeState(symmetric, curve)
        own = curve.generate_keypair(PrivateKey(private))
        others = PublicKey(remote) if initiator else None
        self.state.initialize(XKHandshakePattern(), initiator, b"", s=own, rs=others)
        self.initiator, self.keyed = initiator, Keyed
        self.ciphers = None

    def write(self):
        message = bytearray()
        self.ciphers = self.state.write_message(b"", message) or self.ciphers
        return bytes(message)

    def read(self, message):
        payload = bytearray()
        self.ciphers = self.state.read_message(bytes(message), payload) or self.ciphers
        assert payload == b""

    def ready(self):
        sent, received = self.ciphers if self.initiator else reversed(self.ciphers)
        # What Split makes is always its own class.
        sent.__class__ = received.__class__ = self.keyed
        self.encrypt = lambda plain: sent.encrypt_with_ad(b"", plain)
        self.decrypt = lambda record: received.decrypt_with_ad(b"", record)
        self.rekey_sent, self.rekey_received = sent.rekey, received.rekey


def main():
    library, role, private, *remote = sys.argv[1:]
    initiator = role == "initiator"
    make = {"noiseprotocol": NoiseProtocol, "dissononce": Dissononce}[library]
    peer = make(initiator, bytes.fromhex(private), bytes.fromhex(remote[0]) if remote else None)
    for turn in range(3):
        if (turn % 2 == 0) == initiator:
            send(peer.write())
        else:
            peer.read(receive())
    peer.ready()
    name = b"python"
    # Version 1; "your key is pinned here".
    send(bytes(peer.encrypt(bytes([HELLO, 1, 1, len(name)]) + name)))
    echoed = 0
    while True:
        plain = bytes(peer.decrypt(receive()))
        if plain[0] == REKEY:
            peer.rekey_received()
        elif plain[0] == DATA:
            send(bytes(peer.encrypt(bytes([DATA]) + plain[:0:-1])))
            echoed += 1
            if echoed % FRAMES_UNTIL_REKEY == 0:
                send(bytes(peer.encrypt(bytes([REKEY]))))
                peer.rekey_sent()


main()
