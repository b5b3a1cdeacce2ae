//! The port's transmit side: to another function of this NIC, or out on the wire.

use core::cell::Cell;

use super::address::Addresses;
use super::local::LocalQueue;
use super::looped::{LoopedQueue, Sender};
use crate::frontend::env::{OutgoingFrame, Port};
use crate::frontend::payload::copy_payload;
use crate::host::{Memory, Wire};
use crate::pdu::Pdu;
use crate::transport::{Path, Payload, Transmit};
use crate::types::{Gid, Mac};
use crate::wire::{emit_headers, frame_length};

/// Most packets that one PDU between two functions stands for.
const BURST: u32 = 64;

/// What all functions share.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    pub(super) addresses: Addresses,
    pub(super) local: LocalQueue,
    /// Frames between functions.
    pub(super) looped: LoopedQueue,
    /// PDUs between functions move without frames.
    pub(super) direct: bool,
    pub(super) link_up: bool,
    /// Next IPv4 identification.
    pub(super) identification: u16,
}

/// What was sent in one call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) packets: u64,
    /// Octets, divided by 4.
    pub(super) data: u64,
    pub(super) local_bytes: u64,
    /// Frames that were lost because the link was down.
    pub(super) discards: u64,
    /// Packets to multicast groups.
    pub(super) multicast: u64,
}

/// The port as one function sees it during a call.
pub(super) struct FunctionPort<'a, W> {
    pub(super) shared: &'a mut Shared,
    pub(super) wire: &'a mut W,
    pub(super) function: u16,
    /// Queue pair of the function.
    pub(super) sender: u32,
    pub(super) tally: Tally,
    /// The last path looked up and the function at its end.
    route: Cell<Option<Route>>,
}

#[derive(Clone, Copy)]
struct Route {
    vlan: u16,
    gid: Gid,
    mac: Mac,
    to: Option<u16>,
}

impl<'a, W> FunctionPort<'a, W> {
    pub(super) fn new(shared: &'a mut Shared, wire: &'a mut W, function: u16) -> Self {
        Self {
            shared,
            wire,
            function,
            sender: 0,
            tally: Tally::default(),
            route: Cell::new(None),
        }
    }

    /// The function of this NIC at the end of a path.
    fn neighbour(&self, path: &Path) -> Option<u16> {
        let (vlan, gid, mac) = (path.vlan, path.destination, path.destination_mac);
        if let Some(route) = self.route.get() {
            if route.gid == gid && route.mac == mac && route.vlan == vlan {
                return route.to;
            }
        }
        let to = self.shared.addresses.owner(vlan, gid, mac);
        let route = Route { vlan, gid, mac, to };
        self.route.set(Some(route));
        to
    }
}

impl<M: Memory, W: Wire> Port<M> for FunctionPort<'_, W> {
    fn transmit(&mut self, memory: &M, path: &Path, pdu: &Pdu, payload: Payload<'_>) -> Transmit {
        match self.neighbour(path) {
            Some(to) if self.shared.direct => {
                let ends = (self.function, self.sender, to);
                if !self.shared.local.push(ends, path, pdu, payload) {
                    return Transmit::NoRoom;
                }
                self.tally.local_bytes += u64::from(pdu.length);
                Transmit::Sent
            }
            Some(_) => self.transmit_looped(memory, path, pdu, payload),
            None if path.destination_mac.is_group() => {
                self.transmit_multicast(memory, path, pdu, payload)
            }
            None => self.transmit_packet(memory, path, pdu, payload),
        }
    }

    fn transmit_frame(&mut self, memory: &M, frame: &OutgoingFrame<'_>) -> Transmit {
        self.transmit_raw(memory, frame)
    }

    fn burst(&self, path: &Path) -> u32 {
        if self.shared.direct && self.neighbour(path).is_some() {
            BURST
        } else {
            1
        }
    }

    fn set_sender(&mut self, qpn: u32) {
        self.sender = qpn;
    }
}

impl<W: Wire> FunctionPort<'_, W> {
    /// Sends a packet on the link.
    pub(super) fn transmit_packet<M: Memory>(
        &mut self,
        memory: &M,
        path: &Path,
        pdu: &Pdu,
        payload: Payload<'_>,
    ) -> Transmit {
        if !self.shared.link_up {
            self.tally.discards += 1;
            return Transmit::Sent;
        }
        let length = frame_length(path, pdu);
        let Some(frame) = self.wire.reserve(length).and_then(|f| f.get_mut(..length)) else {
            return Transmit::NoRoom;
        };
        let identification = self.shared.identification;
        let built = build(memory, path, pdu, payload, identification, frame);
        if built == Transmit::Sent {
            self.shared.identification = identification.wrapping_add(1);
            self.tally.packets += 1;
            self.tally.data += length as u64 / 4;
            self.wire.commit(length);
        }
        built
    }

    /// Sends a frame that does not leave the NIC.
    fn transmit_looped<M: Memory>(
        &mut self,
        memory: &M,
        path: &Path,
        pdu: &Pdu,
        payload: Payload<'_>,
    ) -> Transmit {
        if self.shared.looped.is_full() {
            return Transmit::NoRoom;
        }
        let length = frame_length(path, pdu);
        let mut frame = self.shared.looped.buffer(length);
        let identification = self.shared.identification;
        let built = build(memory, path, pdu, payload, identification, &mut frame);
        if built == Transmit::Sent {
            self.shared.identification = identification.wrapping_add(1);
            self.tally.packets += 1;
            self.tally.data += length as u64 / 4;
            self.wire.looped(&frame);
            let function = self.function;
            let from = Sender {
                function,
                raw: false,
            };
            self.shared.looped.push(from, frame);
        } else {
            self.shared.looped.recycle(frame);
        }
        built
    }
}

/// Builds a frame, the payload copied straight to its place.
pub(super) fn build<M: Memory>(
    memory: &M,
    path: &Path,
    pdu: &Pdu,
    payload: Payload<'_>,
    identification: u16,
    frame: &mut [u8],
) -> Transmit {
    // Paths are checked when they are set, and lengths follow from the PDU: what cannot be encoded
    // does not occur, and would be a packet lost.
    let Ok(headers) = emit_headers(path, pdu, identification, frame) else {
        return Transmit::BadMemory;
    };
    let Some(room) = frame.get_mut(headers.payload()) else {
        return Transmit::BadMemory;
    };
    if copy_payload(memory, payload, room).is_none() || headers.finish(frame).is_err() {
        return Transmit::BadMemory;
    }
    Transmit::Sent
}
