//! The receiving half of queue pairs without a connection: datagrams (IBTA volume 1, 9.8.3) and raw
//! Ethernet frames.
//!
//! Each message is one packet and takes one receive work request, which begins, for datagrams, with
//! the 40 bytes of the route header. What cannot be received is dropped and counted, and the work
//! request waits for the next message; only the owner's own mistakes break the queue pair.

use vrnic_abi::counter::Counter;

use super::failure::count_receive;
use super::gather::gather;
use super::in_use::{InUse, Unready};
use super::modify::Attributes;
use super::{Broken, Env, NoReceive, QpEvent, ReceiveKind, TransferError};
use crate::pdu::{Body, Pdu, Place, Service};
use crate::types::{Access, Chunks, Outcome};

/// Length of the route header.
const ROUTE_HEADER: u32 = 40;

/// State of the receiving half.
#[derive(Clone, Debug, Default)]
pub(super) struct Datagrams {
    /// The receive work request in use.
    receive: InUse,
    chunks: Chunks,
}

/// A message, as far as the receive work request is concerned.
struct Inbound {
    /// Bytes before the data.
    header: Option<[u8; ROUTE_HEADER as usize]>,
    /// Bytes of data.
    length: u32,
    kind: ReceiveKind,
    solicited: bool,
    /// Counts it if there is no receive work request, or too short a one.
    no_receive: Counter,
    too_long: Counter,
}

impl Datagrams {
    /// Handles a datagram.
    pub(super) fn receive<E: Env>(
        &mut self,
        env: &mut E,
        link: &Attributes,
        pdu: &Pdu,
    ) -> Result<(), Broken> {
        let (Service::Datagram { qkey, source }, Body::Send { place, tail }) =
            (pdu.service, pdu.body)
        else {
            env.count(Counter::RxWrongService, 1);
            return Ok(());
        };
        // One packet is at most what the port's MTU allows, whatever room there is (9.8.3).
        let fits = pdu.length <= env.port_mtu().bytes();
        if place != Place::Only || pdu.packets != 1 || !fits {
            env.count(Counter::RxUnreliableInvalid, 1);
            return Ok(());
        }
        if qkey != link.qkey {
            env.count(Counter::QkeyViolations, 1);
            return Ok(());
        }
        let inbound = Inbound {
            header: Some(env.route_header()),
            length: pdu.length,
            kind: ReceiveKind::Datagram { tail, source },
            solicited: pdu.solicited,
            no_receive: Counter::RxUnreliableNoReceive,
            too_long: Counter::RxUnreliableTooLong,
        };
        self.take(env, &inbound, Counter::RxDatagrams)
    }

    /// Handles a frame of `length` bytes.
    pub(super) fn receive_frame<E: Env>(&mut self, env: &mut E, length: u32) -> Result<(), Broken> {
        let inbound = Inbound {
            header: None,
            length,
            kind: ReceiveKind::Frame,
            solicited: false,
            no_receive: Counter::RxFrameNoReceive,
            too_long: Counter::RxFrameNoReceive,
        };
        self.take(env, &inbound, Counter::RxFrames)
    }

    fn take<E: Env>(
        &mut self,
        env: &mut E,
        inbound: &Inbound,
        counter: Counter,
    ) -> Result<(), Broken> {
        let room = match self.receive.hold(env, None) {
            Ok(room) => room,
            Err(Unready::None(NoReceive::Failed)) => {
                env.event(QpEvent::Fatal);
                return Err(Broken);
            }
            Err(Unready::None(NoReceive::Empty | NoReceive::NoQueue)) => {
                env.count(inbound.no_receive, 1);
                return Ok(());
            }
            Err(Unready::Invalid(outcome)) => return Err(self.fail(env, outcome)),
        };
        let header = if inbound.header.is_some() {
            ROUTE_HEADER
        } else {
            0
        };
        let bytes = header.saturating_add(inbound.length);
        if u64::from(bytes) > room {
            env.count(inbound.too_long, 1);
            self.too_long(env);
            return Ok(());
        }
        match self.place(env, inbound, header) {
            Ok(()) => {
                env.count(counter, 1);
                let (kind, solicited) = (inbound.kind, inbound.solicited);
                self.receive.complete(env, bytes, kind, solicited);
                Ok(())
            }
            Err(TransferError::Local) => Err(self.fail(env, Outcome::LocalProtection)),
            // The sender's memory has gone: the datagram never was.
            Err(TransferError::Sender) => Ok(()),
        }
    }

    /// Places header and data.
    fn place<E: Env>(
        &mut self,
        env: &mut E,
        inbound: &Inbound,
        header: u32,
    ) -> Result<(), TransferError> {
        let Some(work) = self.receive.work() else {
            return Err(TransferError::Sender);
        };
        let (domain, sges, chunks) = (work.domain, &work.sges, &mut self.chunks);
        let access = Access::LOCAL_WRITE;
        if let Some(bytes) = &inbound.header {
            gather(env, domain, sges, access, 0, header, chunks)
                .map_err(|_| TransferError::Local)?;
            env.store(bytes, chunks)?;
        }
        if inbound.length > 0 {
            gather(env, domain, sges, access, header, inbound.length, chunks)
                .map_err(|_| TransferError::Local)?;
            env.place(0, chunks)?;
        }
        Ok(())
    }

    /// A message does not fit: a request that others could have used tells so, one's own waits for
    /// the next message.
    fn too_long<E: Env>(&mut self, env: &mut E) {
        if env.shares_receives() {
            count_receive(env, Outcome::LocalLength, true);
            self.receive.end(env, Outcome::LocalLength);
        }
    }

    /// Ends the receive work request in use without data.
    pub(super) fn end_receive<E: Env>(&mut self, env: &mut E, outcome: Outcome) {
        self.receive.end(env, outcome);
    }

    /// The owner's buffers are at fault.
    fn fail<E: Env>(&mut self, env: &mut E, outcome: Outcome) -> Broken {
        count_receive(env, outcome, true);
        self.receive.end(env, outcome);
        Broken
    }
}
