//! The decision: first the devnet switch, then what denies, then the grants.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Error;
use crate::capability::Capability;
use crate::compile::{check, entries, resolve};
use crate::index::{Covering, Index, Lookup, Ports, Target};
use crate::quota::Quotas;
use crate::request::Request;
use crate::rule::{Effect, Origin, RuleConfig};
use crate::subject::{Subject, SubjectPattern, Who};
use crate::terms::Terms;

/// Where clouds answer who a machine is, with credentials: whoever reaches it is the machine. The first is everybody's, the others are
/// Google's and Amazon's over IPv6.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// HTTP/3's port: a way around whatever is said of TCP, so a grant must mean it.
pub(crate) const QUIC: u16 = 443;

/// What a decision rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// The devnet switch.
    Devnet,
    /// A rule of a file.
    Written {
        /// Whether it gives or takes.
        effect: Effect,
        /// Its subject as written there.
        subject: SubjectPattern,
        /// Where it stands.
        origin: Origin,
    },
    /// Looking at netd's state is open to whoever reaches its socket.
    Observe,
    /// Changing how netd runs needs no grant of root, nor of the user that netd runs as.
    Operator,
    /// Speaking for others is for the user that netd-services runs as.
    Representative,
    /// A name answered with an address that is not everybody's, and grants for names do not hold for these.
    PrivateAnswer,
    /// No grant: what nothing allows is denied.
    Default,
}

impl Rule {
    /// Where it stands, if it is a file's.
    pub fn origin(&self) -> Option<&Origin> {
        match self {
            Rule::Written { effect: _, subject: _, origin } => Some(origin),
            Rule::Devnet
            | Rule::Observe
            | Rule::Operator
            | Rule::Representative
            | Rule::Default
            | Rule::PrivateAnswer => None,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Devnet => f.write_str("network.devnet.enabled = false"),
            Rule::Written { effect, subject, origin } => write!(f, "{origin} ({effect}, {subject})"),
            Rule::Observe => f.write_str("observe"),
            Rule::Operator => f.write_str("root, and the user that netd runs as"),
            Rule::Representative => f.write_str("netd-services only"),
            Rule::PrivateAnswer => f.write_str("addresses that are not public are not granted by name"),
            Rule::Default => f.write_str("deny by default"),
        }
    }
}

/// The error that a denied client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The devnet switch is off.
    DevnetDisabled,
    /// No grant covers the request.
    PolicyDenied,
}

/// The answer, with the rule it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may.
    Allow {
        /// Because of this.
        rule: Rule,
        /// On these terms.
        terms: Terms,
    },
    /// It may not.
    Deny {
        /// What the client is told.
        error: Denial,
        /// In a sentence.
        reason: String,
        /// Because of this.
        rule: Rule,
    },
}

impl Decision {
    /// Whether the request may go on.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow { .. })
    }

    /// On what terms it is allowed, if it is.
    pub fn terms(&self) -> Option<Terms> {
        match self {
            Decision::Allow { terms, .. } => Some(*terms),
            Decision::Deny { .. } => None,
        }
    }

    /// What it rests on.
    pub fn rule(&self) -> &Rule {
        let (Decision::Allow { rule, .. } | Decision::Deny { rule, .. }) = self;
        rule
    }
}

/// The rules in force.
#[derive(Debug, Clone)]
pub struct Policy {
    devnet_enabled: bool,
    /// The user that netd runs as.
    operator: Option<u32>,
    /// The user that netd-services runs as.
    representative: Option<u32>,
    rules: Vec<(Origin, RuleConfig, Who)>,
    pub(crate) grants: Index,
    /// Grants by name that demand TLS.
    pub(crate) tls_grants: Index,
    /// Grants of fetches whose redirects to other hosts are followed; they are among the grants as well.
    redirect_grants: Index,
    pub(crate) denials: Index,
    quotas: Quotas,
}

