//! The sending half of a queue pair: which request packet goes next.
//!
//! Messages wait in a queue from the moment the work queue hands them out until they complete, in
//! order. A cursor walks over them and sends; after a loss it goes back to the oldest packet that
//! is not acknowledged and walks again (go back N, IBTA volume 1, 9.7.5). What comes back from the
//! peer is handled in `response`.
//!
//! Invariants: the front of the queue is never complete; `unacked` is the front's next sequence
//! number that is not done; everything from `unacked` to `high` may be named by a response, nothing
//! else. Not here: end-to-end credits, which the peer is told not to expect.

use alloc::collections::VecDeque;

use vrnic_abi::counter::Counter;

use super::congestion::{Half, Pace};
use super::failure::count_request;
use super::gather::{gather, total, verify_list};
use super::message::{MAX_LENGTH, Message, Run};
use super::modify::Attributes;
use super::timer::ack_timeout;
use super::{Broken, Env, LocalOperation, Payload, Poll, SendOperation, Transmit};
use crate::pdu::{Body, Pdu, RemoteRange};
use crate::types::{Access, Chunks, Outcome, Psn, Time};

/// Most messages handed out by the work queue at a time.
const MAX_MESSAGES: usize = 256;
/// Messages that a queue pair keeps memory for once it has had so many.
const KEPT_MESSAGES: usize = 64;
/// Packets of SEND and WRITE that may wait for acknowledgement: at first, at least and at most.
/// Losses narrow it, progress lets it grow, slowly beyond the first number once there was a loss.
const WINDOW: u32 = 256;
const MIN_WINDOW: u32 = 8;
const MAX_WINDOW: u32 = 1024;
/// Half of the sequence space: more may not be outstanding (IBTA volume 1, 9.7.2).
const MAX_OUTSTANDING: u32 = 1 << 23;

/// How far `to` is ahead of `from`, modulo 2^24.
pub(super) const fn distance(from: Psn, to: Psn) -> u32 {
    Psn::new(to.get().wrapping_sub(from.get())).get()
}

/// Where sending continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Index in the queue of messages; its length if all are sent.
    pub(super) message: usize,
    /// Packet of that message, for SEND and WRITE.
    pub(super) packet: u32,
}

/// State of the sending half.
#[derive(Clone, Debug, Default)]
pub(super) struct Requester {
    /// Messages handed out and not complete.
    pub(super) messages: VecDeque<Message>,
    /// Where sending continues.
    pub(super) cursor: Cursor,
    /// The oldest sequence number that is not done.
    pub(super) unacked: Psn,
    /// After the last sequence number that a response may name.
    pub(super) high: Psn,
    /// First sequence number of the next message.
    next: Psn,
    /// Request packets of all messages started, modulo 2^32.
    serial: u32,
    /// READ and atomic operations started and not complete.
    pub(super) responses_due: u32,
    /// Packets that may wait for acknowledgement.
    pub(super) window: u32,
    /// Up to here the window widens fast; beyond, a buffer on the way may be full again.
    eager: u32,
    /// Packets sent since an acknowledgement was last asked for.
    unrequested: u32,
    /// After the last sequence number for which one was asked for.
    asked: Psn,
    /// Retries left before the queue pair fails.
    pub(super) retries: u8,
    /// RNR retries left.
    pub(super) rnr_retries: u8,
    /// Responses that show the gap that is being repaired are not news.
    pub(super) recovering: bool,
    /// When to stop waiting for an acknowledgement.
    pub(super) ack_deadline: Option<Time>,
    /// When the peer may be ready again; nothing is sent before.
    pub(super) rnr_deadline: Option<Time>,
    /// The work queue may have more.
    more: bool,
    /// The queue pair has sent responses in this call, whose data may still be read on the direct
    /// path.
    pub(super) responses_under_way: bool,
    /// Scratch.
    pub(super) chunks: Chunks,
}

/// What one step of sending did.
enum Step {
    /// Sent a PDU.
    Sent,
    /// Moved on without one.
    Skipped,
    /// Nothing can be sent now.
    Wait,
    /// There is no room on the wire.
    NoRoom,
}

impl Requester {
    /// Starts in RTS with the sequence number agreed on.
    pub(super) fn start_at(&mut self, link: &Attributes) {
        self.unacked = link.send_psn;
        self.high = link.send_psn;
        self.asked = link.send_psn;
        self.next = link.send_psn;
        self.window = WINDOW;
        self.eager = MAX_WINDOW;
        self.retries = link.retry_count;
        self.rnr_retries = link.rnr_retry;
        self.more = true;
        self.messages.reserve(16);
    }

