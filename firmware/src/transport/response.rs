//! The sending half of a queue pair: what the peer answers.
//!
//! Every response names a sequence number and acknowledges all requests before it. If a READ or
//! atomic operation before it is still without its response, that response was lost and is asked
//! for again (IBTA volume 1, 9.7.5.1 and 9.7.5.2).

use vrnic_abi::counter::Counter;

use super::gather::gather;
use super::modify::Attributes;
use super::requester::{Requester, distance};
use super::timer::{ack_timeout, rnr_delay};
use super::{Broken, Env, TransferError};
use crate::pdu::{Acknowledge, Body, NakCode, Pdu, Place, Service, Syndrome};
use crate::types::{Access, Outcome, Psn};

impl Requester {
    /// Handles a response. Those that name no outstanding sequence number are ghosts of earlier
    /// transmissions, or lies, and ignored.
    pub(super) fn receive<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pdu: &Pdu,
    ) -> Result<(), Broken> {
        let ahead = distance(self.unacked, pdu.psn);
        if ahead >= distance(self.unacked, self.high) {
            env.count(Counter::RxUnexpectedResponse, pdu.packets.into());
            return Ok(());
        }
        match pdu.body {
            Body::Acknowledge(ack) => match ack.syndrome {
                Syndrome::Ack(_) => {
                    if self.advance(env, link, ahead + 1)? {
                        self.implied_nak(env)?;
                    }
                    Ok(())
                }
                Syndrome::RnrNak(code) => self.receiver_not_ready(env, link, ahead, code),
                Syndrome::Nak(code) => self.refused(env, link, ahead, code),
            },
            Body::ReadResponse { place, acknowledge } => {
                let good = acknowledge.is_none_or(affirms);
                self.read_response(env, link, pdu, ahead, place, good)
            }
            Body::AtomicResponse {
                original,
                acknowledge,
            } => {
                let original = affirms(acknowledge).then_some(original);
                self.atomic_response(env, link, ahead, original)
            }
            _ => Ok(()),
        }
    }

    /// Acknowledges the next `count` sequence numbers, up to a READ or atomic operation that still
    /// needs its response. Returns whether there was one.
    fn advance<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        count: u32,
    ) -> Result<bool, Broken> {
        let mut left = count;
        let mut missing = false;
        while left > 0 {
            let Some(front) = self.messages.front() else {
                break;
            };
            missing = front.awaits_response();
            let take = left.min(front.remaining());
            if missing || take == 0 {
                break;
            }
            left -= take;
            self.consume(env, take)?;
        }
        if left < count {
            self.progress(env, link, count - left);
        }
        Ok(missing)
    }

    /// Marks the front's next sequence numbers as done.
    fn consume<E: Env>(&mut self, env: &mut E, packets: u32) -> Result<(), Broken> {
        let Some(front) = self.messages.front_mut() else {
            return Ok(());
        };
        front.acked += packets;
        self.unacked = self.unacked.plus(packets);
        // An acknowledgement can overtake a retransmission.
        if self.cursor.message == 0 && !front.awaits_response() {
            self.cursor.packet = self.cursor.packet.max(front.acked);
        }
        self.retire(env)
    }

    /// The peer made progress: retries start over.
    fn progress<E: Env>(&mut self, env: &E, link: &Attributes, packets: u32) {
        self.retries = link.retry_count;
        self.rnr_retries = link.rnr_retry;
        self.recovering = false;
        self.rnr_deadline = None;
        self.ack_deadline = if self.awaits_response() {
            ack_timeout(link.timeout).map(|after| env.now().after(after))
        } else {
            None
        };
        self.widen(packets);
    }

    /// Whether the oldest packet that is not done has been sent since the cursor last went back.
    fn sent_since_going_back(&self) -> bool {
        let acked = match self.messages.front() {
            Some(front) if !front.awaits_response() => front.acked,
            _ => 0,
        };
        self.cursor.message > 0 || self.cursor.packet > acked
    }

    /// Sends again, unless the retries are used up.
    fn retry<E: Env>(&mut self, env: &mut E) -> Result<(), Broken> {
        let Some(left) = self.retries.checked_sub(1) else {
            return self.fail(env, Outcome::RetryExceeded);
        };
        self.retries = left;
        // The retransmission has as much time as the first transmission had.
        self.ack_deadline = None;
        self.go_back();
        Ok(())
    }

    /// A response shows that an earlier one was lost.
    fn implied_nak<E: Env>(&mut self, env: &mut E) -> Result<(), Broken> {
        if self.recovering || !self.sent_since_going_back() {
            return Ok(());
        }
        env.count(Counter::ImpliedNakSeqErr, 1);
        self.recovering = true;
        self.narrow_a_little();
        self.retry(env)
    }

    /// No acknowledgement arrived in time.
    pub(super) fn timed_out<E: Env>(&mut self, env: &mut E) -> Result<(), Broken> {
        self.ack_deadline = None;
        self.recovering = false;
        if self.unacked == self.high {
            return Ok(());
        }
        env.count(Counter::LocalAckTimeoutErr, 1);
        self.narrow();
        self.retry(env)
    }

    /// The peer had no receive buffer for the request at `ahead`.
    fn receiver_not_ready<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        ahead: u32,
        code: u8,
    ) -> Result<(), Broken> {
        env.count(Counter::RnrNakReceived, 1);
        if self.advance(env, link, ahead)? {
            return self.implied_nak(env);
        }
        if !self.sent_since_going_back() {
            return Ok(());
        }
        if self.rnr_retries == 0 {
            return self.fail(env, Outcome::RnrRetryExceeded);
        }
        if self.rnr_retries < 7 {
            self.rnr_retries -= 1;
        }
        // The peer is there: a long wait for buffers must not use up the retries after losses.
        self.retries = link.retry_count;
        self.rnr_deadline = Some(env.now().after(rnr_delay(code)));
        self.ack_deadline = None;
        self.go_back();
        Ok(())
    }

    /// The peer rejected the request at `ahead`.
    fn refused<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        ahead: u32,
        code: NakCode,
    ) -> Result<(), Broken> {
        if code == NakCode::PsnSequence {
            env.count(Counter::PacketSeqErr, 1);
        }
        let psn = self.unacked.plus(ahead);
        let missing = self.advance(env, link, ahead)?;
        // A READ that failed after some of its responses were lost has failed all the same.
        if missing && (code == NakCode::PsnSequence || !self.at_front(psn)) {
            return self.implied_nak(env);
        }
        let outcome = match code {
            NakCode::PsnSequence => {
                if !self.sent_since_going_back() {
                    return Ok(());
                }
                self.narrow_a_little();
                return self.retry(env);
            }
            NakCode::InvalidRequest => Outcome::RemoteInvalidRequest,
            NakCode::RemoteAccess => Outcome::RemoteAccess,
            NakCode::RemoteOperational => Outcome::RemoteOperation,
            // Drivers translate what some adapters report of XRC violations to this: they may well
            // send it to initiators.
            NakCode::InvalidRdRequest if self.is_extended() => Outcome::RemoteInvalidRequest,
            // No code of RC.
            NakCode::InvalidRdRequest => Outcome::BadResponse,
        };
        self.fail(env, outcome)
    }

    /// Places READ data, if the response is `good` as far as it is known without the request.
    fn read_response<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pdu: &Pdu,
        ahead: u32,
        place: Place,
        good: bool,
    ) -> Result<(), Broken> {
        if !self.names(ahead, true) {
            env.count(Counter::RxUnexpectedResponse, pdu.packets.into());
            return Ok(());
        }
        if self.advance(env, link, ahead)? {
            return self.implied_nak(env);
        }
        let Some(front) = self.messages.front() else {
            return Ok(());
        };
        let mtu = link.path_mtu.bytes();
        let offset = front.acked.saturating_mul(mtu);
        let expected = pdu.packets.saturating_mul(mtu);
        let expected = expected.min(front.length.saturating_sub(offset));
        let ends = pdu.packets == front.remaining();
        let fits = pdu.packets <= front.remaining() && pdu.length == expected;
        // One that was asked for again from its middle on may go on as it was or start anew.
        let in_turn = place.ends() == ends && (front.acked > 0 || place.starts());
        if !good || !fits || !in_turn {
            return self.fail(env, Outcome::BadResponse);
        }
        let (sges, chunks) = (&front.work.sges, &mut self.chunks);
        let domain = env.domain();
        let gathered = gather(
            env,
            domain,
            sges,
            Access::LOCAL_WRITE,
            offset,
            expected,
            chunks,
        );
        let placed = match gathered {
            Ok(()) if expected == 0 => Ok(()),
            Ok(()) => env.place(0, chunks),
            Err(_) => Err(TransferError::Local),
        };
        match placed {
            Ok(()) => self.answered(env, link, pdu.packets),
            Err(TransferError::Local) => self.fail(env, Outcome::LocalProtection),
            // The responder is told, and will say so as it does on the wire.
            Err(TransferError::Sender) => Ok(()),
        }
    }

    /// Places the result of an atomic operation, if there is one in its response.
    fn atomic_response<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        ahead: u32,
        original: Option<u64>,
    ) -> Result<(), Broken> {
        if !self.names(ahead, false) {
            env.count(Counter::RxUnexpectedResponse, 1);
            return Ok(());
        }
        if self.advance(env, link, ahead)? {
            return self.implied_nak(env);
        }
        let Some(front) = self.messages.front() else {
            return Ok(());
        };
        let Some(original) = original else {
            return self.fail(env, Outcome::BadResponse);
        };
        let (sges, chunks) = (&front.work.sges, &mut self.chunks);
        let domain = env.domain();
        let stored = gather(env, domain, sges, Access::LOCAL_WRITE, 0, 8, chunks).is_ok()
            && env.store(&original.to_le_bytes(), chunks).is_ok();
        if !stored {
            return self.fail(env, Outcome::LocalProtection);
        }
        self.answered(env, link, 1)
    }

    /// The front got a part of its response.
    fn answered<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        packets: u32,
    ) -> Result<(), Broken> {
        self.consume(env, packets)?;
        self.progress(env, link, packets);
        Ok(())
    }

    /// Whether the sequence number at `ahead` belongs to a READ (or else, to an atomic operation).
    fn names(&self, ahead: u32, read: bool) -> bool {
        let mut left = ahead;
        for message in &self.messages {
            if left < message.remaining() {
                return message.awaits_response() && message.awaits_read_response() == read;
            }
            left -= message.remaining();
        }
        false
    }

    /// Whether the request at the front of the queue is one of XRC.
    fn is_extended(&self) -> bool {
        let front = self.messages.front();
        front.is_some_and(|front| matches!(front.service, Service::Extended { .. }))
    }

    /// Whether a sequence number belongs to the front of the queue.
    fn at_front(&self, psn: Psn) -> bool {
        let front = self.messages.front();
        front.is_some_and(|front| distance(self.unacked, psn) < front.remaining())
    }
}

/// Whether a response says that its request was carried out. One that brings data and says no at
/// the same time is not what the protocol allows.
const fn affirms(acknowledge: Acknowledge) -> bool {
    matches!(acknowledge.syndrome, Syndrome::Ack(_))
}