impl Policy {
    /// Compiles rules; `user` and `group` turn names of this machine into ids.
    ///
    /// # Errors
    /// A rule with an empty list, with keys that contradict each other, or with a name that does not exist.
    pub fn new(
        devnet_enabled: bool,
        rules: Vec<(Origin, RuleConfig)>,
        user: impl Fn(&str) -> Option<u32>,
        group: impl Fn(&str) -> Option<u32>,
    ) -> Result<Policy, Error> {
        let rules = rules
            .into_iter()
            .map(|(origin, rule)| {
                check(&origin, &rule)?;
                let who = resolve(&origin, &rule.subject, &user, &group)?;
                Ok((origin, rule, who))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let entries = |effect: Effect, terms: Terms| {
            let of = rules.iter().enumerate().filter(|(_, (_, rule, _))| rule.effect == effect);
            of.flat_map(|(number, (_, rule, who))| entries(number, rule, who, terms)).collect()
        };
        let grants = Index::new(Covering::Whole, entries(Effect::Grant, Terms::Free));
        let tls_grants = Index::new(Covering::Whole, entries(Effect::Grant, Terms::Tls));
        let redirect_grants = Index::new(Covering::Whole, entries(Effect::Grant, Terms::Redirected));
        let denials = Index::new(Covering::Part, entries(Effect::Deny, Terms::Free));
        Ok(Policy {
            devnet_enabled,
            operator: None,
            representative: None,
            rules,
            grants,
            tls_grants,
            redirect_grants,
            denials,
            quotas: Quotas::default(),
        })
    }

    /// Lets this user, beside root, change how netd runs without a grant: the one that it runs as.
    #[must_use]
    pub fn with_operator(self, uid: u32) -> Policy {
        Policy { operator: Some(uid), ..self }
    }

    /// Lets this user ask for decisions about others: the one that netd-services runs as.
    #[must_use]
    pub fn with_representative(self, uid: u32) -> Policy {
        Policy { representative: Some(uid), ..self }
    }

    /// The same with these quotas.
    #[must_use]
    pub fn with_quotas(self, quotas: Quotas) -> Policy {
        Policy { quotas, ..self }
    }

    /// How much each subject may have, beside the bounds that hold for every user.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Whether clients may reach peers at all.
    pub fn devnet_enabled(&self) -> bool {
        self.devnet_enabled
    }

    /// The rules as they were written, in the order of the files.
    pub fn rules(&self) -> impl Iterator<Item = (&Origin, &RuleConfig)> {
        self.rules.iter().map(|(origin, rule, _)| (origin, rule))
    }

    /// Decides on one request.
    pub fn decide(&self, subject: &Subject, request: &Request) -> Decision {
        let Some(capability) = request.capability() else {
            return match request {
                Request::Represent => self.decide_represent(subject),
                _ => Decision::Allow { rule: Rule::Observe, terms: Terms::Free },
            };
        };
        if !self.devnet_enabled && request.is_outbound() {
            return Decision::Deny {
                error: Denial::DevnetDisabled,
                reason: format!(
                    "{request}: the devnet switch is off; an operator turns it on with '[network.devnet] \
                     enabled = true' in netd.toml"
                ),
                rule: Rule::Devnet,
            };
        }
        self.decide_by_rules(subject, capability, request)
    }

    /// What would be decided if the devnet switch were on: what grants and denials alone say.
    pub fn decide_with_devnet_on(&self, subject: &Subject, request: &Request) -> Decision {
        match request.capability() {
            Some(capability) => self.decide_by_rules(subject, capability, request),
            None => self.decide(subject, request),
        }
    }

    fn decide_represent(&self, subject: &Subject) -> Decision {
        let rule = Rule::Representative;
        if self.representative == Some(subject.uid) {
            return Decision::Allow { rule, terms: Terms::Free };
        }
        let who = self.representative.map_or_else(|| "nobody".to_owned(), |uid| format!("only uid {uid}"));
        let reason = format!(
            "{}: {who} may ('[services] user' in netd.toml names netd-services' user), not {subject}",
            Request::Represent
        );
        Decision::Deny { error: Denial::PolicyDenied, reason, rule }
    }

    fn decide_by_rules(&self, subject: &Subject, capability: Capability, request: &Request) -> Decision {
        if let Request::TcpConnectName { name, port, address } = request {
            return self.decide_by_name(subject, request, (name, *port), *address);
        }
        let target = request.target();
        let lookup = Lookup { subject, capability, ports: request.ports(), target, named: false };
        if matches!(request, Request::Operate) && self.is_operator(subject) {
            // A service of root's can be kept from it all the same: who wrote the rule can take it away again.
            let denied = self.decide_denials(request, &lookup);
            return denied.unwrap_or(Decision::Allow { rule: Rule::Operator, terms: Terms::Free });
        }
        self.decide_lookup(request, &lookup)
    }

    /// Whether the subject's files, and its signals, are what netd obeys anyway.
    fn is_operator(&self, subject: &Subject) -> bool {
        subject.uid == 0 || self.operator == Some(subject.uid)
    }

    /// Denials, then grants that ask for nothing.
    pub(crate) fn decide_lookup(&self, request: &Request, lookup: &Lookup<'_>) -> Decision {
        if let Some(denied) = self.decide_denials(request, lookup) {
            return denied;
        }
        let named = matches!(lookup.target, Target::Address(peer) if METADATA.contains(&peer));
        let lookup = Lookup { named, ..lookup.clone() };
        // Of several grants the one that allows more counts.
        let more = (lookup.capability == Capability::HttpFetch)
            .then_some((&self.redirect_grants, Terms::Redirected));
        for (grants, terms) in more.into_iter().chain([(&self.grants, Terms::Free)]) {
            if let Some(rule) = grants.find(&lookup).and_then(|number| self.written(number)) {
                return Decision::Allow { rule, terms };
            }
        }
        self.not_granted(request, &lookup)
    }

    /// The denial that covers a request, if one does.
    pub(crate) fn decide_denials(&self, request: &Request, lookup: &Lookup<'_>) -> Option<Decision> {
        let rule = self.denials.find(lookup).and_then(|number| self.written(number))?;
        let reason = format!("{request}: denied to {} by {rule}", lookup.subject);
        Some(Decision::Deny { error: Denial::PolicyDenied, reason, rule })
    }

    /// Denied by default, and what is nearest to allowing it.
    pub(crate) fn not_granted(&self, request: &Request, lookup: &Lookup<'_>) -> Decision {
        let Lookup { subject, capability, .. } = lookup;
        let mut reason = format!("{request}: no grant allows {capability} here to {subject}");
        if let Some(nearest) = self.nearest(lookup) {
            reason.push_str(&format!("; {nearest}"));
        }
        Decision::Deny { error: Denial::PolicyDenied, reason, rule: Rule::Default }
    }

    pub(crate) fn written(&self, number: usize) -> Option<Rule> {
        let (origin, rule, _) = self.rules.get(number)?;
        let (effect, subject, origin) = (rule.effect, rule.subject.clone(), origin.clone());
        Some(Rule::Written { effect, subject, origin })
    }

    /// What a grant for this subject and capability lacks. It costs as much as deciding, however many rules there are.
    fn nearest(&self, lookup: &Lookup<'_>) -> Option<String> {
        let grants = [&self.grants, &self.tls_grants];
        // On whichever ports.
        let there = Lookup { ports: Ports::None, ..lookup.clone() };
        let covering = grants.into_iter().filter_map(|index| index.find(&there)).min();
        let first = || grants.into_iter().filter_map(|index| index.first(lookup)).min();
        let number = covering.or_else(first)?;
        let (_, rule, _) = self.rules.get(number)?;
        let but = if lookup.named {
            "a cloud's metadata server must be named: to = [\"169.254.169.254/32\"], or whichever it is, alone"
        } else if covering.is_none() && rule.hosts.is_some() && matches!(lookup.target, Target::Address(_)) {
            "only by name: connect to the name, and netd finds the address"
        } else if covering.is_none() {
            "only towards others"
        } else if matches!(lookup.ports, Ports::One(QUIC)) && lookup.capability == Capability::UdpSend {
            "UDP port 443 must be named: ports = [\"443\"]"
        } else if lookup.capability == Capability::Raw {
            "only for other types"
        } else {
            "only for other ports"
        };
        Some(format!("{} allows it, but {but}", self.written(number)?))
    }
}
