//! A reliable connected queue pair.
//!
//! The two halves, [`Requester`] and [`Responder`], know the protocol; this type holds them with
//! the state, decides what the state lets them do (IBTA volume 1, 10.3.1), and takes the queue pair
//! apart when one of them breaks.

use super::modify::{Attributes, Modify, ModifyError};
use super::requester::Requester;
use super::responder::Responder;
use super::{Broken, Env, Path, Poll, QpEvent, ReceiveCompletion, ReceiveKind, SendTail};
use crate::pdu::{Body, Pdu};
use crate::types::{Outcome, Qpn, State, Time};
use vrnic_abi::counter::Counter;

/// Work requests flushed at once when a queue pair breaks; the rest follows when polled.
const FLUSH_AT_ONCE: u32 = 256;

/// What a queue pair is created with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QpConfig {
    /// Its number.
    pub qpn: Qpn,
    /// Largest initiator depth that can be set.
    pub max_initiator_depth: u8,
    /// Most responder resources that can be set.
    pub max_responder_resources: u8,
}

/// A reliable connected queue pair: all of its protocol state, as plain data.
///
/// Call [`Self::receive`] for each PDU, [`Self::post_notify`] after a doorbell,
/// [`Self::expire`] when [`Self::deadline`] has passed; after each of them [`Self::poll`] if
/// [`Self::has_work`], and again while it returns [`Poll::More`], or after [`Poll::Blocked`] when
/// there may be room.
#[derive(Clone, Debug)]
pub struct Qp {
    config: QpConfig,
    state: State,
    attributes: Attributes,
    requester: Requester,
    responder: Responder,
    /// The peer has been heard of.
    established: bool,
    /// In SQD, messages are still being completed.
    draining: bool,
    /// Report when they are.
    sqd_notify: bool,
    /// In the error state, the work queues may still hold requests.
    flushing: bool,
}

impl Qp {
    /// A queue pair in state RESET.
    #[must_use]
    pub fn new(config: QpConfig) -> Self {
        Self {
            config,
            state: State::Reset,
            attributes: Attributes::default(),
            requester: Requester::default(),
            responder: Responder::default(),
            established: false,
            draining: false,
            sqd_notify: false,
            flushing: false,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn qpn(&self) -> Qpn {
        self.config.qpn
    }

    /// Its state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Where it sends to.
    #[must_use]
    pub const fn path(&self) -> &Path {
        &self.attributes.path
    }

    /// Its attributes; the sequence numbers are the current ones.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        let mut attributes = self.attributes;
        if matches!(self.state, State::Rtr | State::Rts | State::Sqd) {
            attributes.receive_psn = self.responder.expected;
        }
        if matches!(self.state, State::Rts | State::Sqd) {
            attributes.send_psn = self.requester.high;
        }
        attributes
    }

    /// Whether the send queue is draining, in SQD.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.draining
    }

