//! What clients ask about the rules: the list of them, what they would say, and what they denied.
//!
//! Explaining asks the very function that enforcement asks, of the very rules that are in force.

use netd_ipc::ErrorKind;
use netd_ipc::policy::{self as wire, Asker, Denials, DeniedRequest, Explanation};
use netd_ipc::server::Peer;
use netd_policy::{
    Capability, Decision, Denial, Origin, Policy, Redirects, Request, RuleConfig, Subject, SubjectPattern,
    Terms, Tls,
};

use crate::audit::Audit;

/// Rules in one reply: at some 300 bytes each, far below what a reply may have.
const RULES_MAX: usize = 1000;

/// Why a question was none.
pub(super) struct Wrong(pub(super) String);

/// The rules from number `from` on.
pub(super) fn rules(policy: &Policy, from: usize) -> wire::Rules {
    wire::Rules {
        devnet_enabled: policy.devnet_enabled(),
        total: policy.rules().count(),
        rules: policy
            .rules()
            .skip(from)
            .take(RULES_MAX)
            .map(|(origin, rule)| rule_of(origin, rule))
            .collect(),
    }
}

fn rule_of(origin: &Origin, rule: &RuleConfig) -> wire::Rule {
    fn texts<T: ToString>(values: &[T]) -> Vec<String> {
        values.iter().map(ToString::to_string).collect()
    }
    let RuleConfig {
        effect,
        subject,
        capabilities,
        ports,
        to,
        hosts,
        devices,
        services,
        ether_types,
        tls,
        redirects,
    } = rule;
    wire::Rule {
        effect: effect.to_string(),
        subject: subject.to_string(),
        capabilities: texts(capabilities),
        ports: ports.as_deref().map(texts),
        to: to.as_deref().map(texts),
        hosts: hosts.as_deref().map(texts),
        devices: devices.as_deref().map(texts),
        services: services.as_deref().map(texts),
        ether_types: ether_types.as_deref().map(texts),
        tls: tls.map(|tls| tls.to_string()),
        redirects: redirects.map(|redirects| redirects.to_string()),
        file: origin.file.to_string(),
        line: origin.line,
    }
}

/// A client, as rules are written about it.
pub(super) fn subject(peer: Peer) -> Subject {
    let Peer { uid, gid, pid, unit } = peer;
    Subject { uid, gid, pid, unit }
}

/// Decides for a client of netd-services, and records a denial as if the client had asked here.
pub(super) fn decide(
    policy: &Policy,
    audit: &Audit,
    client: &Subject,
    capability: &str,
    target: Option<&str>,
) -> Result<wire::Decision, Wrong> {
    let request = parse(capability, target)?;
    let said = policy.decide(client, &request);
    if let Decision::Deny { error, reason: _, rule } = &said {
        audit.denied(client, &request, *error, rule);
    }
    Ok(decision(&request, said))
}

fn parse(capability: &str, target: Option<&str>) -> Result<Request, Wrong> {
    capability
        .parse::<Capability>()
        .and_then(|capability| Request::parse(capability, target))
        .map_err(|error| Wrong(error.to_string()))
}

/// What would be decided for `asker`.
pub(super) fn explain(
    policy: &Policy,
    asker: Asker,
    capability: &str,
    target: Option<&str>,
) -> Result<Explanation, Wrong> {
    let Asker { uid, gid, unit } = asker;
    let subject = Subject { uid, gid, pid: 0, unit };
    let request = parse(capability, target)?;
    Ok(Explanation {
        decision: decision(&request, policy.decide(&subject, &request)),
        with_devnet_on: decision(&request, policy.decide_with_devnet_on(&subject, &request)),
        quotas: policy.quotas().describe(&subject),
    })
}

/// A decision as the interface has it.
pub(super) fn decision(request: &Request, decision: Decision) -> wire::Decision {
    let tls = decision.terms().and_then(|terms| tls(request, terms));
    let redirects = decision.terms().and_then(|terms| redirects(request, terms));
    let (allowed, error, reason, rule) = match decision {
        Decision::Allow { rule, terms: Terms::Free } => {
            (true, None, format!("{request}: allowed by {rule}"), rule)
        }
        Decision::Allow { rule, terms } => {
            (true, None, format!("{request}: allowed by {rule}, {terms}"), rule)
        }
        Decision::Deny { error, reason, rule } => (false, Some(kind(error)), reason, rule),
    };
    let origin = rule.origin();
    wire::Decision {
        allowed,
        error,
        reason,
        tls: tls.map(|tls| tls.to_string()),
        redirects: redirects.map(|redirects| redirects.to_string()),
        file: origin.map(|origin| origin.file.to_string()),
        line: origin.map(|origin| origin.line),
        rule: rule.to_string(),
    }
}

/// What a connection by name is asked to begin with; none for any other request.
pub(super) fn tls(request: &Request, terms: Terms) -> Option<Tls> {
    matches!(request, Request::TcpConnectName { .. }).then_some(match terms {
        Terms::Tls => Tls::Required,
        Terms::Free | Terms::ByAddress | Terms::Redirected => Tls::Any,
    })
}

/// Which redirects a fetch follows; none for any other request.
fn redirects(request: &Request, terms: Terms) -> Option<Redirects> {
    matches!(request, Request::Fetch { .. }).then_some(match terms {
        Terms::Redirected => Redirects::Granted,
        Terms::Free | Terms::Tls | Terms::ByAddress => Redirects::SameHost,
    })
}

/// The error that a denied client is told.
pub(super) fn kind(error: Denial) -> ErrorKind {
    match error {
        Denial::DevnetDisabled => ErrorKind::DevnetDisabled,
        Denial::PolicyDenied => ErrorKind::PolicyDenied,
    }
}

/// Whose denials are asked for.
pub(super) fn whose(subject: &str) -> Result<SubjectPattern, Wrong> {
    match subject.parse() {
        Ok(SubjectPattern::User(_) | SubjectPattern::Group(_)) => {
            Err(Wrong(format!("'{subject}' has a name, and the number is needed here")))
        }
        Ok(pattern) => Ok(pattern),
        Err(error) => Err(Wrong(error.to_string())),
    }
}

/// What `who` was denied since the number `since`, and what the rules say of it now.
pub(super) fn denials(policy: &Policy, audit: &Audit, who: &SubjectPattern, since: u64) -> Denials {
    let (denied, next) = audit.denied_since(since, who);
    let denials = denied
        .into_iter()
        .filter_map(|denied| {
            let said = policy.decide_with_devnet_on(&denied.subject, &denied.request);
            Some(DeniedRequest {
                uid: denied.subject.uid,
                capability: denied.request.capability()?.to_string(),
                target: denied.request.target_text(),
                count: denied.count,
                decision: decision(&denied.request, said),
                unit: denied.subject.unit,
            })
        })
        .collect();
    Denials { denials, next }
}
