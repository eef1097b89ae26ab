//! A peer that has proven who it is and asks what it wants: the answering side as it meets it, on a pipe instead of a session.

use netd_softbus::remote::call::Call;
use netd_softbus::remote::gateway::{Query, parse_entries};
use netd_softbus::remote::topic::Subscribe;
use netd_softbus::remote::{
    OUTSTANDING_MAX, Outcome, Payload, REPLY_BYTES_MAX, Reply as Envelope, Request, SUBSCRIPTIONS_MAX,
};
use netd_softbus::session::Deframer;
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;

use super::super::link::Command;
use super::*;
use crate::bus::registry::Registration;
use crate::netd::Netd;
use crate::rights::Right;
use crate::server::Shares;

/// What comes within moments; the rest is room for a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A device with a peer that may use `lamp` and `sensor`.
struct Lab {
    bus: Arc<Bus>,
    pipe: DuplexStream,
    deframer: Deframer,
    /// What the answering side asks of its session.
    session: mpsc::Receiver<Command>,
}

impl Lab {
    fn new() -> Lab {
        let text = "[bus]\ndevice = \"hub\"\nrequests_per_second = 200\nservice_requests_per_second = 100\n\
                    [[bus.acl]]\ndevices = [\"camera-*\"]\nservices = [\"lamp\", \"sensor\"]\n";
        let config = crate::config::Config::parse(std::path::Path::new("services.toml"), text).unwrap();
        let shares = Shares::new("streams", "streams", 8, 8);
        let bus = Arc::new(Bus::new(config.bus, Netd::new(None), shares).unwrap());
        let (ours, theirs) = duplex(PIPE_BYTES);
        let (link, session) = mpsc::channel(8);
        tokio::spawn(serve(Arc::clone(&bus), "camera-1".parse().unwrap(), link, theirs));
        Lab { bus, pipe: ours, deframer: Deframer::limited(REPLY_BYTES_MAX), session }
    }

    fn offer(&self, service: &str) -> Registration {
        let offers = netd_softbus::remote::gateway::Offers { streams: true, calls: true, topics: true };
        let share = self.bus.services.take(7).unwrap();
        let right = Right::kept(&self.bus.rights);
        Registration::new(&self.bus, service.parse().unwrap(), offers, share, right).unwrap()
    }

    async fn send(&mut self, id: u32, target: Target, head: Vec<u8>) {
        let deadline = Some(Duration::from_secs(60));
        let request = Request { id, deadline, target, head, payload: Payload::Inline(Vec::new()) };
        self.raw(&request.encode().unwrap()).await;
    }

    async fn raw(&mut self, bytes: &[u8]) {
        self.pipe.write_all(bytes).await.unwrap();
    }

    /// The next reply; none if the stream is over.
    async fn reply(&mut self) -> Option<Envelope> {
        loop {
            if let Some(frame) = self.deframer.next_frame().unwrap() {
                return Some(Envelope::parse(frame).unwrap());
            }
            let mut chunk = [0; 4096];
            let count = timeout(LIMIT, self.pipe.read(&mut chunk)).await.unwrap().unwrap();
            if count == 0 {
                return None;
            }
            self.deframer.push(&chunk[..count]);
        }
    }

    async fn status(&mut self, id: u32) -> Status {
        let reply = self.reply().await.unwrap();
        assert_eq!(reply.id, id);
        match reply.outcome {
            Outcome::Failed { status, .. } => status,
            outcome => panic!("{outcome:?}"),
        }
    }
}

fn call(service: &str) -> Vec<u8> {
    Call { service: service.parse().unwrap(), method: "blink".parse().unwrap() }.encode()
}

fn subscribe(service: &str) -> Vec<u8> {
    Subscribe { service: service.parse().unwrap(), topic: None }.encode()
}

#[tokio::test]
async fn service_of_no_rule_is_denied_and_not_listed_whether_or_not_it_is_there() {
    let mut lab = Lab::new();
    let _offered = [lab.offer("lamp"), lab.offer("secret")];
    for (id, service) in [(1, "secret"), (2, "nothing")] {
        lab.send(id, Target::Call, call(service)).await;
        assert_eq!(lab.status(id).await, Status::Denied);
        lab.send(id, Target::Topic, subscribe(service)).await;
        assert_eq!(lab.status(id).await, Status::Denied);
        lab.send(id, Target::Gateway, Query::Resolve(service.parse().unwrap()).encode()).await;
        assert_eq!(lab.status(id).await, Status::Denied);
    }
    lab.send(3, Target::Call, call("sensor")).await;
    assert_eq!(lab.status(3).await, Status::NotFound);
    lab.send(4, Target::Gateway, Query::List.encode()).await;
    let Outcome::Done(body) = lab.reply().await.unwrap().outcome else { panic!() };
    let listed = parse_entries(&body).unwrap();
    assert_eq!(listed.iter().map(|entry| entry.service.as_str()).collect::<Vec<_>>(), ["lamp"]);
}

#[tokio::test]
async fn head_that_makes_no_sense_is_refused_and_the_stream_goes_on() {
    let mut lab = Lab::new();
    for target in [Target::Gateway, Target::Call, Target::Topic] {
        lab.send(1, target, b"\xff\xff".to_vec()).await;
        assert_eq!(lab.status(1).await, Status::Invalid, "{target}");
    }
    lab.send(2, Target::Gateway, Query::List.encode()).await;
    assert!(matches!(lab.reply().await.unwrap().outcome, Outcome::Done(_)));
}

