//! `Noise_XK_25519_ChaChaPoly_BLAKE2s` (Noise Protocol Framework, revision 34), through snow.
//!
//! ```text
//!  XK:  <- s                          what the initiator must know beforehand: the announced key
//!       -> e, es          48 bytes
//!       <- e, ee          48 bytes
//!       -> s, se          64 bytes    the first time that the responder sees who it is talking to
//! ```
//!
//! Prologue and payloads are empty, so that any implementation of Noise can be the peer.

use alloc::boxed::Box;
use alloc::vec::Vec;

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash};
use snow::{Builder, HandshakeState, StatelessTransportState};
use zeroize::Zeroizing;

use super::identity::StaticKey;
use crate::error::Error;
use crate::key::{KEY_BYTES, PublicKey};
use crate::random::{Random, array};

const PROTOCOL: &str = "Noise_XK_25519_ChaChaPoly_BLAKE2s";
/// What authenticates a ciphertext (RFC 8439, 2.8).
pub(super) const TAG_BYTES: usize = 16;
/// Messages 1 and 2: an ephemeral key and the tag of an empty payload.
pub const SHORT_MESSAGE_BYTES: usize = KEY_BYTES + TAG_BYTES;
/// Message 3: an encrypted static key and the tag of an empty payload.
pub const LAST_MESSAGE_BYTES: usize = KEY_BYTES + TAG_BYTES + TAG_BYTES;
/// BLAKE2s.
pub(super) const HASH_BYTES: usize = 32;

/// Whose turn it was, for error messages.
const MESSAGES: [&str; 3] = ["handshake message 1", "handshake message 2", "handshake message 3"];

/// snow's own primitives, but the ephemeral key comes out of the caller's source. It is drawn beforehand, since snow wants a source that
/// it may keep; it is used for one key, and a second draw fails rather than repeats.
struct Primitives {
    ephemeral: Zeroizing<[u8; KEY_BYTES]>,
}

struct OneDraw(Option<Zeroizing<[u8; KEY_BYTES]>>);

