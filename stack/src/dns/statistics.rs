//! What the resolver did.

use serde::Serialize;

/// What the resolver did so far; everything counts up from zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say what is counted; a sentence each would only repeat them")]
pub struct Statistics {
    pub queries: u64,
    pub queries_answered: u64,
    pub queries_failed: u64,
    pub queries_cancelled: u64,

    pub answered_locally: u64,
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub cache_evictions: u64,
    /// Questions that joined one already under way.
    pub questions_joined: u64,

    pub udp_sent: u64,
    pub tcp_sent: u64,
    pub multicast_sent: u64,
    pub responses_accepted: u64,
    pub responses_truncated: u64,
    pub timeouts: u64,
    pub server_failures: u64,
    pub transport_failures: u64,
    pub fallbacks_without_edns: u64,
    pub fallbacks_without_mixed_case: u64,

    /// For a socket that is closed: late, or a stray.
    pub drop_socket: u64,
    /// From another address than was asked.
    pub drop_source: u64,
    pub drop_malformed: u64,
    /// Not a response to a standard query.
    pub drop_not_response: u64,
    pub drop_id: u64,
    pub drop_question: u64,
    /// The question came back in another case: a simple server, or a forger who guessed the rest.
    pub drop_case: u64,
}

/// Why a message is ignored: the counter that says so.
pub(super) type Reason = fn(&mut Statistics) -> &mut u64;
