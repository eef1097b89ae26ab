//! The asking side of a session: one task with the control stream, and handles for whoever asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use netd_ipc::services::ErrorKind;
use netd_softbus::remote::topic::Event;
use netd_softbus::remote::{
    Answered, Asker, OUTSTANDING_MAX, Outcome, Payload, REPLY_BYTES_MAX, Reply as Envelope,
    SUBSCRIPTIONS_MAX, Status, Target,
};
use netd_softbus::session::Deframer;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use super::super::clock::Clock;
use super::super::link::Command;
use super::topics::{Held, Queue, Subscription};
use super::{Answer, Bulk, PIPE_BYTES, Question, Refusal, Reply, inline, refusal};
use crate::Failure;

/// Bytes read at a time: a reply of the longest, as a rule.
const READ_BYTES: usize = 4096;

/// A way to ask the device of a session. Clones share it.
#[derive(Debug, Clone)]
pub(in crate::bus) struct Handle {
    /// Bounded by the clients' connections, each of which asks one thing at a time and gives up once.
    asks: mpsc::UnboundedSender<Ask>,
    link: mpsc::Sender<Command>,
    tokens: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Ask {
    Begin { target: Target, head: Vec<u8>, payload: Payload, deadline: Duration, user: User },
    GiveUp(u64),
}

/// Who waits for an answer.
#[derive(Debug)]
struct User {
    token: u64,
    /// Taken by the answer, or by the beginning of a subscription.
    reply: Option<oneshot::Sender<Result<Outcome, Failure>>>,
    /// Of a subscription.
    queue: Option<Queue>,
}

/// Whoever asked waits no longer: when this is dropped, the other side is told.
#[derive(Debug)]
pub(super) struct GiveUp {
    token: u64,
    asks: mpsc::UnboundedSender<Ask>,
}

impl Drop for GiveUp {
    fn drop(&mut self) {
        // A task that is gone has told everybody.
        let _ = self.asks.send(Ask::GiveUp(self.token));
    }
}

impl Handle {
    /// Runs the asking side on a pipe to the control stream, until that ends.
    pub(in crate::bus) fn start(clock: Clock, link: mpsc::Sender<Command>, pipe: DuplexStream) -> Handle {
        let (asks, asked) = mpsc::unbounded_channel();
        tokio::spawn(
            Task { clock, link: link.clone(), asker: Asker::default(), out: Vec::new() }.run(asked, pipe),
        );
        Handle { asks, link, tokens: Arc::default() }
    }

    /// Whether the control stream is over.
    pub(in crate::bus) fn is_over(&self) -> bool {
        self.asks.is_closed()
    }

    /// Asks something. Dropping this gives up.
    ///
    /// # Errors
    /// The session is over, or too much is under way. What the device answers is in the result.
    pub(super) async fn ask(&self, question: Question) -> Result<Reply, Failure> {
        let (outcome, _give_up) = self.begin(question, None).await?;
        Ok(match outcome {
            Outcome::Done(body) => Ok(Answer { body, bulk: None }),
            Outcome::Carried { carrier, length, body } => {
                let reader = Box::new(self.take(carrier).await?);
                Ok(Answer { body, bulk: Some(Bulk { length, reader }) })
            }
            Outcome::Failed { status, message } => Err(Refusal { status, message }),
            Outcome::Event { .. } => Err(refusal(Status::Failed, "an event, where none was asked for")),
        })
    }

    /// Subscribes to something.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(super) async fn subscribe(
        &self,
        question: Question,
    ) -> Result<Result<Subscription, Refusal>, Failure> {
        let queue = Queue::default();
        let (outcome, give_up) = self.begin(question, Some(queue.clone())).await?;
        Ok(match outcome {
            Outcome::Failed { status, message } => Err(Refusal { status, message }),
            _ => Ok(Subscription::new(queue, Held::Request { _request: give_up })),
        })
    }

    async fn begin(&self, question: Question, queue: Option<Queue>) -> Result<(Outcome, GiveUp), Failure> {
        let Question { target, head, payload, deadline } = question;
        let payload = match inline(&head, payload) {
            Ok(payload) => payload,
            Err(payload) => self.carry(payload).await?,
        };
        let (reply, answered) = oneshot::channel();
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        let give_up = GiveUp { token, asks: self.asks.clone() };
        let user = User { token, reply: Some(reply), queue };
        self.asks.send(Ask::Begin { target, head, payload, deadline, user }).map_err(|_| ended())?;
        let outcome = answered.await.map_err(|_| ended())??;
        Ok((outcome, give_up))
    }

    /// Sends a payload over a carrier.
    async fn carry(&self, payload: Vec<u8>) -> Result<Payload, Failure> {
        let length =
            u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PIPE_BYTES).ok_or_else(|| {
                let message = format!("a payload of {} bytes: at most {PIPE_BYTES} are taken", payload.len());
                Failure::new(ErrorKind::TooLarge, message)
            })?;
        let (carrier, mut pipe) = open_carrier(&self.link).await?;
        // The pipe has room for all of it.
        pipe.write_all(&payload).await.map_err(|_| ended())?;
        Ok(Payload::Carried { carrier, length })
    }

    /// The carrier that a reply told of.
    async fn take(&self, number: u32) -> Result<DuplexStream, Failure> {
        let (reply, taken) = oneshot::channel();
        self.link.send(Command::TakeCarrier { number, reply }).await.map_err(|_| ended())?;
        taken.await.map_err(|_| ended())
    }
}

