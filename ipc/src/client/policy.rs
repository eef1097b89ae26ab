//! Calls about the rules: what is in force, what they would say, what they denied.

use serde_json::json;

use super::Client;
use crate::error::Error;
use crate::policy::{Asker, AuditReport, Decision, Denials, Explanation, Rules, TrustChange};
use crate::server::Peer;

impl Client {
    /// The rules in force, all of them. They are read in several calls; a reload in between may show in the middle.
    ///
    /// # Errors
    /// The call failed.
    pub fn rules(&self) -> Result<Rules, Error> {
        let mut all: Rules = self.ask("ListRules", json!({}))?;
        while all.rules.len() < all.total {
            let more: Rules = self.ask("ListRules", json!({ "from": all.rules.len() }))?;
            if more.rules.is_empty() {
                break;
            }
            all.rules.extend(more.rules);
        }
        all.total = all.rules.len();
        Ok(all)
    }

    /// What netd would decide, without doing anything.
    ///
    /// # Errors
    /// `InvalidInput` for a capability or target that is none, or the call failed.
    pub fn explain(
        &self,
        asker: &Asker,
        capability: &str,
        target: Option<&str>,
    ) -> Result<Explanation, Error> {
        let Asker { uid, gid, unit } = asker;
        let parameters =
            json!({ "uid": uid, "gid": gid, "unit": unit, "capability": capability, "target": target });
        self.ask("Explain", parameters)
    }

    /// Asks netd to decide for a client of the caller's; a denial is recorded as that client's. For the user that netd-services runs as.
    ///
    /// # Errors
    /// `PolicyDenied` for everybody else, `InvalidInput` for a capability or target that is none, or the call failed.
    pub fn decide(&self, client: &Peer, capability: &str, target: Option<&str>) -> Result<Decision, Error> {
        #[derive(serde::Deserialize)]
        struct Reply {
            decision: Decision,
        }
        let parameters = json!({ "client": client, "capability": capability, "target": target });
        self.ask("Decide", parameters).map(|reply: Reply| reply.decision)
    }

    /// Has a change of trust recorded in the audit, on behalf of a client of the caller's. For the user that netd-services runs as.
    ///
    /// # Errors
    /// `PolicyDenied` for everybody else, or the call failed.
    pub fn record_trust(&self, client: &Peer, change: TrustChange, detail: &str) -> Result<(), Error> {
        #[derive(serde::Deserialize)]
        struct Reply {}
        let parameters = json!({ "client": client, "change": change, "detail": detail });
        self.ask("RecordTrust", parameters).map(|_: Reply| ())
    }

    /// Has a change of the bus's state recorded in the audit, on behalf of a client of the caller's; or of a device, and then the client is the
    /// caller itself. For the user that netd-services runs as.
    ///
    /// # Errors
    /// `PolicyDenied` for everybody else, or the call failed.
    pub fn record_state(&self, client: &Peer, device: Option<&str>, detail: &str) -> Result<(), Error> {
        #[derive(serde::Deserialize)]
        struct Reply {}
        let parameters = json!({ "client": client, "device": device, "detail": detail });
        self.ask("RecordState", parameters).map(|_: Reply| ())
    }

    /// Where the audit is, and what became of its records.
    ///
    /// # Errors
    /// The call failed.
    pub fn audit(&self) -> Result<AuditReport, Error> {
        #[derive(serde::Deserialize)]
        struct Reply {
            audit: AuditReport,
        }
        self.ask("GetAudit", json!({})).map(|reply: Reply| reply.audit)
    }

    /// What a subject (`any`, `user:UID`, `group:GID`, `unit:NAME`) was denied lately: all that is remembered, or what came since.
    ///
    /// # Errors
    /// `PolicyDenied` for anybody's but the caller's own, unless the caller has `net.admin`; or the call failed.
    pub fn denials(&self, subject: &str, since: Option<u64>) -> Result<Denials, Error> {
        self.ask("ListDenials", json!({ "subject": subject, "since": since }))
    }
}
