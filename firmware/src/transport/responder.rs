//! The receiving half of a queue pair: what happens to a request.
//!
//! Requests are taken in the order of their sequence numbers and checked in the order of IBTA
//! volume 1, 9.7.4: sequence number, place in the message, length against the path MTU, what the
//! queue pair allows, receive buffer, remote key, length of the message. Data is placed as it
//! arrives. What there is to say goes to the queue of [`super::answer`].
//!
//! A PDU that stands for several packets is handled as one: entirely if the first of them is the
//! one expected, as a duplicate if the first was seen before.
//!
//! Faults (9.9.3): a peer's invalid request or access is answered with a NAK and breaks the queue
//! pair; the receive work request in use tells the owner, else an event does. Between two queue
//! pairs of one process the sender's memory may turn out to be unreachable only here. Then the
//! packet counts as never sent; the front end tells the sender.

use alloc::collections::VecDeque;

use vrnic_abi::counter::Counter;

use super::answer::{Answer, AnswerKind};
use super::failure::count_receive;
use super::gather::{BadTarget, check_target, gather, verify};
use super::in_use::{InUse, Unready};
use super::message::{MAX_LENGTH, fills_packets};
use super::modify::Attributes;
use super::requester::distance;
use super::{Broken, Env, NoReceive, QpEvent, ReceiveKind, TransferError};
use crate::pdu::{
    AtomicOperation, Body, FlushExtent, NakCode, Pdu, Place, Placement, RemoteRange, SendTail,
    Service, Syndrome,
};
use crate::types::{Access, Chunks, Msn, Outcome, Psn};

/// The message that is being received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Inbound {
    /// None: the next request starts a message.
    #[default]
    None,
    /// A SEND.
    Send {
        /// Bytes placed.
        received: u32,
    },
    /// An RDMA WRITE.
    Write {
        /// Where to.
        target: RemoteRange,
        /// Bytes placed.
        received: u32,
    },
}

/// Answer to an operation that must not be carried out twice, kept for duplicates.
#[derive(Clone, Copy, Debug)]
struct Saved {
    psn: Psn,
    answer: AnswerKind,
}

/// State of the receiving half.
#[derive(Clone, Debug, Default)]
pub(super) struct Responder {
    /// Transport service of the answers.
    pub(super) service: Service,
    /// Sequence number of the next request.
    pub(super) expected: Psn,
    /// Messages completed.
    pub(super) msn: Msn,
    inbound: Inbound,
    /// The receive work request in use.
    receive: InUse,
    /// The requester knows that it has to send `expected` again.
    pub(super) gap_reported: bool,
    saved: VecDeque<Saved>,
    /// What to say, in the order of sequence numbers.
    pub(super) answers: VecDeque<Answer>,
    /// READ and atomic operations among the answers.
    pub(super) due: u32,
    /// Scratch.
    pub(super) chunks: Chunks,
}

/// Why a request was not carried out.
enum Refusal {
    /// There is no receive buffer.
    NotReady,
    /// The sender's memory could not be read.
    SenderMemory,
    /// The peer or the owner made a mistake.
    Fatal(Fault),
}

/// A mistake that breaks the queue pair.
#[derive(Clone, Copy)]
struct Fault {
    /// What the peer is told.
    code: NakCode,
    /// How the receive work request in use ends.
    outcome: Outcome,
    /// What the owner is told if none is in use.
    event: QpEvent,
}

const INVALID: Refusal = Refusal::Fatal(Fault {
    code: NakCode::InvalidRequest,
    outcome: Outcome::RemoteInvalidRequest,
    event: QpEvent::RequestError,
});
const TOO_LONG: Refusal = Refusal::Fatal(Fault {
    code: NakCode::InvalidRequest,
    outcome: Outcome::LocalLength,
    event: QpEvent::RequestError,
});
const NO_ACCESS: Refusal = Refusal::Fatal(Fault {
    code: NakCode::RemoteAccess,
    outcome: Outcome::LocalAccess,
    event: QpEvent::AccessError,
});