impl snow::types::Random for OneDraw {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), snow::Error> {
        let drawn = self.0.take().ok_or(snow::Error::Rng)?;
        if bytes.len() != drawn.len() {
            return Err(snow::Error::Rng);
        }
        bytes.copy_from_slice(&*drawn);
        Ok(())
    }
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn snow::types::Random>> {
        Some(Box::new(OneDraw(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// The public half of a private key.
pub(super) fn public_of(private: &[u8; KEY_BYTES]) -> Result<PublicKey, Error> {
    let mut dh =
        DefaultResolver.resolve_dh(&DHChoice::Curve25519).ok_or(Error::Crypto { what: "Curve25519" })?;
    dh.set(private);
    let public = dh.pubkey().try_into().ok().and_then(PublicKey::new);
    public.ok_or(Error::Crypto { what: "Curve25519" })
}

/// A handshake under way.
pub(super) struct Handshake {
    state: HandshakeState,
    /// Messages written and read so far.
    step: usize,
}

/// A handshake that is done.
pub(super) struct Established {
    pub(super) ciphers: StatelessTransportState,
    /// Who is on the other side, proven.
    pub(super) remote: PublicKey,
    /// What both sides saw: unique to this session, and the same on both sides only if nobody sits between.
    pub(super) hash: [u8; HASH_BYTES],
}

impl Handshake {
    /// Dials `remote`.
    pub(super) fn initiator(
        own: &StaticKey,
        remote: &PublicKey,
        random: &mut dyn Random,
    ) -> Result<Handshake, Error> {
        Handshake::new(own, Some(remote), &[], array(random))
    }

    /// Waits to be dialled.
    pub(super) fn responder(own: &StaticKey, random: &mut dyn Random) -> Result<Handshake, Error> {
        Handshake::new(own, None, &[], array(random))
    }

    fn new(
        own: &StaticKey,
        remote: Option<&PublicKey>,
        prologue: &[u8],
        ephemeral: [u8; KEY_BYTES],
    ) -> Result<Handshake, Error> {
        let parameters: NoiseParams = PROTOCOL.parse().map_err(|_| Error::Crypto { what: PROTOCOL })?;
        let primitives = Primitives { ephemeral: Zeroizing::new(ephemeral) };
        let builder = Builder::with_resolver(parameters, Box::new(primitives))
            .local_private_key(own.private())
            .and_then(|builder| builder.prologue(prologue));
        let state = match remote {
            Some(remote) => builder
                .and_then(|builder| builder.remote_public_key(remote.as_bytes()))
                .and_then(Builder::build_initiator),
            None => builder.and_then(Builder::build_responder),
        };
        let state = state.map_err(|_| Error::Crypto { what: "the handshake's parameters" })?;
        Ok(Handshake { state, step: 0 })
    }

    fn message(&self) -> &'static str {
        MESSAGES.get(self.step).copied().unwrap_or("handshake")
    }

    /// The next message to send, without a payload.
    pub(super) fn write(&mut self) -> Result<Vec<u8>, Error> {
        self.write_with(&[])
    }

    fn write_with(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let mut message = alloc::vec![0; LAST_MESSAGE_BYTES + payload.len()];
        let written = self.state.write_message(payload, &mut message);
        let len = written.map_err(|_| Error::Crypto { what: self.message() })?;
        message.truncate(len);
        self.step += 1;
        Ok(message)
    }

    /// The next message of the peer; its payload must be empty.
    pub(super) fn read(&mut self, message: &[u8]) -> Result<(), Error> {
        let len = if self.step == 2 { LAST_MESSAGE_BYTES } else { SHORT_MESSAGE_BYTES };
        if message.len() != len {
            return Err(Error::Length { message: self.message(), len: message.len(), right: len });
        }
        self.read_with(message).map(drop)
    }

    fn read_with(&mut self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut payload = alloc::vec![0; message.len()];
        let read = self.state.read_message(message, &mut payload);
        let len = read.map_err(|_| Error::NotAuthentic { message: self.message() })?;
        payload.truncate(len);
        self.step += 1;
        Ok(payload)
    }

    /// Splits (Noise, 5.3) after the third message.
    pub(super) fn finish(self) -> Result<Established, Error> {
        let incomplete = || Error::Crypto { what: "a handshake that is not complete" };
        let remote = self.state.get_remote_static().and_then(|key| key.try_into().ok());
        let remote = remote.and_then(PublicKey::new).ok_or_else(incomplete)?;
        let hash = self.state.get_handshake_hash().try_into().map_err(|_| incomplete())?;
        let ciphers = self.state.into_stateless_transport_mode().map_err(|_| incomplete())?;
        Ok(Established { ciphers, remote, hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(digits: &str) -> Vec<u8> {
        let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
        digits.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    fn key(digits: &str) -> [u8; 32] {
        unhex(digits).try_into().unwrap()
    }

    /// Payloads and messages of cacophony's vector for this protocol (github.com/centromere/cacophony, vectors/cacophony.txt).
    const PROLOGUE: &str = "4a6f686e2047616c74";
    const INITIATOR: [&str; 2] = [
        "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1",
        "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
    ];
    const RESPONDER: [&str; 2] = [
        "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893",
        "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
    ];
    const RESPONDER_PUBLIC: &str = "31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62";
    const HASH: &str = "899891a0f1a8db67f8bfa46b8bced371c1c25de377f20cf882fdd06fc15517fd";
    const HANDSHAKE: [[&str; 2]; 3] = [
        [
            "4c756477696720766f6e204d69736573",
            "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944e953bb4cd3450eecab157a8ce632f74fcac39a3fcd5be08267d5923ca353d4f0",
        ],
        [
            "4d757272617920526f746862617264",
            "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f14480884382521c3ea09af48bfa39627819b007e7c0e179dad4a9a7482841bae32ec8eb",
        ],
        [
            "462e20412e20486179656b",
            "f032de86c8d3c2099478fefb9b2e6a1fef904d3b2470949858ae9f497ff068dbb6ff7cb43fa51946bcd8a87863849aa7f0e663cd83961c752ce3be41384de8a849e4d130d9a2d717a5c7e8",
        ],
    ];
    /// From the responder, then from the initiator.
    const TRANSPORT: [[&str; 2]; 2] = [
        ["4361726c204d656e676572", "cb54ca2168a55a150760c409e2157b9e57ceab823d897bff36eeab"],
        [
            "4a65616e2d426170746973746520536179",
            "948e26c8a5348aec2711343de8e7c8faa7cae4b6bf51e9026eab234ed4f3e8e8fc",
        ],
    ];

    #[test]
    fn handshake_by_cacophonys_vector_is_byte_for_byte_the_same() {
        let side = |keys: [&str; 2], remote: Option<&PublicKey>| {
            let own = StaticKey::from_bytes(key(keys[0])).unwrap();
            Handshake::new(&own, remote, &unhex(PROLOGUE), key(keys[1])).unwrap()
        };
        let remote = PublicKey::new(key(RESPONDER_PUBLIC)).unwrap();
        assert_eq!(public_of(&key(RESPONDER[0])), Ok(remote));
        let mut sides = [side(INITIATOR, Some(&remote)), side(RESPONDER, None)];
        for (step, [payload, message]) in HANDSHAKE.into_iter().enumerate() {
            assert_eq!(sides[step % 2].write_with(&unhex(payload)), Ok(unhex(message)));
            assert_eq!(sides[1 - step % 2].read_with(&unhex(message)), Ok(unhex(payload)));
        }
        let [initiator, responder] = sides.map(|side| side.finish().unwrap());
        assert_eq!(initiator.hash, key(HASH));
        assert_eq!(responder.hash, key(HASH));
        assert_eq!(Ok(responder.remote), public_of(&key(INITIATOR[0])));
        for ([payload, message], sender) in TRANSPORT.into_iter().zip([&responder, &initiator]) {
            let mut bytes = [0; 64];
            let len = sender.ciphers.write_message(0, &unhex(payload), &mut bytes).unwrap();
            assert_eq!(bytes[..len], unhex(message));
        }
    }

    #[test]
    fn handshake_without_payloads_has_the_lengths_that_are_fixed() {
        let mut seeded = fastrand::Rng::with_seed(1);
        let mut random = |bytes: &mut [u8]| seeded.fill(bytes);
        let [one, other] = core::array::from_fn(|_| StaticKey::generate(&mut random).unwrap());
        let mut initiator = Handshake::initiator(&one, &other.public(), &mut random).unwrap();
        let mut responder = Handshake::responder(&other, &mut random).unwrap();
        let first = initiator.write().unwrap();
        responder.read(&first).unwrap();
        let second = responder.write().unwrap();
        initiator.read(&second).unwrap();
        let third = initiator.write().unwrap();
        assert_eq!([first.len(), second.len(), third.len()], [48, 48, 64]);
        let long = alloc::vec![0; 65];
        let wrong = Error::Length { message: "handshake message 3", len: 65, right: 64 };
        assert_eq!(responder.read(&long), Err(wrong));
    }
}
