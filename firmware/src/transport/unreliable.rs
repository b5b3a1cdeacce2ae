//! The receiving half of an unreliable connection (IBTA volume 1, 9.8.2.2).
//!
//! A packet that does not follow the one before it ends the message that was being received: the
//! rest of it is dropped until a packet starts another one. What is placed of a WRITE stays placed,
//! and a receive work request that was in use takes the next SEND. A peer's mistakes are dropped
//! and counted; the owner's break the queue pair.

use vrnic_abi::counter::Counter;

use super::failure::count_receive;
use super::gather::{check_target, gather};
use super::in_use::{InUse, Unready};
use super::message::{MAX_LENGTH, fills_packets};
use super::modify::Attributes;
use super::{Broken, Env, NoReceive, QpEvent, ReceiveKind, TransferError};
use crate::pdu::{Body, Pdu, Place, RemoteRange, SendTail};
use crate::types::{Access, Chunks, Outcome, Psn};

/// The message that is being received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Inbound {
    /// None.
    #[default]
    None,
    /// A SEND, and the bytes of it that were placed.
    Send(u32),
    /// An RDMA WRITE, and the bytes of it that were placed.
    Write(RemoteRange, u32),
}

/// State of the receiving half.
#[derive(Clone, Debug, Default)]
pub(super) struct Unreliable {
    /// Sequence number of the next packet, if none is lost.
    pub(super) expected: Psn,
    inbound: Inbound,
    /// The receive work request in use.
    receive: InUse,
    chunks: Chunks,
}

/// Why a packet is not taken.
enum Refusal {
    /// It is dropped, and the message with it.
    Drop(Counter),
    /// The owner's buffers are at fault.
    Owner(Outcome),
    /// The sender's memory could not be read: the packet was never sent.
    SenderMemory,
}

const INVALID: Refusal = Refusal::Drop(Counter::RxUnreliableInvalid);

impl From<TransferError> for Refusal {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Local => Self::Owner(Outcome::LocalProtection),
            TransferError::Sender => Self::SenderMemory,
        }
    }
}

impl Unreliable {
    /// Starts in RTR with the sequence number agreed on.
    pub(super) fn start_at(&mut self, link: &Attributes) {
        self.expected = link.receive_psn;
    }

