//! A peer that asks, and one that answers: requests, replies, and what stands in them.

use core::time::Duration;

use netd_softbus::Instant;
use netd_softbus::remote::call::Call;
use netd_softbus::remote::gateway::{Limiter, Query, Rates, encode_entries, parse_entries};
use netd_softbus::remote::topic::{Event, Subscribe};
use netd_softbus::remote::{Answered, Asker, Outcome, Payload, Reply, Request, Target, share, state};
use netd_softbus::session::Deframer;

use crate::input::Input;

/// Steps: a request as it is `{ len u16, bytes }`, a reply as it is, a head `{ len u16, bytes }`, a reply to what was asked `{ id u8, outcome u8,
/// len u16, bytes }`; the user asks, subscribes or gives up; the peer asks for a service; time passes. What was understood is printed as it was
/// read, what waits is bounded by what was asked, and a peer is admitted no more often than it may be.
pub fn remote(data: &[u8]) {
    run(data);
}

const RATES: Rates = Rates { per_peer: 8, per_service: 3 };

struct Script {
    now: Instant,
    asker: Asker<u32>,
    asked: u32,
    over: u32,
    limiter: Limiter,
    admitted: u32,
}

fn run(data: &[u8]) -> Option<()> {
    let mut input = Input::new(data);
    let limiter = Limiter::new(RATES);
    let mut script =
        Script { now: Instant::ZERO, asker: Asker::default(), asked: 0, over: 0, limiter, admitted: 0 };
    loop {
        script.step(&mut input)?;
        let waiting = u32::try_from(script.asker.len()).ok()?;
        assert_eq!(waiting + script.over, script.asked, "something is neither under way nor over");
        let seconds = u32::try_from(script.now.as_micros() / 1_000_000).ok()?;
        let most = RATES.per_peer.saturating_mul(seconds.saturating_add(3));
        assert!(script.admitted <= most, "{} in {seconds} s", script.admitted);
    }
}

impl Script {
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.u8()? % 8 {
            0 => request(input.long()?),
            1 => self.reply(Reply::parse(input.long()?).ok()),
            2 => head(input.long()?),
            3 => {
                let (id, kind, bytes) = (u32::from(input.u8()?), input.u8()? % 4, input.long()?);
                let envelope = [&id.to_be_bytes(), &[kind][..], bytes].concat();
                self.reply(Reply::parse(&envelope).ok());
            }
            4 => self.ask(if input.u8()? % 2 == 0 { Target::Call } else { Target::Topic }),
            5 => {
                let user = u32::from(input.u8()?);
                self.over += u32::try_from(self.asker.cancel(|asked| *asked == user).len()).ok()?;
            }
            6 => {
                let service = String::from_utf8_lossy(input.short()?).parse().ok();
                let admitted = self.limiter.admit(self.now).is_ok();
                self.admitted += u32::from(admitted);
                if let Some(service) = service.filter(|_| admitted) {
                    let _busy = self.limiter.admit_service(self.now, &service);
                }
                assert!(self.limiter.services() <= 17, "buckets without bound");
            }
            _ => {
                self.now = self.now + Duration::from_millis(input.u16()?.into());
                let late = self.asker.poll(self.now);
                self.over += u32::try_from(late.len()).ok()?;
                for (_, cancellation) in late {
                    let cancelled = Request::parse(&cancellation[2..]);
                    assert!(cancelled.is_ok_and(|request| request.target == Target::Cancel));
                }
            }
        }
        Some(())
    }

    fn ask(&mut self, target: Target) {
        let payload = Payload::Inline(Vec::new());
        let asked = self.asker.ask(self.now, Duration::from_secs(5), target, Vec::new(), payload, self.asked);
        assert!(asked.is_ok(), "what is short is refused");
        self.asked += 1;
    }

    fn reply(&mut self, reply: Option<Reply>) {
        let Some(reply) = reply else { return };
        let encoded = reply.encode().expect("what was read can be said again");
        assert_eq!(Reply::parse(&encoded[2..]).as_ref(), Ok(&reply));
        match self.asker.handle_reply(reply) {
            Some(Answered::Over(_, outcome)) => {
                assert!(!matches!(outcome, Outcome::Event { .. }), "an event is no end");
                self.over += 1;
            }
            Some(Answered::GoesOn(_, outcome)) => {
                assert!(matches!(outcome, Outcome::Event { .. } | Outcome::Done(_)));
            }
            None => {}
        }
    }
}

fn request(bytes: &[u8]) {
    let mut deframer = Deframer::limited(256);
    deframer.push(bytes);
    while let Ok(Some(frame)) = deframer.next_frame() {
        assert!(frame.len() <= 256);
        let Ok(request) = Request::parse(frame) else { continue };
        let encoded = request.encode().expect("what was read can be said again");
        assert_eq!(&encoded[2..], frame, "what was read is not what is printed");
        head(&request.head);
    }
}

/// What targets make of a head, and users of a body.
fn head(bytes: &[u8]) {
    if let Ok(call) = Call::parse(bytes) {
        assert_eq!(call.encode(), bytes);
    }
    if let Ok(query) = Query::parse(bytes) {
        assert_eq!(query.encode(), bytes);
    }
    if let Ok(subscribe) = Subscribe::parse(bytes) {
        assert_eq!(subscribe.encode(), bytes);
    }
    if let Ok(event) = Event::parse(bytes)
        && let Ok(encoded) = event.encode()
    {
        assert_eq!(encoded, bytes);
    }
    if let Ok(request) = share::Request::decode(bytes) {
        assert_eq!(request.encode(), bytes);
    }
    if let Ok(reply) = share::Reply::decode(bytes) {
        assert_eq!(reply.encode(), bytes);
    }
    if let Ok(request) = state::Request::decode(bytes) {
        assert!(request.keys().as_str().starts_with(state::KEY_ROOT));
        assert_eq!(request.encode(), bytes);
    }
    if let Ok(reply) = state::Reply::decode(bytes) {
        assert_eq!(reply.encode(), bytes);
    }
    if let Ok(entries) = parse_entries(bytes) {
        assert_eq!(parse_entries(&encode_entries(&entries)), Ok(entries));
    }
}
