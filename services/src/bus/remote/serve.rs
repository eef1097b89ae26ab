//! The answering side of a session: a peer's control stream, and a task for each of its requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use netd_softbus::DeviceId;
use netd_softbus::remote::{
    OUTSTANDING_MAX, Outcome, Payload, REQUEST_BYTES_MAX, Reply as Envelope, Request, SUBSCRIPTIONS_MAX,
    Status, Target,
};
use netd_softbus::session::Deframer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::super::Bus;
use super::super::link::Command;
use super::asker::open_carrier;
use super::gateway::{self, Granted};
use super::{Answer, Bulk, Caller, DEADLINE, DEADLINE_MAX, Question, Refusal, Subscription, refusal};

/// Bytes read at a time: a few requests of the longest.
const READ_BYTES: usize = 1024;
/// Replies that wait for the stream; whoever has one more waits with it.
const REPLIES_MAX: usize = 16;

/// Answers a peer until its control stream ends.
pub(in crate::bus) async fn serve(
    bus: Arc<Bus>,
    peer: DeviceId,
    link: mpsc::Sender<Command>,
    pipe: DuplexStream,
) {
    let (mut reader, mut writer) = tokio::io::split(pipe);
    let (replies, mut waiting) = mpsc::channel::<Vec<u8>>(REPLIES_MAX);
    let writing = async move {
        while let Some(reply) = waiting.recv().await {
            if writer.write_all(&reply).await.is_err() {
                break;
            }
        }
    };
    let caller = Caller::Peer(peer);
    let reading = async {
        let served = Served { bus, caller: caller.clone(), link, replies };
        let mut running = Running::default();
        let mut deframer = Deframer::limited(REQUEST_BYTES_MAX);
        let mut chunk = [0; READ_BYTES];
        loop {
            let read = tokio::select! {
                read = reader.read(&mut chunk) => read,
                Some(ended) = running.tasks.join_next() => {
                    running.forget(ended.ok());
                    continue;
                }
            };
            let Ok(count @ 1..) = read else { return Ok(()) };
            deframer.push(chunk.get(..count).unwrap_or_default());
            while let Some(frame) = deframer.next_frame()? {
                let request = Request::parse(frame)?;
                running.take(&served, request).await?;
            }
        }
    };
    // With either of them everything under way ends.
    let ended: Result<(), netd_softbus::Error> = tokio::select! {
        ended = reading => ended,
        () = writing => Ok(()),
    };
    if let Err(error) = ended {
        tracing::warn!(peer = %caller.as_str().escape_debug(), %error, "a device asks what makes no sense");
    }
}

/// What each request is answered with.
#[derive(Clone)]
struct Served {
    bus: Arc<Bus>,
    caller: Caller,
    link: mpsc::Sender<Command>,
    replies: mpsc::Sender<Vec<u8>>,
}

/// The requests under way. Dropped, they end.
#[derive(Default)]
struct Running {
    tasks: JoinSet<u32>,
    by_id: BTreeMap<u32, (Target, AbortHandle)>,
}

impl Running {
    fn forget(&mut self, ended: Option<u32>) {
        if let Some(id) = ended {
            self.by_id.remove(&id);
        }
    }

    async fn take(&mut self, served: &Served, request: Request) -> Result<(), netd_softbus::Error> {
        let id = request.id;
        if request.target == Target::Cancel {
            if let Some((_, task)) = self.by_id.remove(&id) {
                task.abort();
                served.say(id, failed(refusal(Status::Cancelled, "cancelled"))).await;
            }
            return Ok(());
        }
        // Those that ended by now make room.
        while let Some(ended) = self.tasks.try_join_next() {
            self.forget(ended.ok());
        }
        if self.by_id.contains_key(&id) {
            let message = "request whose id is under way";
            return Err(netd_softbus::Error::UnknownValue { message, field: "id", value: 0 });
        }
        let is_subscription = request.target == Target::Topic;
        let count =
            self.by_id.values().filter(|(target, _)| (*target == Target::Topic) == is_subscription).count();
        let max = if is_subscription { SUBSCRIPTIONS_MAX } else { OUTSTANDING_MAX };
        if count >= max {
            let busy = refusal(Status::Busy, format!("{max} requests of this device are under way already"));
            served.say(id, failed(busy)).await;
            return Ok(());
        }
        let target = request.target;
        let task = self.tasks.spawn(served.clone().answer(request));
        self.by_id.insert(id, (target, task));
        Ok(())
    }
}

