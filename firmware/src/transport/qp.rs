//! A queue pair.
//!
//! The two halves know the protocol of its type; this type holds them with the state, decides what
//! the state lets them do (IBTA volume 1, 10.3.1), and takes the queue pair apart when one of them
//! breaks: all of it if it is reliable or the receiving half is at fault, else the send queue only.

use super::congestion::{Notifier, Pace};
use alloc::boxed::Box;

use super::datagram::Datagrams;
use super::modify::{Attributes, Modify, ModifyError};
use super::requester::Requester;
use super::responder::Responder;
use super::unacknowledged::Unacknowledged;
use super::unreliable::Unreliable;
use super::{Broken, Congestion, Env, Kind, Path, Poll, QpEvent, Rate, ReceiveCompletion};
use crate::pdu::{Body, Pdu, Service};
use crate::types::{Outcome, Qpn, State, Time};
use vrnic_abi::counter::Counter;

/// Work requests flushed at once when a queue pair breaks; the rest follows when polled.
const FLUSH_AT_ONCE: u32 = 32;

/// What a queue pair is created with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QpConfig {
    /// Its number.
    pub qpn: Qpn,
    /// Its type.
    pub kind: Kind,
    /// Largest initiator depth that can be set.
    pub max_initiator_depth: u8,
    /// Most responder resources that can be set.
    pub max_responder_resources: u8,
}

/// A queue pair: all of its protocol state, as plain data.
///
/// Call [`Self::receive`] for each PDU, [`Self::receive_frame`] for each Ethernet frame,
/// [`Self::post_notify`] after a doorbell, [`Self::expire`] when [`Self::deadline`] has passed;
/// after each of them [`Self::poll`] if [`Self::has_work`], and again while it returns
/// [`Poll::More`], or after [`Poll::Blocked`] when there may be room.
#[derive(Clone, Debug)]
pub struct Qp {
    config: QpConfig,
    state: State,
    attributes: Attributes,
    sender: Sender,
    receiver: Receiver,
    notifier: Notifier,
    pace: Pace,
    /// The peer has been heard of.
    established: bool,
    /// In SQD, messages are still being completed.
    draining: bool,
    /// Report when they are.
    sqd_notify: bool,
    /// Answers have used up the room that there was: requests go first when there is some again.
    overtaken: bool,
    /// In an error state, or since state SQE, the work queues may still hold requests to flush.
    flushing: bool,
}

/// The sending half.
#[derive(Clone, Debug)]
enum Sender {
    /// XRC targets have none.
    None,
    Acknowledged(Requester),
    /// In a box, as it would make those of the others larger.
    Unacknowledged(Box<Unacknowledged>),
}

/// The receiving half.
#[derive(Clone, Debug)]
enum Receiver {
    /// XRC initiators have none.
    None,
    Reliable(Responder),
    Unreliable(Unreliable),
    Datagrams(Datagrams),
}

impl Sender {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::XrcTarget => Self::None,
            Kind::Rc | Kind::XrcInitiator => Self::Acknowledged(Requester::default()),
            Kind::Uc | Kind::Ud | Kind::Gsi | Kind::Raw => Self::Unacknowledged(Box::default()),
        }
    }

    fn start_at(&mut self, link: &Attributes) {
        match self {
            Self::None => {}
            Self::Acknowledged(requester) => requester.start_at(link),
            Self::Unacknowledged(sender) => sender.start_at(link),
        }
    }

    fn post_notify(&mut self) {
        match self {
            Self::None => {}
            Self::Acknowledged(requester) => requester.post_notify(),
            Self::Unacknowledged(sender) => sender.post_notify(),
        }
    }

    fn drained(&self) -> bool {
        match self {
            Self::None => true,
            Self::Acknowledged(requester) => requester.drained(),
            Self::Unacknowledged(sender) => sender.drained(),
        }
    }

    fn has_work(&self, link: &Attributes, pace: &Pace, may_start: bool) -> bool {
        match self {
            Self::None => false,
            Self::Acknowledged(requester) => requester.has_work(link, pace, may_start),
            Self::Unacknowledged(sender) => sender.has_work(pace, may_start),
        }
    }

    /// Whether requests can be completed now: no data of those that were sent is still to be read.
    fn is_settled(&self) -> bool {
        match self {
            Self::None | Self::Acknowledged(_) => true,
            Self::Unacknowledged(sender) => sender.is_settled(),
        }
    }

    fn flush<E: Env>(&mut self, env: &mut E) {
        match self {
            Self::None => {}
            Self::Acknowledged(requester) => requester.flush(env),
            Self::Unacknowledged(sender) => sender.flush(env),
        }
    }
}