    /// Changes state and attributes. Going to the error state flushes all work requests, sends
    /// first; going to RESET forgets them without completions.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub fn modify<E: Env>(&mut self, env: &mut E, change: &Modify) -> Result<(), ModifyError> {
        let from = self.state;
        let to = change.check(&self.config, from, self.draining)?;
        match to {
            State::Reset => {
                *self = Self::new(self.config);
                return Ok(());
            }
            State::Error => {
                self.responder.silence();
                self.enter_error(env);
                return Ok(());
            }
            _ => change.apply(&mut self.attributes),
        }
        self.state = to;
        match (from, to) {
            (State::Init, State::Rtr) => self.responder.start_at(&self.attributes),
            (State::Rtr, State::Rts) => self.requester.start_at(&self.attributes),
            (State::Rts, State::Sqd) => {
                self.draining = true;
                self.sqd_notify = change.sqd_notify.unwrap_or(false);
                self.check_drained(env);
            }
            (State::Sqd, State::Rts) => {
                self.draining = false;
                self.sqd_notify = false;
            }
            _ => {}
        }
        Ok(())
    }

    /// The send or receive queue may have got more.
    pub fn post_notify(&mut self) {
        self.requester.post_notify();
        self.flushing |= self.state == State::Error;
    }

    /// Whether [`Self::poll`] would find something to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        if self.responder.has_work() {
            return true;
        }
        match self.state {
            State::Rts | State::Sqd => {
                let may_start = self.state == State::Rts;
                self.requester.has_work(&self.attributes, may_start)
            }
            State::Error => self.flushing,
            _ => false,
        }
    }

    /// Handles a PDU that was sent to this queue pair by its peer.
    pub fn receive<E: Env>(&mut self, env: &mut E, pdu: &Pdu) {
        let sending = matches!(self.state, State::Rts | State::Sqd);
        if !sending && self.state != State::Rtr {
            env.count(Counter::RxNoQp, 1);
            return;
        }
        let link = &self.attributes;
        let result = match pdu.body {
            Body::Send { .. } | Body::Write { .. } | Body::Read { .. } | Body::Atomic { .. } => {
                if self.state == State::Rtr && !self.established {
                    env.event(QpEvent::CommunicationEstablished);
                }
                self.established = true;
                self.responder.receive(env, link, pdu)
            }
            Body::Congestion => {
                env.count(Counter::RpCnpHandled, 1);
                self.requester.narrow();
                Ok(())
            }
            _ if sending => {
                let result = self.requester.receive(env, link, pdu);
                self.requester_result(env, result);
                return;
            }
            _ => Ok(()),
        };
        // The answers that are queued, with the reason as the last, still go out.
        if result.is_err() {
            self.enter_error(env);
        }
    }

    /// Sends what there is to send, at most `budget` PDUs: answers first, but they leave half of
    /// the budget to requests.
    pub fn poll<E: Env>(&mut self, env: &mut E, budget: u32) -> Poll {
        let mut share = budget.div_ceil(2);
        let mut left = budget - share;
        match self.poll_answers(env, &mut share) {
            Poll::Blocked => {
                // Work requests end even if the peer never hears why.
                if self.state == State::Error {
                    self.flush(env, &mut left);
                }
                return Poll::Blocked;
            }
            Poll::More | Poll::Idle => left += share,
        }
        let requests = match self.state {
            State::Rts | State::Sqd => {
                let may_start = self.state == State::Rts;
                let link = &self.attributes;
                let result = self.requester.poll(env, link, may_start, &mut left);
                let poll = *result.as_ref().unwrap_or(&Poll::More);
                self.requester_result(env, result.map(|_| ()));
                poll
            }
            State::Error => self.flush(env, &mut left),
            _ => Poll::Idle,
        };
        if requests == Poll::Idle {
            self.poll_answers(env, &mut left)
        } else {
            requests
        }
    }

    fn poll_answers<E: Env>(&mut self, env: &mut E, budget: &mut u32) -> Poll {
        match self.responder.poll(env, &self.attributes, budget) {
            Ok(poll) => poll,
            Err(Broken) => {
                self.enter_error(env);
                Poll::More
            }
        }
    }

    /// When [`Self::expire`] is to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let (ack, rnr) = (self.requester.ack_deadline, self.requester.rnr_deadline);
        match (ack, rnr) {
            (Some(ack), Some(rnr)) => Some(ack.min(rnr)),
            _ => ack.or(rnr),
        }
    }

    /// Handles timers that have expired; does nothing if there are none.
    pub fn expire<E: Env>(&mut self, env: &mut E) {
        let now = env.now();
        if self.requester.rnr_deadline.is_some_and(|at| at <= now) {
            self.requester.rnr_deadline = None;
        }
        if self.requester.ack_deadline.is_some_and(|at| at <= now) {
            let result = self.requester.timed_out(env);
            self.requester_result(env, result);
        }
    }

    /// After the requester was called.
    fn requester_result<E: Env>(&mut self, env: &mut E, result: Result<(), Broken>) {
        if result.is_err() {
            self.responder.silence();
            self.enter_error(env);
        } else {
            self.check_drained(env);
        }
    }

    /// Reports that the send queue has drained.
    fn check_drained<E: Env>(&mut self, env: &mut E) {
        if self.draining && self.requester.drained() {
            self.draining = false;
            if self.sqd_notify {
                env.event(QpEvent::SendQueueDrained);
            }
        }
    }

    /// Goes to the error state and flushes.
    fn enter_error<E: Env>(&mut self, env: &mut E) {
        self.state = State::Error;
        self.draining = false;
        self.flushing = true;
        self.requester.flush(env);
        self.responder.stop(env);
        self.flush(env, &mut { FLUSH_AT_ONCE });
    }

    /// Ends requests that are in the work queues as flushed: all sends, then all receives.
    fn flush<E: Env>(&mut self, env: &mut E, budget: &mut u32) -> Poll {
        while *budget > 0 {
            if let Some(work) = env.next_send() {
                env.complete_send(&work, Outcome::Flushed, 0);
            } else if let Some(work) = env.next_receive() {
                env.complete_receive(ReceiveCompletion {
                    cookie: work.cookie,
                    outcome: Outcome::Flushed,
                    bytes: 0,
                    kind: ReceiveKind::Send(SendTail::None),
                    solicited: false,
                });
            } else {
                self.flushing = false;
                return Poll::Idle;
            }
            *budget -= 1;
        }
        Poll::More
    }
}