    /// The work queue may have got more.
    pub(super) fn post_notify(&mut self) {
        self.more = true;
    }

    /// Whether no message that was started is incomplete.
    pub(super) fn drained(&self) -> bool {
        !self.messages.front().is_some_and(|front| front.started)
    }

    /// Whether [`Self::poll`] would find something to do.
    pub(super) fn has_work(&self, link: &Attributes, pace: &Pace, may_start: bool) -> bool {
        if self.rnr_deadline.is_some() {
            return false;
        }
        match self.messages.get(self.cursor.message) {
            None => may_start && self.more && self.messages.len() < MAX_MESSAGES,
            Some(message) if message.failed.is_some() => false,
            Some(message) if !message.started => may_start && self.may_start(message, link),
            Some(message) => {
                message.awaits_response()
                    || message.packets == 0
                    || !pace.waits() && self.room(message) > 0
            }
        }
    }

    /// Whether the next message is an operation on keys.
    pub(super) fn local_is_next(&self) -> bool {
        self.messages
            .get(self.cursor.message)
            .is_some_and(|message| {
                !message.started && matches!(message.work.operation, SendOperation::Local(_))
            })
    }

    /// Sends until nothing can be sent or `budget` PDUs are spent.
    pub(super) fn poll<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pace: &mut Pace,
        may_start: bool,
        budget: &mut u32,
    ) -> Result<Poll, Broken> {
        while *budget > 0 {
            match self.step(env, link, pace, may_start)? {
                Step::Sent => env.spend(budget),
                Step::Skipped => *budget -= 1,
                Step::Wait => return Ok(Poll::Idle),
                Step::NoRoom => return Ok(Poll::Blocked),
            }
        }
        Ok(Poll::More)
    }

    /// Sends the PDU under the cursor, if that is possible now.
    fn step<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pace: &mut Pace,
        may_start: bool,
    ) -> Result<Step, Broken> {
        if self.rnr_deadline.is_some() {
            return Ok(Step::Wait);
        }
        if self.cursor.message >= self.messages.len() && !(may_start && self.pull(env)) {
            return Ok(Step::Wait);
        }
        let Some(message) = self.messages.get(self.cursor.message) else {
            return Ok(Step::Wait);
        };
        if !message.started {
            if !may_start || !self.may_start(message, link) {
                return Ok(Step::Wait);
            }
            self.start(env, link);
        }
        self.send(env, link, pace)
    }

    /// Takes the next request from the work queue.
    fn pull<E: Env>(&mut self, env: &mut E) -> bool {
        if self.messages.len() >= MAX_MESSAGES {
            return false;
        }
        let Some(work) = env.next_send() else {
            self.more = false;
            return false;
        };
        self.messages.push_back(Message::new(work));
        self.more = true;
        true
    }

    /// Whether a message may take its place in the sequence now: fences, READ and atomic operations
    /// in flight, sequence numbers outstanding.
    fn may_start(&self, message: &Message, link: &Attributes) -> bool {
        if message.work.fence && self.responses_due > 0 {
            return false;
        }
        if let SendOperation::Local(operation) = message.work.operation {
            // Nobody reads through a key after the request that takes it away has completed.
            if self.responses_under_way {
                return false;
            }
            // What earlier requests still need must not go away under them.
            let invalidates = matches!(operation, LocalOperation::Invalidate(_));
            if invalidates && self.cursor.message > 0 {
                return false;
            }
        }
        // Without any depth the request fails when it starts.
        let depth = u32::from(link.initiator_depth).max(1);
        if message.awaits_response() && self.responses_due >= depth {
            return false;
        }
        let outstanding = distance(self.unacked, self.next);
        let length = u32::try_from(total(&message.work.sges)).unwrap_or(MAX_LENGTH);
        let packets = link.path_mtu.packets(length.min(MAX_LENGTH));
        outstanding == 0 || outstanding + packets <= MAX_OUTSTANDING
    }

    /// Gives the message under the cursor its place in the sequence, or finds it at fault.
    fn start<E: Env>(&mut self, env: &mut E, link: &Attributes) {
        let Some(message) = self.messages.get_mut(self.cursor.message) else {
            return;
        };
        message.started = true;
        message.first = self.next;
        message.serial = self.serial;
        match admit(env, message, link, &mut self.chunks) {
            Err(outcome) => message.failed = Some(outcome),
            Ok(packets) => {
                message.packets = packets;
                self.next = self.next.plus(packets);
                if message.awaits_response() {
                    self.responses_due += 1;
                } else {
                    self.serial = self.serial.wrapping_add(packets);
                }
            }
        }
    }

    /// Sends from the message under the cursor.
    fn send<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pace: &mut Pace,
    ) -> Result<Step, Broken> {
        let Some(message) = self.messages.get(self.cursor.message) else {
            return Ok(Step::Wait);
        };
        if message.failed.is_some() {
            self.retire(env)?;
            return Ok(Step::Wait);
        }
        if message.packets == 0 {
            self.skip();
            self.retire(env)?;
            return Ok(Step::Skipped);
        }
        match single(message, link) {
            Some(body) => Ok(self.send_single(env, link, body)),
            None if pace.admits(env) => self.send_data(env, link, pace),
            None => Ok(Step::Wait),
        }
    }

    /// Moves the cursor to the next message.
    fn skip(&mut self) {
        self.cursor.message += 1;
        self.cursor.packet = 0;
    }

    /// Sends a request that is one packet and that a response will answer.
    fn send_single<E: Env>(&mut self, env: &mut E, link: &Attributes, body: Body) -> Step {
        let Some(message) = self.messages.get(self.cursor.message) else {
            return Step::Wait;
        };
        let (psn, packets) = (message.first.plus(message.acked), message.remaining());
        let pdu = Pdu {
            destination: link.remote_qpn,
            service: message.service,
            psn,
            packets: 1,
            length: 0,
            ack_request: true,
            solicited: false,
            body,
        };
        match env.transmit(&link.path, &pdu, Payload::Chunks(&[])) {
            Transmit::Sent => {}
            Transmit::NoRoom | Transmit::BadMemory => return Step::NoRoom,
        }
        if self.extend(psn.plus(packets)) < packets {
            env.count(Counter::TxRetransmits, 1);
        }
        self.arm(env, link, psn.plus(packets));
        self.unrequested = 0;
        self.skip();
        Step::Sent
    }

    /// Sends the next run of packets of the SEND or WRITE under the cursor.
    fn send_data<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pace: &mut Pace,
    ) -> Result<Step, Broken> {
        let Some(run) = self.next_run(env, link) else {
            return Ok(Step::Wait);
        };
        let ack_request = run.ends || self.wants_ack(link, pace, run.packets);
        let Some(message) = self.messages.get_mut(self.cursor.message) else {
            return Ok(Step::Wait);
        };
        let pdu = message.data_pdu(link.remote_qpn, &run, ack_request);
        let sent = match message.inline_part(&run) {
            Some(bytes) => env.transmit(&link.path, &pdu, Payload::Bytes(bytes)),
            None => {
                let (chunks, sges) = (&mut self.chunks, &message.work.sges);
                let domain = env.domain();
                let (offset, length) = (run.offset, run.length);
                match gather(
                    env,
                    domain,
                    sges,
                    Access::LOCAL_READ,
                    offset,
                    length,
                    chunks,
                ) {
                    Ok(()) => env.transmit(&link.path, &pdu, Payload::Chunks(chunks)),
                    Err(_) => Transmit::BadMemory,
                }
            }
        };
        match sent {
            Transmit::NoRoom => return Ok(Step::NoRoom),
            Transmit::BadMemory => {
                message.failed = Some(Outcome::LocalProtection);
                self.retire(env)?;
                return Ok(Step::Wait);
            }
            Transmit::Sent => {}
        }
        pace.sent(env, Half::Requests, pdu.packets, pdu.length);
        self.data_sent(env, link, &pdu, &run);
        Ok(Step::Sent)
    }

    /// The packets to send next of the message under the cursor, if the window has room.
    fn next_run<E: Env>(&self, env: &E, link: &Attributes) -> Option<Run> {
        let message = self.messages.get(self.cursor.message)?;
        let room = self.room(message);
        if room == 0 {
            return None;
        }
        let most = room.min(env.burst(&link.path, link.path_mtu).max(1));
        Some(message.run(self.cursor.packet, most, link.path_mtu))
    }

    /// Packets that the window still admits when the cursor stands on `message`.
    fn room(&self, message: &Message) -> u32 {
        let Some(front) = self.messages.front() else {
            return self.window;
        };
        let sent = message.serial.wrapping_add(self.cursor.packet);
        let acked = if front.awaits_response() {
            front.serial
        } else {
            front.serial.wrapping_add(front.acked)
        };
        self.window.saturating_sub(sent.wrapping_sub(acked))
    }

    /// Whether to ask for an acknowledgement in the middle of a message: before the window closes,
    /// and several times in it, and in the time that the acknowledgement may take.
    fn wants_ack(&self, link: &Attributes, pace: &Pace, packets: u32) -> bool {
        let tight = self
            .messages
            .get(self.cursor.message)
            .is_none_or(|message| self.room(message) <= packets);
        let unrequested = self.unrequested.saturating_add(packets);
        tight
            || unrequested >= self.window / 4
            || pace.is_slow(
                unrequested,
                link.path_mtu.bytes(),
                ack_timeout(link.timeout),
            )
    }

    /// Accounts for a run that was sent.
    fn data_sent<E: Env>(&mut self, env: &mut E, link: &Attributes, pdu: &Pdu, run: &Run) {
        let fresh = self.extend(pdu.psn.plus(run.packets));
        if fresh < run.packets {
            env.count(Counter::TxRetransmits, u64::from(run.packets - fresh));
        }
        self.unrequested = if pdu.ack_request {
            0
        } else {
            self.unrequested.saturating_add(run.packets)
        };
        if run.ends {
            self.skip();
        } else {
            self.cursor.packet += run.packets;
        }
        if pdu.ack_request {
            self.arm(env, link, pdu.psn.plus(run.packets));
        }
    }

    /// Lets responses name everything before `end`; returns how many sequence numbers are new.
    fn extend(&mut self, end: Psn) -> u32 {
        let known = distance(self.unacked, self.high);
        let fresh = distance(self.unacked, end).saturating_sub(known);
        if fresh > 0 {
            self.high = end;
        }
        fresh
    }

    /// A response to everything before `end` was asked for: starts the ack timer if it does not run.
    /// Nobody answers packets that do not ask for it, and the next one that does may have to wait
    /// for room in the port (IBTA volume 1, 9.7.6.1.3).
    fn arm<E: Env>(&mut self, env: &E, link: &Attributes, end: Psn) {
        self.asked = end;
        if self.ack_deadline.is_none() {
            self.ack_deadline = ack_timeout(link.timeout).map(|after| env.now().after(after));
        }
    }

    /// Whether a response that was asked for is still to come.
    pub(super) fn awaits_response(&self) -> bool {
        let asked = distance(self.unacked, self.asked);
        asked != 0 && asked <= distance(self.unacked, self.high)
    }

    /// The data of the packet with sequence number `psn` that was sent cannot be read: its request
    /// fails when its turn comes, and nothing behind it is sent.
    pub(super) fn unreadable<E: Env>(&mut self, env: &mut E, psn: Psn) -> Result<(), Broken> {
        let includes = |message: &Message| distance(message.first, psn) < message.packets;
        let mut started = self.messages.iter().take_while(|message| message.started);
        if let Some(at) = started.position(includes) {
            if let Some(message) = self.messages.get_mut(at) {
                message.failed = Some(Outcome::LocalProtection);
            }
            self.cursor = Cursor {
                message: at,
                packet: 0,
            };
        }
        self.retire(env)
    }

    /// Completes what is done at the front of the queue.
    pub(super) fn retire<E: Env>(&mut self, env: &mut E) -> Result<(), Broken> {
        while let Some(front) = self.messages.front() {
            if !front.started {
                break;
            }
            if let Some(outcome) = front.failed {
                return self.fail(env, outcome);
            }
            if front.remaining() > 0 {
                break;
            }
            if let Some(message) = self.pop() {
                env.complete_send(&message.work, Outcome::Success, message.length);
            }
        }
        Ok(())
    }

    /// Completes the front of the queue with an error, which breaks the queue pair.
    pub(super) fn fail<E: Env>(&mut self, env: &mut E, outcome: Outcome) -> Result<(), Broken> {
        if let Some(message) = self.pop() {
            count_request(env, outcome);
            env.complete_send(&message.work, outcome, 0);
        }
        Err(Broken)
    }

    /// Removes the front of the queue; the cursor stays where it is.
    fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        // The front end may have held requests back because of how many were handed out.
        self.more = true;
        self.give_back_memory();
        if message.awaits_response() && message.packets > 0 {
            self.responses_due = self.responses_due.saturating_sub(1);
        }
        match self.cursor.message.checked_sub(1) {
            Some(index) => self.cursor.message = index,
            None => self.cursor.packet = 0,
        }
        Some(message)
    }

    /// Lets go of memory that a burst of requests has needed: there are thousands of queue pairs.
    /// Halving at a quarter keeps the cost per request constant.
    fn give_back_memory(&mut self) {
        let capacity = self.messages.capacity();
        if capacity > KEPT_MESSAGES && self.messages.len() <= capacity / 4 {
            self.messages.shrink_to(capacity / 2);
        }
    }

    /// Ends all messages as flushed, in order.
    pub(super) fn flush<E: Env>(&mut self, env: &mut E) {
        while let Some(message) = self.pop() {
            env.complete_send(&message.work, Outcome::Flushed, 0);
        }
        self.ack_deadline = None;
        self.rnr_deadline = None;
    }

    /// Sends again from the oldest packet that is not acknowledged.
    pub(super) fn go_back(&mut self) {
        let packet = match self.messages.front() {
            Some(front) if !front.awaits_response() => front.acked,
            _ => 0,
        };
        self.cursor = Cursor { message: 0, packet };
        self.unrequested = 0;
    }

    /// Narrows the window after silence of the peer, which may be a sign of congestion.
    pub(super) fn narrow(&mut self) {
        self.narrow_to(self.window / 2);
    }

    /// Narrows the window after a loss that an answer has shown. Links lose packets by accident too,
    /// and then a window that halves each time soon is too small for the round trip.
    pub(super) fn narrow_a_little(&mut self) {
        self.narrow_to(self.window - self.window / 4);
    }

    fn narrow_to(&mut self, window: u32) {
        self.window = window.max(MIN_WINDOW);
        self.eager = WINDOW;
    }

    /// Widens the window after `acked` packets arrived.
    pub(super) fn widen(&mut self, acked: u32) {
        let part = if self.window < self.eager { 8 } else { 32 };
        let wider = self.window.saturating_add(acked.div_ceil(part));
        self.window = wider.min(MAX_WINDOW);
    }
}