    /// Handles a packet.
    pub(super) fn receive<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pdu: &Pdu,
    ) -> Result<(), Broken> {
        if pdu.psn != self.expected {
            // What was placed of a message that is given up stays placed.
            env.count(Counter::OutOfSequence, 1);
            self.inbound = Inbound::None;
        }
        self.expected = pdu.psn.plus(pdu.packets);
        let result = match pdu.body {
            Body::Send { place, tail } => self.receive_send(env, link, pdu, place, tail),
            Body::Write {
                place,
                target,
                immediate,
            } => self.receive_write(env, link, pdu, place, target, immediate),
            _ => Err(INVALID),
        };
        match result {
            Ok(()) => Ok(()),
            Err(Refusal::Drop(counter)) => {
                env.count(counter, u64::from(pdu.packets));
                self.inbound = Inbound::None;
                Ok(())
            }
            Err(Refusal::SenderMemory) => {
                self.expected = pdu.psn;
                Ok(())
            }
            Err(Refusal::Owner(outcome)) => {
                count_receive(env, outcome, self.receive.work().is_some());
                if self.receive.work().is_none() {
                    env.event(QpEvent::Fatal);
                } else {
                    self.end_receive(env, outcome);
                }
                Err(Broken)
            }
        }
    }

    /// Bytes of the message before this packet, which comes in its turn and fills its packets.
    fn offset(
        &mut self,
        link: &Attributes,
        pdu: &Pdu,
        place: Place,
        continues: Option<u32>,
    ) -> Result<u32, Refusal> {
        let offset = if place.starts() {
            self.inbound = Inbound::None;
            Some(0)
        } else {
            continues
        };
        if pdu.packets == 0 || !fills_packets(pdu, place, link.path_mtu) {
            return Err(INVALID);
        }
        offset.ok_or(Refusal::Drop(Counter::RxUnreliableLost))
    }

    /// Makes sure that there is a receive work request, and returns the bytes that it can take.
    fn take_receive<E: Env>(&mut self, env: &mut E) -> Result<u64, Refusal> {
        self.receive
            .hold(env, None)
            .map_err(|unready| match unready {
                Unready::None(NoReceive::Empty | NoReceive::NoQueue) => {
                    Refusal::Drop(Counter::RxUnreliableNoReceive)
                }
                Unready::None(NoReceive::Failed) => Refusal::Owner(Outcome::LocalQpOperation),
                Unready::Invalid(outcome) => Refusal::Owner(outcome),
            })
    }

    fn receive_send<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pdu: &Pdu,
        place: Place,
        tail: SendTail,
    ) -> Result<(), Refusal> {
        let continues = match self.inbound {
            Inbound::Send(received) => Some(received),
            _ => None,
        };
        let offset = self.offset(link, pdu, place, continues)?;
        let room = self.take_receive(env)?;
        let end = u64::from(offset) + u64::from(pdu.length);
        if end > room || end > u64::from(MAX_LENGTH) {
            self.too_long(env);
            return Err(Refusal::Drop(Counter::RxUnreliableTooLong));
        }
        let received = offset.wrapping_add(pdu.length);
        if let (Some(work), true) = (self.receive.work(), pdu.length > 0) {
            let (domain, sges, chunks) = (work.domain, &work.sges, &mut self.chunks);
            gather(
                env,
                domain,
                sges,
                Access::LOCAL_WRITE,
                offset,
                pdu.length,
                chunks,
            )
            .map_err(|_| Refusal::Owner(Outcome::LocalProtection))?;
            env.place(0, chunks)?;
        }
        self.inbound = Inbound::Send(received);
        if place.ends() {
            self.complete(env, pdu, received, ReceiveKind::Send(tail));
            env.count(Counter::RxSendRequests, 1);
        }
        Ok(())
    }

    /// A message does not fit: a request that others could have used tells so.
    fn too_long<E: Env>(&mut self, env: &mut E) {
        if env.shares_receives() {
            count_receive(env, Outcome::LocalLength, true);
            self.end_receive(env, Outcome::LocalLength);
        }
    }

    fn receive_write<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pdu: &Pdu,
        place: Place,
        target: Option<RemoteRange>,
        immediate: Option<u32>,
    ) -> Result<(), Refusal> {
        let continues = match self.inbound {
            Inbound::Write(_, received) => Some(received),
            _ => None,
        };
        let offset = self.offset(link, pdu, place, continues)?;
        let target = match (self.inbound, target) {
            (Inbound::Write(target, _), None) => target,
            (Inbound::None, Some(target)) => target,
            _ => return Err(INVALID),
        };
        if !link.access.contains(Access::REMOTE_WRITE) || target.length > MAX_LENGTH {
            return Err(INVALID);
        }
        check_target(env, &mut self.chunks, pdu, place, target, offset).map_err(|_| INVALID)?;
        if pdu.length > 0 {
            let address = target.address.wrapping_add(u64::from(offset));
            let (domain, chunks) = (env.domain(), &mut self.chunks);
            chunks.clear();
            env.translate(
                domain,
                target.rkey,
                Access::REMOTE_WRITE,
                address,
                pdu.length,
                chunks,
            )
            .map_err(|_| INVALID)?;
            env.place(0, chunks)?;
        }
        let received = offset.wrapping_add(pdu.length);
        self.inbound = Inbound::Write(target, received);
        if let Some(immediate) = immediate {
            self.take_receive(env)?;
            self.complete(env, pdu, received, ReceiveKind::Write(immediate));
        }
        if place.ends() {
            self.inbound = Inbound::None;
            env.count(Counter::RxWriteRequests, 1);
        }
        Ok(())
    }

    /// Ends the receive work request in use with data.
    fn complete<E: Env>(&mut self, env: &mut E, pdu: &Pdu, bytes: u32, kind: ReceiveKind) {
        self.inbound = Inbound::None;
        self.receive.complete(env, bytes, kind, pdu.solicited);
    }

    /// Ends the receive work request in use without data.
    pub(super) fn end_receive<E: Env>(&mut self, env: &mut E, outcome: Outcome) {
        self.inbound = Inbound::None;
        self.receive.end(env, outcome);
    }
}
