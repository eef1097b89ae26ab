//! Connections by name: decided before the name is resolved, and for each address that it turns out to have.
//!
//! | the client has | the name is | its addresses are |
//! | --- | --- | --- |
//! | a grant for the name (or for every peer) | resolved for it | allowed on the grant's terms, unless they are [special](crate::reach): these need a grant of their own |
//! | only grants for prefixes, and net.dns.resolve for the name | resolved for it | decided one by one, as if it had asked for each |
//! | neither | not asked for | - |
//!
//! What denies an address or the name wins over all of it. Of several grants for a name the one that demands least counts, so that
//! one more grant never takes anything away.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::capability::Capability;
use crate::decide::{Decision, Denial, Policy, Rule};
use crate::host::HostName;
use crate::index::{Lookup, Ports, Target};
use crate::reach::special;
use crate::request::Request;
use crate::subject::Subject;
use crate::terms::Terms;

impl Policy {
    /// Decides on `request`, a connection to `name` and `port`, at an address if it has one by now.
    pub(crate) fn decide_by_name(
        &self,
        subject: &Subject,
        request: &Request,
        (name, port): (&HostName, u16),
        address: Option<IpAddr>,
    ) -> Decision {
        let by_name = self.decide_name(subject, request, (name, port));
        let (Decision::Allow { terms, .. }, Some(address)) = (&by_name, address.map(|ip| ip.to_canonical()))
        else {
            return by_name;
        };
        let lookup = Lookup {
            subject,
            capability: Capability::TcpConnect,
            ports: Ports::One(port),
            target: Target::Address(address),
            named: false,
        };
        if *terms == Terms::ByAddress {
            return self.decide_lookup(request, &lookup);
        }
        if let Some(denied) = self.decide_denials(request, &lookup) {
            return denied;
        }
        let Some(kind) = special(address) else { return by_name };
        if self.decide_lookup(request, &lookup).is_allowed() {
            return by_name;
        }
        let prefix = IpNet::from(address);
        let reason = format!(
            "{request}: the name answers with {kind}, which a grant by name does not include; if it is meant, it needs a \
             grant of its own, with to = [\"{prefix}\"]"
        );
        Decision::Deny { error: Denial::PolicyDenied, reason, rule: Rule::PrivateAnswer }
    }

    /// Whether the name may be resolved, to be connected to.
    fn decide_name(&self, subject: &Subject, request: &Request, (name, port): (&HostName, u16)) -> Decision {
        let (capability, ports) = (Capability::TcpConnect, Ports::One(port));
        let lookup = Lookup { subject, capability, ports, target: Target::Name(name), named: false };
        if let Some(denied) = self.decide_denials(request, &lookup) {
            return denied;
        }
        for (grants, terms) in [(&self.grants, Terms::Free), (&self.tls_grants, Terms::Tls)] {
            if let Some(rule) = grants.find(&lookup).and_then(|number| self.written(number)) {
                return Decision::Allow { rule, terms };
            }
        }
        let Some(rule) = self.grants.find_towards_some(&lookup).and_then(|number| self.written(number))
        else {
            return self.not_granted(request, &lookup);
        };
        // Resolving tells whoever serves the domain that somebody asks, and anything that the name itself says.
        let resolve = Request::Resolve { name: Some(name.clone()) };
        match self.decide_with_devnet_on(subject, &resolve) {
            Decision::Allow { .. } => Decision::Allow { rule, terms: Terms::ByAddress },
            Decision::Deny { error, rule: denied_by, .. } => {
                let reason = format!(
                    "{request}: no grant allows {capability} to this name to {subject}; {rule} allows addresses, but \
                     {} for the name is missing",
                    Capability::DnsResolve
                );
                Decision::Deny { error, reason, rule: denied_by }
            }
        }
    }
}
