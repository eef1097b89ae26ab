//! The gateway: every request comes through here, whoever asks. First how often, then what the list says, then who answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use netd_softbus::discovery::Transport;
use netd_softbus::remote::call::Call;
use netd_softbus::remote::gateway::{Entry, Limiter, Offers, Query, Rates, encode_entries};
use netd_softbus::remote::topic::Subscribe;
use netd_softbus::remote::{Status, Target};
use netd_softbus::{DeviceId, Instant, ServiceName};

use super::super::Bus;
use super::{Answer, Caller, Question, Refusal, Subscription, calls, peers, refusal, topics};

/// Devices whose use is remembered before it is looked which of them have been quiet: more than there are sessions.
const REMEMBERED_MAX: usize = 128;

/// What a request was granted.
#[derive(Debug)]
pub(in crate::bus) enum Granted {
    Answer(Answer),
    Subscription(Subscription),
}

/// How often each device asked lately. It outlives sessions, so a new one buys nothing.
#[derive(Debug)]
pub(in crate::bus) struct Limiters {
    rates: Rates,
    devices: BTreeMap<DeviceId, Limiter>,
}

impl Limiters {
    pub(in crate::bus) fn new(rates: Rates) -> Limiters {
        Limiters { rates, devices: BTreeMap::new() }
    }

    fn of(&mut self, now: Instant, device: &DeviceId) -> &mut Limiter {
        if self.devices.len() >= REMEMBERED_MAX && !self.devices.contains_key(device) {
            // Only devices with a session ask, so those who are left are few.
            self.devices.retain(|_, limiter| !limiter.is_idle(now));
        }
        let rates = self.rates;
        self.devices.entry(device.clone()).or_insert_with(|| Limiter::new(rates))
    }

    fn admit(&mut self, now: Instant, caller: &Caller) -> Result<(), Refusal> {
        let Caller::Peer(device) = caller else { return Ok(()) };
        let rate = self.rates.per_peer;
        self.of(now, device).admit(now).map_err(|status| {
            refusal(status, format!("more than {rate} requests a second ('[bus] requests_per_second' there)"))
        })
    }

    fn admit_service(&mut self, now: Instant, caller: &Caller, service: &ServiceName) -> Result<(), Refusal> {
        let Caller::Peer(device) = caller else { return Ok(()) };
        let rate = self.rates.per_service;
        self.of(now, device).admit_service(now, service).map_err(|status| {
            let what = "requests of one service a second ('[bus] service_requests_per_second' there)";
            refusal(status, format!("more than {rate} {what}"))
        })
    }
}

/// Answers a request, within whatever time the caller of this gives it.
pub(super) async fn handle(bus: &Arc<Bus>, caller: &Caller, question: Question) -> Result<Granted, Refusal> {
    let now = bus.clock.now();
    bus.core().limiters.admit(now, caller)?;
    let Question { target, head, payload, deadline } = question;
    match target {
        Target::Gateway => {
            let query = Query::parse(&head).map_err(invalid)?;
            entries(bus, caller, &query).map(|body| Granted::Answer(Answer { body, bulk: None }))
        }
        Target::Call => {
            let Call { service, method } = Call::parse(&head).map_err(invalid)?;
            let queue = {
                let mut core = bus.core();
                check(&core, caller, &service)?;
                let queue =
                    core.registry.calls(&service).ok_or_else(|| absent("answers calls of", &service))?;
                core.limiters.admit_service(now, caller, &service)?;
                queue
            };
            calls::call(&queue, caller, &method, payload, deadline).await.map(Granted::Answer)
        }
        Target::Topic => {
            let Subscribe { service, topic } = Subscribe::parse(&head).map_err(invalid)?;
            let mut core = bus.core();
            check(&core, caller, &service)?;
            let hub = core.registry.topics(&service).ok_or_else(|| absent("publishes as", &service))?;
            core.limiters.admit_service(now, caller, &service)?;
            topics::subscribe(&hub, topic).map(Granted::Subscription)
        }
        Target::Share | Target::State => {
            // Clients of this machine ask at once: their rights are netd's to say, and how often is theirs.
            let Caller::Peer(device) = caller else {
                return Err(refusal(Status::Invalid, "this machine's own are not asked for here"));
            };
            let answer = match target {
                Target::Share => peers::share(bus, device, &head).await,
                _ => peers::state(bus, device, &head, payload).await,
            };
            answer.map(Granted::Answer)
        }
        // Whoever reads the control stream knows what it cancels.
        Target::Cancel => Err(refusal(Status::Invalid, "nothing is under way that could be cancelled")),
    }
}

/// Whether the caller may reach the service at all, whether or not it exists.
fn check(core: &super::super::Core, caller: &Caller, service: &ServiceName) -> Result<(), Refusal> {
    let Caller::Peer(device) = caller else { return Ok(()) };
    let allowed = core.discovery.acl().service(device, Transport::Tcp, service);
    allowed.map(drop).map_err(|error| refusal(Status::Denied, format!("{error} ([[bus.acl]])")))
}

fn absent(does: &str, service: &ServiceName) -> Refusal {
    refusal(Status::NotFound, format!("nobody {does} '{service}' here"))
}

fn invalid(error: impl std::fmt::Display) -> Refusal {
    refusal(Status::Invalid, error.to_string())
}

/// What is offered, as far as it is for the caller.
fn entries(bus: &Bus, caller: &Caller, query: &Query) -> Result<Vec<u8>, Refusal> {
    let core = bus.core();
    let entry = |(service, offers): (&ServiceName, Offers)| Entry { service: service.clone(), offers };
    match query {
        Query::List => {
            let theirs = core.registry.offers().filter(|(service, _)| check(&core, caller, service).is_ok());
            Ok(encode_entries(&theirs.map(entry).collect::<Vec<_>>()))
        }
        Query::Resolve(service) => {
            check(&core, caller, service)?;
            let found = core.registry.offers().find(|(offered, _)| *offered == service);
            let found = found.ok_or_else(|| absent("offers", service))?;
            Ok(encode_entries(&[entry(found)]))
        }
    }
}