/// Checks a request before anything of it is sent, and computes its length and the sequence numbers
/// that it takes.
fn admit<E: Env>(
    env: &mut E,
    message: &mut Message,
    link: &Attributes,
    chunks: &mut Chunks,
) -> Result<u32, Outcome> {
    let work = &message.work;
    let length = if work.inline.is_empty() {
        u32::try_from(total(&work.sges)).map_err(|_| Outcome::LocalLength)?
    } else {
        u32::try_from(work.inline.len()).map_err(|_| Outcome::LocalLength)?
    };
    if length > MAX_LENGTH {
        return Err(Outcome::LocalLength);
    }
    if message.awaits_response() && (link.initiator_depth == 0 || !work.inline.is_empty()) {
        return Err(Outcome::LocalQpOperation);
    }
    let mut packets = link.path_mtu.packets(length);
    let mut access = Access::LOCAL_READ;
    message.length = length;
    match work.operation {
        SendOperation::Nop => return Ok(0),
        SendOperation::Invalid(outcome) => return Err(outcome),
        SendOperation::SendSegmented(_) => return Err(Outcome::LocalQpOperation),
        SendOperation::Send(_) | SendOperation::Write { .. } => {
            if !work.inline.is_empty() || packets <= env.burst(&link.path, link.path_mtu) {
                // Checked where it is sent, as one.
                return Ok(packets);
            }
        }
        SendOperation::Local(operation) => return env.local(&operation).map(|()| 0),
        SendOperation::AtomicWrite { .. } | SendOperation::Flush { .. } => {
            message.length = 0;
            return Ok(1);
        }
        SendOperation::Read { .. } => access = Access::LOCAL_WRITE,
        SendOperation::Atomic { .. } if length < 8 => return Err(Outcome::LocalLength),
        SendOperation::Atomic { .. } => {
            access = Access::LOCAL_WRITE;
            message.length = 8;
            packets = 1;
        }
    }
    let domain = env.domain();
    verify_list(env, domain, &work.sges, access, chunks).map_err(|_| Outcome::LocalProtection)?;
    Ok(packets)
}

/// The request of a message that is one packet and that a response answers; of a READ, what is
/// missing of it.
fn single(message: &Message, link: &Attributes) -> Option<Body> {
    match message.work.operation {
        SendOperation::Read { address, rkey } => {
            let done = message.acked.saturating_mul(link.path_mtu.bytes());
            let source = RemoteRange {
                address: address.wrapping_add(u64::from(done)),
                rkey,
                length: message.length.saturating_sub(done),
            };
            Some(Body::Read { source })
        }
        SendOperation::Atomic {
            address,
            rkey,
            operation,
        } => Some(Body::Atomic {
            address,
            rkey,
            operation,
        }),
        SendOperation::AtomicWrite {
            address,
            rkey,
            value,
        } => Some(Body::AtomicWrite {
            address,
            rkey,
            value,
        }),
        SendOperation::Flush {
            target,
            extent,
            placement,
        } => Some(Body::Flush {
            target,
            extent,
            placement,
        }),
        _ => None,
    }
}