#[tokio::test]
async fn envelope_oversize_or_of_no_kind_ends_the_stream_and_one_cut_short_is_none() {
    for bytes in [&[1, 1][..], &[0, 5, 1, 2, 3, 4, 5], &[0, 0], &[0xff; 600]] {
        let mut lab = Lab::new();
        lab.raw(bytes).await;
        assert_eq!(lab.reply().await, None, "{bytes:?}");
    }
    let mut lab = Lab::new();
    lab.raw(&[0, 12, 1, 2]).await;
    lab.pipe.shutdown().await.unwrap();
    assert_eq!(lab.reply().await, None);
}

#[tokio::test]
async fn id_used_twice_at_once_ends_the_stream() {
    let mut lab = Lab::new();
    let _offered = lab.offer("lamp");
    for _ in 0..2 {
        lab.send(1, Target::Call, call("lamp")).await;
    }
    assert_eq!(lab.reply().await, None);
}

#[tokio::test]
async fn flood_of_requests_is_limited_by_rate() {
    let mut lab = Lab::new();
    let (mut done, mut busy) = (0, 0);
    // One at a time, so that none is refused for being too many at once.
    for id in 0..2000 {
        lab.send(id, Target::Gateway, Query::List.encode()).await;
        match lab.reply().await.unwrap().outcome {
            Outcome::Done(_) => done += 1,
            Outcome::Failed { status: Status::Busy, .. } => busy += 1,
            outcome => panic!("{outcome:?}"),
        }
        if busy > 10 {
            break;
        }
    }
    // Twice a second's at once; on a slow machine, some more of those that come back meanwhile.
    assert!(done >= 400 && busy > 10, "{done} done, {busy} refused");
}

#[tokio::test]
async fn calls_at_once_are_bounded_and_cancelled_ones_make_room() {
    let mut lab = Lab::new();
    let mut offered = lab.offer("lamp");
    let outstanding = u32::try_from(OUTSTANDING_MAX).unwrap();
    let mut held = Vec::new();
    for id in 0..outstanding {
        lab.send(id, Target::Call, call("lamp")).await;
        held.push(offered.given.calls.as_mut().unwrap().recv().await.unwrap());
    }
    lab.send(99, Target::Call, call("lamp")).await;
    assert_eq!(lab.status(99).await, Status::Busy);
    lab.send(5, Target::Cancel, Vec::new()).await;
    assert_eq!(lab.status(5).await, Status::Cancelled);
    lab.send(99, Target::Call, call("lamp")).await;
    offered.given.calls.as_mut().unwrap().recv().await.unwrap();
    // Cancelling what is not under way is nothing.
    lab.send(5, Target::Cancel, Vec::new()).await;
    lab.send(1000, Target::Gateway, Query::List.encode()).await;
    assert_eq!(lab.status(99).await, Status::Gone, "the one that was dropped unanswered");
}

#[tokio::test]
async fn subscriptions_are_bounded_and_end_with_the_service() {
    let mut lab = Lab::new();
    let offered = lab.offer("sensor");
    let most = u32::try_from(SUBSCRIPTIONS_MAX).unwrap();
    for id in 0..most {
        lab.send(id, Target::Topic, subscribe("sensor")).await;
        assert_eq!(lab.reply().await.unwrap(), Envelope { id, outcome: Outcome::Done(Vec::new()) });
    }
    lab.send(99, Target::Topic, subscribe("sensor")).await;
    assert_eq!(lab.status(99).await, Status::Busy);
    drop(offered);
    for _ in 0..most {
        let outcome = lab.reply().await.unwrap().outcome;
        assert!(matches!(outcome, Outcome::Failed { status: Status::Gone, .. }), "{outcome:?}");
    }
}

#[tokio::test]
async fn peer_that_leaves_ends_what_it_asked() {
    let mut lab = Lab::new();
    let mut offered = lab.offer("lamp");
    lab.send(1, Target::Call, call("lamp")).await;
    let pending = offered.given.calls.as_mut().unwrap().recv().await.unwrap();
    let (id, _) = lab.bus.core().taken.take(7, pending).unwrap();
    let mut end = lab.bus.core().taken.end_of(7, id).unwrap();
    drop(lab.pipe);
    let told = timeout(LIMIT, end.wait_for(Option::is_some)).await.unwrap().unwrap();
    assert_eq!(*told, Some(netd_ipc::services::BusCallEnd::Cancelled));
}

#[tokio::test]
async fn payload_shorter_than_was_said_is_refused_by_name() {
    let mut lab = Lab::new();
    let _offered = lab.offer("lamp");
    let payload = Payload::Carried { carrier: 7, length: 100 };
    let request = Request { id: 1, deadline: None, target: Target::Call, head: call("lamp"), payload };
    lab.raw(&request.encode().unwrap()).await;
    let Some(Command::TakeCarrier { number: 7, reply }) = lab.session.recv().await else { panic!() };
    let (mut carrier, theirs) = duplex(PIPE_BYTES);
    reply.send(theirs).unwrap();
    carrier.write_all(&[1; 99]).await.unwrap();
    drop(carrier);
    assert_eq!(lab.status(1).await, Status::Gone);
    // One that was never opened.
    lab.raw(&request.encode().unwrap()).await;
    let Some(Command::TakeCarrier { reply, .. }) = lab.session.recv().await else { panic!() };
    drop(reply);
    assert_eq!(lab.status(1).await, Status::Invalid);
}