/// The owner's buffers are at fault.
const fn operational(outcome: Outcome) -> Refusal {
    Refusal::Fatal(Fault {
        code: NakCode::RemoteOperational,
        outcome,
        event: QpEvent::Fatal,
    })
}

impl From<TransferError> for Refusal {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Local => operational(Outcome::LocalProtection),
            TransferError::Sender => Self::SenderMemory,
        }
    }
}

impl Responder {
    /// Starts in RTR with the sequence number agreed on.
    pub(super) fn start_at(&mut self, link: &Attributes, service: Service) {
        self.service = service;
        self.expected = link.receive_psn;
        let resources = usize::from(link.responder_resources);
        self.saved.reserve(resources);
        self.answers.reserve(2 * resources + 2);
    }

    /// Handles a request.
    pub(super) fn receive<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pdu: &Pdu,
    ) -> Result<(), Broken> {
        if pdu.packets == 0 {
            return Ok(());
        }
        let ahead = pdu.psn.since(self.expected);
        if ahead < 0 {
            self.duplicate(env, link, pdu);
            return Ok(());
        }
        if ahead > 0 {
            env.count(Counter::OutOfSequence, pdu.packets.into());
            self.out_of_sequence();
            return Ok(());
        }
        match self.accept(env, link, pdu) {
            Ok(()) => {
                self.gap_reported = false;
                Ok(())
            }
            Err(Refusal::NotReady) => {
                env.count(Counter::OutOfBuffer, 1);
                self.reject(Syndrome::RnrNak(link.min_rnr_timer));
                Ok(())
            }
            Err(Refusal::SenderMemory) => Ok(()),
            Err(Refusal::Fatal(fault)) => self.fault(env, fault),
        }
    }

    /// A request is missing: says so once for each gap (IBTA volume 1, 9.7.5.2.8).
    fn out_of_sequence(&mut self) {
        if !self.gap_reported {
            self.reject(Syndrome::Nak(NakCode::PsnSequence));
        }
    }

    /// Queues a negative acknowledgement of the expected request. Until the requester sends it
    /// again, what else arrives is dropped quietly.
    fn reject(&mut self, syndrome: Syndrome) {
        self.gap_reported = true;
        self.answer(self.expected, AnswerKind::Nak(syndrome));
    }

    /// Ends the receive work request in use with an error, or raises an event, and queues the NAK.
    fn fault<E: Env>(&mut self, env: &mut E, fault: Fault) -> Result<(), Broken> {
        count_receive(env, fault.outcome, self.receive.work().is_some());
        self.reject(Syndrome::Nak(fault.code));
        if self.receive.work().is_some() {
            self.receive.end(env, fault.outcome);
        } else {
            env.event(fault.event);
        }
        Err(Broken)
    }

    /// Carries out the expected request.
    fn accept<E: Env>(&mut self, env: &mut E, link: &Attributes, pdu: &Pdu) -> Result<(), Refusal> {
        env.act_for(pdu.service);
        match pdu.body {
            Body::Send { place, tail } => {
                self.check_place(
                    link,
                    pdu,
                    place,
                    matches!(self.inbound, Inbound::Send { .. }),
                )?;
                self.accept_send(env, pdu, place, tail)?;
                env.count(Counter::RxSendRequests, u64::from(place.ends()));
                self.data_accepted(pdu, place);
            }
            Body::Write {
                place,
                target,
                immediate,
            } => {
                self.check_place(
                    link,
                    pdu,
                    place,
                    matches!(self.inbound, Inbound::Write { .. }),
                )?;
                self.accept_write(env, link, pdu, place, target, immediate)?;
                env.count(Counter::RxWriteRequests, u64::from(place.ends()));
                self.data_accepted(pdu, place);
            }
            Body::Read { source } => self.accept_read(env, link, pdu, source)?,
            Body::Atomic {
                address,
                rkey,
                operation,
            } => self.accept_atomic(env, link, pdu, address, rkey, operation)?,
            Body::AtomicWrite {
                address,
                rkey,
                value,
            } => self.accept_atomic_write(env, link, pdu, address, rkey, value)?,
            Body::Flush {
                target,
                extent,
                placement,
            } => self.accept_flush(env, link, pdu, target, extent, placement)?,
            _ => {}
        }
        Ok(())
    }

    /// Checks that a part of a message comes in its turn and fills its packets.
    fn check_place(
        &self,
        link: &Attributes,
        pdu: &Pdu,
        place: Place,
        continues: bool,
    ) -> Result<(), Refusal> {
        let in_turn = if place.starts() {
            self.inbound == Inbound::None
        } else {
            continues
        };
        let fits = fills_packets(pdu, place, link.path_mtu);
        if in_turn && fits {
            Ok(())
        } else {
            Err(INVALID)
        }
    }

    /// Goes on after a part of a SEND or WRITE that was placed.
    fn data_accepted(&mut self, pdu: &Pdu, place: Place) {
        self.expected = self.expected.plus(pdu.packets);
        if place.ends() {
            self.inbound = Inbound::None;
            self.msn = self.msn.plus(1);
        }
        if pdu.ack_request || self.gap_reported {
            self.acknowledge();
        }
    }

    /// Makes sure that there is a receive work request, and returns the bytes that it can take.
    fn take_receive<E: Env>(&mut self, env: &mut E, pdu: &Pdu) -> Result<u64, Refusal> {
        let srqn = match pdu.service {
            Service::Extended { srqn } => Some(srqn),
            _ => None,
        };
        self.receive
            .hold(env, srqn)
            .map_err(|unready| match unready {
                Unready::None(NoReceive::Empty) => Refusal::NotReady,
                Unready::None(NoReceive::NoQueue) => INVALID,
                Unready::None(NoReceive::Failed) => operational(Outcome::LocalQpOperation),
                Unready::Invalid(outcome) => operational(outcome),
            })
    }

    /// Places a part of a SEND.
    fn accept_send<E: Env>(
        &mut self,
        env: &mut E,
        pdu: &Pdu,
        place: Place,
        tail: SendTail,
    ) -> Result<(), Refusal> {
        let room = self.take_receive(env, pdu)?;
        let offset = match self.inbound {
            Inbound::Send { received } => received,
            _ => 0,
        };
        let end = u64::from(offset) + u64::from(pdu.length);
        if end > room || end > u64::from(MAX_LENGTH) {
            return Err(TOO_LONG);
        }
        let received = offset.wrapping_add(pdu.length);
        if pdu.length > 0 {
            let chunks = &mut self.chunks;
            if let Some(work) = self.receive.work() {
                let (domain, sges) = (work.domain, &work.sges);
                gather(
                    env,
                    domain,
                    sges,
                    Access::LOCAL_WRITE,
                    offset,
                    pdu.length,
                    chunks,
                )
                .map_err(|_| operational(Outcome::LocalProtection))?;
            }
            env.place(0, chunks)?;
        }
        self.inbound = Inbound::Send { received };
        if place.ends() {
            if let SendTail::Invalidate(rkey) = tail {
                env.invalidate(rkey).map_err(|_| NO_ACCESS)?;
            }
            self.receive
                .complete(env, received, ReceiveKind::Send(tail), pdu.solicited);
        }
        Ok(())
    }

    /// Places a part of an RDMA WRITE.
    fn accept_write<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pdu: &Pdu,
        place: Place,
        target: Option<RemoteRange>,
        immediate: Option<u32>,
    ) -> Result<(), Refusal> {
        let (target, offset) = match (self.inbound, target) {
            (Inbound::Write { target, received }, None) => (target, received),
            (Inbound::None, Some(target)) => (target, 0),
            _ => return Err(INVALID),
        };
        if !link.access.contains(Access::REMOTE_WRITE) || target.length > MAX_LENGTH {
            return Err(INVALID);
        }
        if immediate.is_some() {
            self.take_receive(env, pdu)?;
        }
        check_target(env, &mut self.chunks, pdu, place, target, offset).map_err(
            |bad| match bad {
                BadTarget::Access => NO_ACCESS,
                BadTarget::Length => INVALID,
            },
        )?;
        let received = offset.wrapping_add(pdu.length);
        if pdu.length > 0 {
            let address = target.address.wrapping_add(u64::from(offset));
            self.chunks.clear();
            let (domain, chunks) = (env.domain(), &mut self.chunks);
            let access = Access::REMOTE_WRITE;
            env.translate(domain, target.rkey, access, address, pdu.length, chunks)
                .map_err(|_| NO_ACCESS)?;
            env.place(0, chunks)?;
        }
        self.inbound = Inbound::Write { target, received };
        if let Some(immediate) = immediate {
            self.receive
                .complete(env, received, ReceiveKind::Write(immediate), pdu.solicited);
        }
        Ok(())
    }

    /// Checks a request that takes responder resources.
    fn check_resources(&mut self, link: &Attributes, access: Access) -> Result<(), Refusal> {
        let allowed = self.inbound == Inbound::None && link.access.contains(access);
        if allowed && self.has_room(link) {
            Ok(())
        } else {
            Err(INVALID)
        }
    }

    /// Queues the response to a READ.
    fn accept_read<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pdu: &Pdu,
        source: RemoteRange,
    ) -> Result<(), Refusal> {
        self.check_resources(link, Access::REMOTE_READ)?;
        if source.length > MAX_LENGTH {
            return Err(INVALID);
        }
        self.check_source(env, source)?;
        env.count(Counter::RxReadRequests, 1);
        let packets = link.path_mtu.packets(source.length);
        self.expected = self.expected.plus(packets);
        self.msn = self.msn.plus(1);
        self.answer(pdu.psn, AnswerKind::read(pdu.service, source, packets));
        Ok(())
    }

    fn check_source<E: Env>(&mut self, env: &mut E, source: RemoteRange) -> Result<(), Refusal> {
        let (key, address, length) = (source.rkey, source.address, source.length);
        let (domain, chunks) = (env.domain(), &mut self.chunks);
        verify(
            env,
            domain,
            key,
            Access::REMOTE_READ,
            address,
            length,
            chunks,
        )
        .map_err(|_| NO_ACCESS)
    }

    /// Executes an atomic operation and queues its response.
    fn accept_atomic<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pdu: &Pdu,
        address: u64,
        rkey: u32,
        operation: AtomicOperation,
    ) -> Result<(), Refusal> {
        self.check_resources(link, Access::REMOTE_ATOMIC)?;
        let at = self.aligned_target(env, address, rkey, Access::REMOTE_ATOMIC)?;
        let original = env.atomic(at, operation)?;
        env.count(Counter::RxAtomicRequests, 1);
        self.answer_once(link, pdu.psn, AnswerKind::Atomic { original });
        Ok(())
    }

    /// Writes 8 bytes at once and queues the response (IBTA volume 1, annex A19).
    fn accept_atomic_write<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pdu: &Pdu,
        address: u64,
        rkey: u32,
        value: [u8; 8],
    ) -> Result<(), Refusal> {
        self.check_resources(link, Access::REMOTE_WRITE)?;
        let at = self.aligned_target(env, address, rkey, Access::REMOTE_WRITE)?;
        env.atomic_write(at, value)?;
        env.count(Counter::RxAtomicWriteRequests, 1);
        self.answer_once(link, pdu.psn, AnswerKind::Done);
        Ok(())
    }

    /// The DMA address of the aligned 8 bytes that an atomic operation is about.
    fn aligned_target<E: Env>(
        &mut self,
        env: &mut E,
        address: u64,
        rkey: u32,
        access: Access,
    ) -> Result<u64, Refusal> {
        if address % 8 != 0 {
            return Err(INVALID);
        }
        self.chunks.clear();
        let domain = env.domain();
        env.translate(domain, rkey, access, address, 8, &mut self.chunks)
            .map_err(|_| NO_ACCESS)?;
        // Addresses that count from the start of a region or window say nothing about memory; what is
        // aligned there is not split, as pages are larger.
        match self.chunks.as_slice() {
            [chunk] if chunk.address % 8 == 0 => Ok(chunk.address),
            _ => Err(operational(Outcome::LocalProtection)),
        }
    }

    /// Flushes: what was placed before becomes visible, and then the response says so.
    fn accept_flush<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pdu: &Pdu,
        target: RemoteRange,
        extent: FlushExtent,
        placement: Placement,
    ) -> Result<(), Refusal> {
        let mut access = Access::empty();
        access.set(Access::FLUSH_GLOBAL, placement.global);
        access.set(Access::FLUSH_PERSISTENT, placement.persistent);
        self.check_resources(link, access)?;
        let key = target.rkey;
        let allowed = match extent {
            FlushExtent::Region => env.check_key(key, access),
            FlushExtent::Range => {
                let (domain, chunks) = (env.domain(), &mut self.chunks);
                verify(
                    env,
                    domain,
                    key,
                    access,
                    target.address,
                    target.length,
                    chunks,
                )
            }
        };
        allowed.map_err(|_| NO_ACCESS)?;
        env.fence();
        env.count(Counter::RxFlushRequests, 1);
        self.answer_once(link, pdu.psn, AnswerKind::Done);
        Ok(())
    }

    /// Goes on after a request of one packet that was carried out and must not be again, and queues
    /// its response.
    fn answer_once(&mut self, link: &Attributes, psn: Psn, answer: AnswerKind) {
        if self.saved.len() >= usize::from(link.responder_resources) {
            self.saved.pop_front();
        }
        self.saved.push_back(Saved { psn, answer });
        self.expected = self.expected.plus(1);
        self.msn = self.msn.plus(1);
        self.answer(psn, answer);
    }

    /// A request that was seen before: its response was lost, or the network doubled it
    /// (IBTA volume 1, 9.7.5.1.6).
    fn duplicate<E: Env>(&mut self, env: &mut E, link: &Attributes, pdu: &Pdu) {
        env.count(Counter::DuplicateRequest, pdu.packets.into());
        match pdu.body {
            Body::Read { source } => self.duplicate_read(env, link, pdu, source),
            Body::Atomic { .. } | Body::AtomicWrite { .. } | Body::Flush { .. } => {
                let saved = self.saved.iter().rev().find(|saved| saved.psn == pdu.psn);
                if let Some(Saved { answer, .. }) = saved.copied() {
                    self.answer_again(link, pdu.psn, answer);
                }
            }
            _ => self.acknowledge(),
        }
    }

    /// Reads again. A duplicate whose memory has gone may come from a READ that has long been
    /// complete, and is dropped.
    fn duplicate_read<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pdu: &Pdu,
        source: RemoteRange,
    ) {
        if source.length > MAX_LENGTH || !link.access.contains(Access::REMOTE_READ) {
            return;
        }
        let packets = link.path_mtu.packets(source.length);
        let seen = distance(pdu.psn, self.expected);
        env.act_for(pdu.service);
        if packets <= seen && self.check_source(env, source).is_ok() {
            self.answer_again(
                link,
                pdu.psn,
                AnswerKind::read(pdu.service, source, packets),
            );
        }
    }

    /// Forgets everything but the answers that are queued.
    pub(super) fn stop<E: Env>(&mut self, env: &mut E) {
        self.receive.end(env, Outcome::Flushed);
        self.inbound = Inbound::None;
    }
}