/// Opens a stream of the session for a payload.
pub(super) async fn open_carrier(link: &mpsc::Sender<Command>) -> Result<(u32, DuplexStream), Failure> {
    let (reply, opened) = oneshot::channel();
    link.send(Command::OpenCarrier { reply }).await.map_err(|_| ended())?;
    opened.await.map_err(|_| ended())?
}

fn ended() -> Failure {
    Failure::new(ErrorKind::Unreachable, "the session with the device ended before it answered")
}

/// What the control stream's task works with.
struct Task {
    clock: Clock,
    link: mpsc::Sender<Command>,
    asker: Asker<User>,
    /// Envelopes that the stream has not taken: few, and short.
    out: Vec<u8>,
}

impl Task {
    async fn run(mut self, mut asked: mpsc::UnboundedReceiver<Ask>, pipe: DuplexStream) {
        let (mut reader, mut writer) = tokio::io::split(pipe);
        let mut deframer = Deframer::limited(REPLY_BYTES_MAX);
        let mut chunk = [0; READ_BYTES];
        loop {
            let timeout = self.asker.poll_timeout().map(|at| self.clock.wake_at(at));
            let late = async {
                match timeout {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ask = asked.recv() => match ask {
                    Some(ask) => self.take_ask(ask),
                    None => break,
                },
                read = reader.read(&mut chunk) => match read {
                    Ok(count @ 1..) => {
                        deframer.push(chunk.get(..count).unwrap_or_default());
                        if let Err(error) = self.take_replies(&mut deframer).await {
                            tracing::warn!(%error, "a device answers what makes no sense");
                            break;
                        }
                    }
                    _ => break,
                },
                wrote = writer.write(&self.out), if !self.out.is_empty() => match wrote {
                    Ok(count @ 1..) => drop(self.out.drain(..count)),
                    _ => break,
                },
                () = late => self.expire(),
            }
        }
        asked.close();
        let unasked = std::iter::from_fn(|| asked.try_recv().ok()).filter_map(|ask| match ask {
            Ask::Begin { user, .. } => Some(user),
            Ask::GiveUp(_) => None,
        });
        for user in self.asker.end().into_iter().chain(unasked) {
            user.failed(ended());
        }
    }

    fn take_ask(&mut self, ask: Ask) {
        match ask {
            Ask::GiveUp(token) => {
                for envelope in self.asker.cancel(|user| user.token == token) {
                    self.out.extend(envelope);
                }
            }
            Ask::Begin { target, head, payload, deadline, user } => {
                let (subscriptions, calls): (Vec<&User>, Vec<&User>) =
                    self.asker.users().partition(|user| user.queue.is_some());
                let (count, max) = match user.queue {
                    Some(_) => (subscriptions.len(), SUBSCRIPTIONS_MAX),
                    None => (calls.len(), OUTSTANDING_MAX),
                };
                if count >= max {
                    let message = format!("{max} requests to this device are under way already");
                    return user.failed(Failure::new(ErrorKind::QuotaExceeded, message));
                }
                let now = self.clock.now();
                match self.asker.ask(now, deadline, target, head, payload, user) {
                    Ok(envelope) => self.out.extend(envelope),
                    Err((user, error)) => {
                        user.failed(Failure::new(ErrorKind::InvalidInput, error.to_string()));
                    }
                }
            }
        }
    }

    async fn take_replies(&mut self, deframer: &mut Deframer) -> Result<(), netd_softbus::Error> {
        while let Some(frame) = deframer.next_frame()? {
            let reply = Envelope::parse(frame)?;
            let carrier = match &reply.outcome {
                Outcome::Carried { carrier, .. } => Some(*carrier),
                _ => None,
            };
            let taken = match self.asker.handle_reply(reply) {
                None => false,
                Some(Answered::Over(user, outcome)) => user.over(outcome),
                Some(Answered::GoesOn(user, outcome)) => {
                    user.goes_on(outcome)?;
                    true
                }
            };
            if let Some(number) = carrier.filter(|_| !taken) {
                // Nobody will read it. A link that does not hear this is over.
                let _ = self.link.send(Command::RefuseCarrier { number }).await;
            }
        }
        Ok(())
    }

    fn expire(&mut self) {
        for (user, envelope) in self.asker.poll(self.clock.now()) {
            self.out.extend(envelope);
            user.failed(Failure::new(ErrorKind::TimedOut, "the device did not answer in time"));
        }
    }
}

impl User {
    fn failed(self, failure: Failure) {
        if let Some(reply) = self.reply {
            // Whoever asked may be gone.
            let _ = reply.send(Err(failure));
        } else if let Some(queue) = self.queue {
            queue.close(refusal(Status::Gone, failure.message));
        }
    }

    /// Its last word; whether anybody heard it.
    fn over(self, outcome: Outcome) -> bool {
        match (self.reply, self.queue) {
            (Some(reply), _) => reply.send(Ok(outcome)).is_ok(),
            (None, Some(queue)) => {
                queue.close(match outcome {
                    Outcome::Failed { status, message } => Refusal { status, message },
                    _ => {
                        refusal(Status::Failed, "the device ended the subscription with what makes no sense")
                    }
                });
                false
            }
            (None, None) => false,
        }
    }

    fn goes_on(&mut self, outcome: Outcome) -> Result<(), netd_softbus::Error> {
        match outcome {
            Outcome::Event { lost, body } => {
                Event::parse(&body)?;
                if let Some(queue) = &self.queue {
                    queue.push(lost, body.into());
                }
            }
            outcome => {
                if let Some(reply) = self.reply.take() {
                    // Whoever asked may have given up; that is told by itself.
                    let _ = reply.send(Ok(outcome));
                }
            }
        }
        Ok(())
    }
}