impl Served {
    async fn say(&self, id: u32, outcome: Outcome) {
        let encoded = Envelope { id, outcome }.encode().or_else(|error| {
            let outcome = failed(refusal(Status::TooLarge, error.to_string()));
            Envelope { id, outcome }.encode()
        });
        if let Ok(envelope) = encoded {
            // A stream that takes nothing any more is over.
            let _ = self.replies.send(envelope).await;
        }
    }

    async fn answer(self, request: Request) -> u32 {
        let Request { id, deadline, target, head, payload } = request;
        let deadline = deadline.unwrap_or(DEADLINE).min(DEADLINE_MAX);
        let handling = async {
            let payload = self.payload(payload).await?;
            let question = Question { target, head, payload, deadline };
            gateway::handle(&self.bus, &self.caller, question).await
        };
        let late =
            |_| Err(refusal(Status::DeadlinePassed, format!("no answer within {} ms", deadline.as_millis())));
        match timeout(deadline, handling).await.unwrap_or_else(late) {
            Err(refusal) => self.say(id, failed(refusal)).await,
            Ok(Granted::Answer(Answer { body, bulk: None })) => self.say(id, Outcome::Done(body)).await,
            Ok(Granted::Answer(Answer { body, bulk: Some(bulk) })) => self.carry(id, body, bulk).await,
            Ok(Granted::Subscription(subscription)) => self.publish(id, &subscription).await,
        }
        id
    }

    /// The request's payload, wherever it is.
    async fn payload(&self, payload: Payload) -> Result<Vec<u8>, Refusal> {
        let (carrier, length) = match payload {
            Payload::Inline(payload) => return Ok(payload),
            Payload::Carried { carrier, length } => (carrier, length),
        };
        let gone = || refusal(Status::Gone, "the session ended");
        let (reply, taken) = oneshot::channel();
        self.link.send(Command::TakeCarrier { number: carrier, reply }).await.map_err(|_| gone())?;
        let none = |_| refusal(Status::Invalid, format!("there is no carrier {carrier}"));
        let reader = Box::new(taken.await.map_err(none)?);
        // Its length was checked when it was read.
        Bulk { length: length.into(), reader }.read_all(netd_softbus::remote::PAYLOAD_BYTES_MAX).await
    }

    /// An answer with what does not fit into its envelope.
    async fn carry(&self, id: u32, body: Vec<u8>, bulk: Bulk) {
        let Bulk { length, reader } = bulk;
        match open_carrier(&self.link).await {
            Ok((carrier, mut pipe)) => {
                self.say(id, Outcome::Carried { carrier, length, body }).await;
                // The asker counts: what broke off is shorter than was said.
                let copied = tokio::io::copy(&mut reader.take(length), &mut pipe).await;
                if copied.is_ok_and(|copied| copied == length) {
                    let _ = pipe.shutdown().await;
                }
            }
            Err(failure) => self.say(id, failed(refusal(Status::Busy, failure.message))).await,
        }
    }

    async fn publish(&self, id: u32, subscription: &Subscription) {
        self.say(id, Outcome::Done(Vec::new())).await;
        let end = loop {
            match subscription.next().await {
                Ok((lost, event)) => self.say(id, Outcome::Event { lost, body: event.to_vec() }).await,
                Err(end) => break end,
            }
        };
        self.say(id, failed(end)).await;
    }
}

fn failed(refusal: Refusal) -> Outcome {
    let Refusal { status, message } = refusal;
    Outcome::Failed { status, message }
}