impl Receiver {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::XrcInitiator => Self::None,
            Kind::Rc | Kind::XrcTarget => Self::Reliable(Responder::default()),
            Kind::Uc => Self::Unreliable(Unreliable::default()),
            Kind::Ud | Kind::Gsi | Kind::Raw => Self::Datagrams(Datagrams::default()),
        }
    }

    fn start_at(&mut self, link: &Attributes, kind: Kind) {
        match self {
            Self::None | Self::Datagrams(_) => {}
            Self::Reliable(responder) => {
                let service = match kind {
                    Kind::XrcTarget => Service::Extended { srqn: 0 },
                    _ => Service::Reliable,
                };
                responder.start_at(link, service);
            }
            Self::Unreliable(receiver) => receiver.start_at(link),
        }
    }

    /// Forgets what there was to say.
    fn silence(&mut self) {
        if let Self::Reliable(responder) = self {
            responder.silence();
        }
    }

    /// Forgets everything but what there is to say.
    fn stop<E: Env>(&mut self, env: &mut E) {
        match self {
            Self::None => {}
            Self::Reliable(responder) => responder.stop(env),
            Self::Unreliable(receiver) => receiver.end_receive(env, Outcome::Flushed),
            Self::Datagrams(receiver) => receiver.end_receive(env, Outcome::Flushed),
        }
    }
}

impl Qp {
    /// A queue pair in state RESET.
    #[must_use]
    pub fn new(config: QpConfig) -> Self {
        Self {
            config,
            state: State::Reset,
            attributes: Attributes::default(),
            sender: Sender::new(config.kind),
            receiver: Receiver::new(config.kind),
            notifier: Notifier::default(),
            pace: Pace::default(),
            established: false,
            draining: false,
            sqd_notify: false,
            overtaken: false,
            flushing: false,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn qpn(&self) -> Qpn {
        self.config.qpn
    }

    /// Its type.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.config.kind
    }

    /// Its state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Where it sends to, if it is connected.
    #[must_use]
    pub const fn path(&self) -> &Path {
        &self.attributes.path
    }

    /// The partition that it is in.
    #[must_use]
    pub const fn pkey(&self) -> u16 {
        self.attributes.pkey.key
    }

    /// Its attributes; the sequence numbers are the current ones.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        let mut attributes = self.attributes;
        if self.receives() {
            match &self.receiver {
                Receiver::Reliable(responder) => attributes.receive_psn = responder.expected,
                Receiver::Unreliable(receiver) => attributes.receive_psn = receiver.expected,
                Receiver::None | Receiver::Datagrams(_) => {}
            }
        }
        if self.sends() {
            match &self.sender {
                Sender::Acknowledged(requester) => attributes.send_psn = requester.high,
                Sender::Unacknowledged(sender) => attributes.send_psn = sender.next,
                Sender::None => {}
            }
        }
        attributes
    }

    /// Whether the send queue is draining, in SQD.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether the state lets packets in.
    #[must_use]
    pub const fn receives(&self) -> bool {
        matches!(
            self.state,
            State::Rtr | State::Rts | State::Sqd | State::Sqe
        )
    }

