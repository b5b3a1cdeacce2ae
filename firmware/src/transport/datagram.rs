//! The receiving half of queue pairs without a connection: datagrams (IBTA volume 1, 9.8.3) and raw
//! Ethernet frames.
//!
//! Each message is one packet and takes one receive work request, which begins, for datagrams, with
//! the 40 bytes of the route header. What cannot be received is dropped and counted, and the work
//! request waits for the next message; only the owner's own mistakes break the queue pair.

use vrnic_abi::counter::Counter;

use super::failure::count_receive;
use super::gather::{gather, total};
use super::modify::Attributes;
use super::{
    Broken, Env, NoReceive, QpEvent, ReceiveCompletion, ReceiveKind, ReceiveWork, TransferError,
};
use crate::pdu::{Body, Pdu, Place, Service};
use crate::types::{Access, Chunks, Outcome};

/// Length of the route header.
const ROUTE_HEADER: u32 = 40;

/// State of the receiving half.
#[derive(Clone, Debug, Default)]
pub(super) struct Datagrams {
    /// The receive work request in use.
    receive: Option<ReceiveWork>,
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
        let work = match self.receive.take() {
            Some(work) => work,
            None => match env.next_receive(None) {
                Ok(work) => work,
                Err(NoReceive::Failed) => {
                    env.event(QpEvent::Fatal);
                    return Err(Broken);
                }
                Err(NoReceive::Empty | NoReceive::NoQueue) => {
                    env.count(inbound.no_receive, 1);
                    return Ok(());
                }
            },
        };
        if let Some(outcome) = work.invalid {
            return Err(fail(env, &work, outcome));
        }
        let header = if inbound.header.is_some() {
            ROUTE_HEADER
        } else {
            0
        };
        let bytes = header.saturating_add(inbound.length);
        if u64::from(bytes) > total(&work.sges) {
            env.count(inbound.too_long, 1);
            self.too_long(env, work);
            return Ok(());
        }
        match self.place(env, &work, inbound, header) {
            Ok(()) => {
                env.count(counter, 1);
                env.complete_receive(ReceiveCompletion {
                    cookie: work.cookie,
                    outcome: Outcome::Success,
                    bytes,
                    kind: inbound.kind,
                    solicited: inbound.solicited,
                });
                Ok(())
            }
            Err(TransferError::Local) => Err(fail(env, &work, Outcome::LocalProtection)),
            // The sender's memory has gone: the datagram never was.
            Err(TransferError::Sender) => {
                self.receive = Some(work);
                Ok(())
            }
        }
    }

    /// Places header and data.
    fn place<E: Env>(
        &mut self,
        env: &mut E,
        work: &ReceiveWork,
        inbound: &Inbound,
        header: u32,
    ) -> Result<(), TransferError> {
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
    fn too_long<E: Env>(&mut self, env: &mut E, work: ReceiveWork) {
        if env.shares_receives() {
            count_receive(env, Outcome::LocalLength, true);
            env.complete_receive(ReceiveCompletion::without_data(
                work.cookie,
                Outcome::LocalLength,
            ));
        } else {
            self.receive = Some(work);
        }
    }

    /// Ends the receive work request in use without data.
    pub(super) fn end_receive<E: Env>(&mut self, env: &mut E, outcome: Outcome) {
        if let Some(work) = self.receive.take() {
            env.complete_receive(ReceiveCompletion::without_data(work.cookie, outcome));
        }
    }
}

/// The owner's buffers are at fault.
fn fail<E: Env>(env: &mut E, work: &ReceiveWork, outcome: Outcome) -> Broken {
    count_receive(env, outcome, true);
    env.complete_receive(ReceiveCompletion::without_data(work.cookie, outcome));
    Broken
}