    /// Whether the state lets packets of requests out.
    const fn sends(&self) -> bool {
        matches!(self.state, State::Rts | State::Sqd)
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
                self.receiver.silence();
                self.enter_error(env);
                return Ok(());
            }
            _ => change.apply(&mut self.attributes),
        }
        self.state = to;
        match (from, to) {
            (State::Init, State::Rtr) => self.receiver.start_at(&self.attributes, self.config.kind),
            (State::Rtr, State::Rts) => self.sender.start_at(&self.attributes),
            (State::Rts, State::Sqd) => {
                self.draining = true;
                self.sqd_notify = change.sqd_notify.unwrap_or(false);
                self.check_drained(env);
            }
            (State::Sqd, State::Rts) => {
                self.draining = false;
                self.sqd_notify = false;
            }
            (State::Sqe, State::Rts) => {
                // There can be many, so that they end in turns; those posted from now on are sent.
                env.hold_sends();
                self.flushing = true;
                self.resume(env, &mut { FLUSH_AT_ONCE });
            }
            _ => {}
        }
        Ok(())
    }

    /// The send or receive queue may have got more.
    pub fn post_notify(&mut self) {
        self.sender.post_notify();
        self.flushing |= matches!(self.state, State::Error | State::Sqe);
    }

    /// Whether [`Self::poll`] would find something to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        if let Receiver::Reliable(responder) = &self.receiver {
            if responder.has_work(&self.pace) {
                return true;
            }
        }
        if self.notifier.has_work() {
            return true;
        }
        match self.state {
            State::Rts | State::Sqd if self.flushing => true,
            State::Rts | State::Sqd => {
                let may_start = self.state == State::Rts;
                self.sender
                    .has_work(&self.attributes, &self.pace, may_start)
            }
            State::Error | State::Sqe => self.flushing,
            _ => false,
        }
    }

    /// Handles a PDU that was sent to this queue pair by its peer, or, with datagrams, by anybody.
    pub fn receive<E: Env>(&mut self, env: &mut E, pdu: &Pdu) {
        let packets = u64::from(pdu.packets);
        if !self.receives() {
            env.count(Counter::RxBadState, packets);
            return;
        }
        if !self.speaks(pdu) {
            env.count(Counter::RxWrongService, packets);
            return;
        }
        if env.is_marked() {
            self.marked(env, pdu);
        }
        match pdu.body {
            Body::Send { .. }
            | Body::Write { .. }
            | Body::Read { .. }
            | Body::Atomic { .. }
            | Body::AtomicWrite { .. }
            | Body::Flush { .. } => self.receive_request(env, pdu),
            Body::Congestion => self.pace.notified(env),
            Body::ReadResponse { .. } | Body::AtomicResponse { .. } | Body::Acknowledge(_) => {
                self.receive_response(env, pdu);
            }
        }
    }

    /// Whether a PDU is of the queue pair's service.
    const fn speaks(&self, pdu: &Pdu) -> bool {
        match (self.config.kind, pdu.service) {
            _ if matches!(pdu.body, Body::Congestion) => self.config.kind.is_connected(),
            (Kind::Rc, Service::Reliable)
            | (Kind::Uc, Service::Unreliable)
            | (Kind::Ud | Kind::Gsi, Service::Datagram { .. })
            | (Kind::XrcInitiator | Kind::XrcTarget, Service::Extended { .. }) => true,
            _ => false,
        }
    }

    /// The payload of a PDU that this queue pair sent directly to another one of the process cannot
    /// be read, which on the wire it had noticed when it sent it. Call it before anything else.
    pub fn unreadable<E: Env>(&mut self, env: &mut E, pdu: &Pdu) {
        if let Body::ReadResponse { .. } = pdu.body {
            let receives = self.receives();
            if let (Receiver::Reliable(responder), true) = (&mut self.receiver, receives) {
                let Broken = responder.unreadable(env, pdu.psn);
                self.enter_error(env);
            }
            return;
        }
        if !self.sends() {
            return;
        }
        match &mut self.sender {
            Sender::None => {}
            Sender::Acknowledged(requester) => {
                let result = requester.unreadable(env, pdu.psn);
                self.sender_result(env, result);
            }
            Sender::Unacknowledged(sender) => sender.unreadable(pdu.psn),
        }
    }

    fn receive_request<E: Env>(&mut self, env: &mut E, pdu: &Pdu) {
        if !self.config.kind.takes_requests() {
            env.count(Counter::RxWrongService, 1);
            return;
        }
        if self.state == State::Rtr && !self.established && self.config.kind.is_connected() {
            env.event(QpEvent::CommunicationEstablished);
        }
        self.established = true;
        let link = &self.attributes;
        let result = match &mut self.receiver {
            Receiver::Reliable(responder) => responder.receive(env, link, pdu),
            Receiver::Unreliable(receiver) => receiver.receive(env, link, pdu),
            Receiver::Datagrams(receiver) => receiver.receive(env, link, pdu),
            Receiver::None => Ok(()),
        };
        // The answers that are queued, with the reason as the last, still go out.
        if result.is_err() {
            self.enter_error(env);
        }
    }

    fn receive_response<E: Env>(&mut self, env: &mut E, pdu: &Pdu) {
        let sends = self.sends();
        match &mut self.sender {
            Sender::Acknowledged(requester) if sends => {
                let result = requester.receive(env, &self.attributes, pdu);
                self.sender_result(env, result);
            }
            _ => env.count(Counter::RxUnexpectedResponse, pdu.packets.into()),
        }
    }

    /// A packet met congestion. Notifications themselves have to get through, and who sent a
    /// datagram has no rate.
    fn marked<E: Env>(&mut self, env: &mut E, pdu: &Pdu) {
        if pdu.body == Body::Congestion {
            return;
        }
        env.count(Counter::NpEcnMarkedRocePackets, 1);
        if self.config.kind.is_connected() {
            self.notifier.marked(env);
        }
    }

    /// Handles an Ethernet frame of `length` bytes, on a raw packet queue pair.
    pub fn receive_frame<E: Env>(&mut self, env: &mut E, length: u32) {
        let receives = self.receives() && self.config.kind == Kind::Raw;
        let result = match &mut self.receiver {
            Receiver::Datagrams(receiver) if receives => receiver.receive_frame(env, length),
            _ => {
                env.count(Counter::RxBadState, 1);
                Ok(())
            }
        };
        if result.is_err() {
            self.enter_error(env);
        }
    }

    /// Sends what there is to send, at most `budget` PDUs and a congestion notification: answers
    /// first, but they leave half of the budget to requests.
    pub fn poll<E: Env>(&mut self, env: &mut E, budget: u32) -> Poll {
        if !self.notifier.poll(env, &self.attributes) {
            return Poll::Blocked;
        }
        let overtaken = core::mem::take(&mut self.overtaken) || self.pace.favours_requests();
        if overtaken && self.sends() && !self.flushing {
            let _ = self.poll_sender(env, &mut 1, false);
        }
        let mut share = budget.div_ceil(2);
        let mut left = budget - share;
        let answers = if self.local_is_next() {
            Poll::Idle
        } else {
            self.poll_answers(env, &mut share)
        };
        match answers {
            Poll::Blocked => {
                // Work requests end even if the peer never hears why.
                if self.state == State::Error {
                    self.flush(env, &mut left);
                }
                self.overtaken = !overtaken;
                return Poll::Blocked;
            }
            Poll::More | Poll::Idle => left += share,
        }
        let (answered, before) = (left < budget, left);
        let requests = match self.state {
            State::Rts | State::Sqd if self.flushing => self.resume(env, &mut left),
            State::Rts | State::Sqd => self.poll_sender(env, &mut left, answered),
            State::Error => self.flush(env, &mut left),
            State::Sqe => self.flush_send_queue(env, &mut left),
            _ => Poll::Idle,
        };
        self.overtaken = answered && requests == Poll::Blocked && left == before;
        if requests == Poll::Idle {
            self.poll_answers(env, &mut left)
        } else {
            requests
        }
    }

    /// Whether a request that changes keys waits for a call that has sent no response before it: it
    /// goes first then.
    fn local_is_next(&self) -> bool {
        match &self.sender {
            Sender::Acknowledged(requester) => requester.local_is_next(),
            _ => false,
        }
    }

    fn poll_sender<E: Env>(&mut self, env: &mut E, budget: &mut u32, answered: bool) -> Poll {
        let may_start = self.state == State::Rts;
        let (link, pace) = (&self.attributes, &mut self.pace);
        let result = match &mut self.sender {
            Sender::None => Ok(Poll::Idle),
            Sender::Acknowledged(requester) => {
                requester.responses_under_way = answered;
                let result = requester.poll(env, link, pace, may_start, budget);
                requester.responses_under_way = false;
                result
            }
            Sender::Unacknowledged(sender) => {
                sender.poll(env, &self.config, link, pace, may_start, budget)
            }
        };
        let poll = *result.as_ref().unwrap_or(&Poll::More);
        self.sender_result(env, result.map(|_| ()));
        poll
    }

    fn poll_answers<E: Env>(&mut self, env: &mut E, budget: &mut u32) -> Poll {
        let Receiver::Reliable(responder) = &mut self.receiver else {
            return Poll::Idle;
        };
        match responder.poll(env, &self.attributes, &mut self.pace, budget) {
            Ok(poll) => poll,
            Err(Broken) => {
                self.enter_error(env);
                Poll::More
            }
        }
    }

    /// When [`Self::expire`] is to be called.
    #[must_use]
    #[inline]
    pub fn deadline(&self) -> Option<Time> {
        let paced = self.pace.deadline();
        match &self.sender {
            Sender::Acknowledged(requester) => earlier(
                earlier(requester.ack_deadline, requester.rnr_deadline),
                paced,
            ),
            Sender::None | Sender::Unacknowledged(_) => paced,
        }
    }

    /// Handles timers that have expired; does nothing if there are none.
    pub fn expire<E: Env>(&mut self, env: &mut E) {
        let now = env.now();
        self.pace.expire(now);
        let Sender::Acknowledged(requester) = &mut self.sender else {
            return;
        };
        if requester.rnr_deadline.is_some_and(|at| at <= now) {
            requester.rnr_deadline = None;
        }
        if requester.ack_deadline.is_some_and(|at| at <= now) {
            let result = requester.timed_out(env);
            self.sender_result(env, result);
        }
    }

    /// The rate that congestion limits the queue pair to, if it does.
    #[must_use]
    pub fn current_rate(&self, now: Time, settings: &Congestion) -> Option<Rate> {
        self.pace.rate(now, settings)
    }

    /// Whether congestion limits the queue pair, or did until it last sent.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.pace.is_limited()
    }

    /// Makes other settings of the port effective at once.
    pub fn congestion_changed<E: Env>(&mut self, env: &mut E) {
        self.pace.reconsider(env.now(), env.congestion());
    }

    /// After the sending half was called.
    fn sender_result<E: Env>(&mut self, env: &mut E, result: Result<(), Broken>) {
        if result.is_ok() {
            self.check_drained(env);
        } else if self.config.kind.is_reliable() {
            self.receiver.silence();
            self.enter_error(env);
        } else {
            self.state = State::Sqe;
            self.draining = false;
            self.flushing = true;
        }
    }

    /// Reports that the send queue has drained.
    fn check_drained<E: Env>(&mut self, env: &mut E) {
        if self.draining && self.sender.drained() && !self.flushing {
            self.draining = false;
            if self.sqd_notify {
                env.event(QpEvent::SendQueueDrained);
            }
        }
    }

    /// Goes to the error state and flushes.
    fn enter_error<E: Env>(&mut self, env: &mut E) {
        let entered = self.state != State::Error;
        self.state = State::Error;
        self.draining = false;
        self.flushing = true;
        env.release_sends();
        self.notifier = Notifier::default();
        self.pace = Pace::default();
        self.receiver.stop(env);
        if entered && env.shares_receives() {
            env.event(QpEvent::LastWqeReached);
        }
        if self.sender.is_settled() {
            self.flush(env, &mut { FLUSH_AT_ONCE });
        }
    }

    /// Ends requests as flushed: all sends, then all receives but those of a shared receive queue.
    fn flush<E: Env>(&mut self, env: &mut E, budget: &mut u32) -> Poll {
        self.flush_sends(env, budget);
        while *budget > 0 {
            let work = if env.shares_receives() {
                None
            } else {
                env.next_receive(None).ok()
            };
            let Some(work) = work else {
                self.flushing = false;
                return Poll::Idle;
            };
            env.complete_receive(ReceiveCompletion::without_data(
                work.cookie,
                Outcome::Flushed,
            ));
            *budget -= 1;
        }
        Poll::More
    }

    /// Ends requests of the send queue as flushed.
    fn flush_send_queue<E: Env>(&mut self, env: &mut E, budget: &mut u32) -> Poll {
        self.flush_sends(env, budget);
        if *budget == 0 {
            return Poll::More;
        }
        self.flushing = false;
        Poll::Idle
    }

    /// After state SQE: ends the requests that were posted before it was left as flushed, then goes
    /// on with those after them.
    fn resume<E: Env>(&mut self, env: &mut E, budget: &mut u32) -> Poll {
        self.flush_sends(env, budget);
        if *budget > 0 {
            self.flushing = false;
            env.release_sends();
            self.sender.post_notify();
            self.check_drained(env);
        }
        Poll::More
    }

    /// Those that were handed out come first.
    fn flush_sends<E: Env>(&mut self, env: &mut E, budget: &mut u32) {
        self.sender.flush(env);
        while *budget > 0 {
            let Some(work) = env.next_send() else {
                return;
            };
            env.complete_send(&work, Outcome::Flushed, 0);
            *budget -= 1;
        }
    }
}

/// The earlier of two deadlines that may not be.
fn earlier(one: Option<Time>, other: Option<Time>) -> Option<Time> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}
