//! The port's transmit side: to another function of this NIC, or out on the wire.

use core::cell::Cell;

use super::FunctionId;
use super::address::{Addresses, Breach};
use super::grain::Grain;
use super::local::LocalQueue;
use super::looped::{LoopedQueue, Sender};
use super::meter::Allowance;
use super::route::{PathKey, Route, Routes, Way};
use crate::frontend::env::{OutgoingFrame, Port};
use crate::frontend::payload::copy_payload;
use crate::host::{Memory, MirrorSide, Wire};
use crate::pdu::{Body, Pdu};
use crate::transport::{Path, Payload, Transmit};
use crate::types::Mtu;
use crate::wire::frame::tag;
use crate::wire::{SHORTEST_FRAME, burst_length, emit_headers, frame_length};

/// Most packets that one PDU between two functions stands for.
const BURST: u32 = 64;
/// What a PDU costs the engine besides its bytes: as much as so many bytes.
const PDU: u64 = 448;
/// Bytes of headers of a packet, roughly, for what need not be exact.
const HEADERS: u64 = 64;

/// What all functions share.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    pub(super) addresses: Addresses,
    pub(super) routes: Routes,
    pub(super) local: LocalQueue,
    /// Frames between functions.
    pub(super) looped: LoopedQueue,
    /// PDUs between functions move without frames.
    pub(super) direct: bool,
    pub(super) link_up: bool,
    /// Nobody gets room on the link until the next step: it is full, or others wait for it.
    pub(super) closed: bool,
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
    /// Packets and frames that a policy did not let out, by the number of the [`Breach`].
    pub(super) forged: [u64; 3],
    /// Octets of all frames, also of those that PDUs on the direct path would have been, if the
    /// function's rate is limited.
    pub(super) metered: u64,
    /// The same for all functions, but not to the byte.
    pub(super) bytes: u64,
    /// PDUs and frames.
    pub(super) pdus: u64,
    /// The function of this NIC, if any, whose doing it is: the sender, or who reads from it.
    pub(super) initiator: Option<u16>,
}

impl Tally {
    /// What the engine has done for it, as the number of bytes that it copies in that time.
    pub(super) const fn cost(&self) -> u64 {
        self.bytes + self.pdus * PDU
    }

    /// Counts packets that were not let out, or, without a breach, are lost in a port that is shut.
    pub(super) fn forbid(&mut self, breach: Option<Breach>, packets: u32) {
        let count = match breach {
            Some(breach) => self.forged.get_mut(breach as usize),
            None => Some(&mut self.discards),
        };
        if let Some(count) = count {
            *count += u64::from(packets);
        }
    }
}

/// The port as one function sees it during a call.
pub(super) struct FunctionPort<'a, W> {
    pub(super) shared: &'a mut Shared,
    pub(super) wire: &'a mut W,
    pub(super) function: u16,
    /// Queue pair of the function.
    pub(super) sender: u32,
    pub(super) tally: Tally,
    /// Bytes that may be sent, if that is limited.
    allowance: Option<u64>,
    /// Bytes of data that a PDU on the direct path may have.
    longest: u32,
    /// Cost after which the turn is over.
    turn: u64,
    /// The last path looked up, and where it leads.
    last: Cell<Option<(PathKey, Route)>>,
}

impl<'a, W> FunctionPort<'a, W> {
    pub(super) fn new(shared: &'a mut Shared, wire: &'a mut W, function: u16) -> Self {
        Self {
            shared,
            wire,
            function,
            sender: 0,
            tally: Tally::default(),
            allowance: None,
            longest: Grain::COARSE.longest,
            turn: Grain::COARSE.turn,
            last: Cell::new(None),
        }
    }

    /// The same for a turn of this grain.
    pub(super) const fn grained(mut self, grain: Grain) -> Self {
        (self.longest, self.turn) = (grain.longest, grain.turn);
        self
    }

    /// The same for a function that may send `allowance` bytes.
    pub(super) fn metered(mut self, allowance: Option<Allowance>) -> Self {
        if let Some(allowance) = allowance {
            self.allowance = Some(allowance.bytes);
            self.longest = self.longest.min(allowance.longest);
        }
        self
    }

    /// Whether all that may be sent in this call was.
    #[inline]
    fn is_exhausted(&self) -> bool {
        let allowance = self.allowance;
        allowance.is_some_and(|allowance| self.tally.metered >= allowance)
    }

    /// Whether PDUs to where a path leads move without frames.
    #[inline]
    fn is_direct(&self, route: &Route) -> bool {
        self.shared.direct && matches!(route.way, Way::Function(_))
    }

    /// The function whose doing a PDU is. An acknowledgement is nobody's: every sender's peer has some.
    #[inline]
    const fn initiator(&self, route: &Route, body: &Body) -> Option<u16> {
        match (body, route.way) {
            (Body::ReadResponse { .. }, Way::Function(to)) => Some(to),
            (Body::AtomicResponse { .. } | Body::Acknowledge(_) | Body::Congestion, _) => None,
            _ => Some(self.function),
        }
    }

    /// Where a path leads. No rule changes while this port is there.
    #[inline]
    fn route(&self, path: &Path) -> Route {
        let key = PathKey::new(self.function, path);
        match self.last.get() {
            Some((last, route)) if last == key => route,
            _ => {
                let route = (self.shared.routes).find(&self.shared.addresses, key, path);
                self.last.set(Some((key, route)));
                route
            }
        }
    }
}

impl<M: Memory, W: Wire> Port<M> for FunctionPort<'_, W> {
    fn transmit(&mut self, memory: &M, path: &Path, pdu: &Pdu, payload: Payload<'_>) -> Transmit {
        if self.is_exhausted() {
            return Transmit::NoRoom;
        }
        let route = self.route(path);
        let sent = if route.is_mirrored() {
            self.transmit_mirrored(memory, &route, path, pdu, payload)
        } else {
            self.transmit_along(memory, &route, path, pdu, payload)
        };
        if sent == Transmit::Sent {
            self.tally.pdus += 1;
            self.tally.bytes += u64::from(pdu.length) + u64::from(pdu.packets) * HEADERS;
            self.tally.initiator = self.initiator(&route, &pdu.body).or(self.tally.initiator);
            if self.allowance.is_some() {
                self.tally.metered += burst_length(path, pdu) as u64;
            }
        }
        sent
    }

    fn transmit_frame(&mut self, memory: &M, frame: &OutgoingFrame<'_>) -> Transmit {
        if self.is_exhausted() {
            return Transmit::NoRoom;
        }
        let sent = self.transmit_raw(memory, frame);
        if sent == Transmit::Sent {
            let tag = frame.offload.vlan_tag.map_or(0, |_| tag::LENGTH);
            let length = frame.length as usize + frame.headers.len() + tag;
            let length = length.max(SHORTEST_FRAME) as u64;
            self.tally.pdus += 1;
            self.tally.bytes += length;
            self.tally.metered += length;
            self.tally.initiator = Some(self.function);
        }
        sent
    }

    fn burst(&self, path: &Path, mtu: Mtu) -> u32 {
        let route = self.route(path);
        // What is shown is packets.
        if self.is_direct(&route) && !route.is_mirrored() {
            let packets = self.longest >> mtu.bytes().trailing_zeros();
            packets.clamp(1, BURST)
        } else {
            1
        }
    }

    fn is_turn_over(&self) -> bool {
        self.tally.cost() >= self.turn
    }

    fn lacks_room(&self) -> bool {
        !self.is_exhausted()
    }

    fn defers(&self, path: &Path) -> bool {
        self.is_direct(&self.route(path))
    }

    fn set_sender(&mut self, qpn: u32) {
        self.sender = qpn;
    }
}

impl<W: Wire> FunctionPort<'_, W> {
    /// Sends a PDU where its path leads.
    #[inline]
    fn transmit_along<M: Memory>(
        &mut self,
        memory: &M,
        route: &Route,
        path: &Path,
        pdu: &Pdu,
        payload: Payload<'_>,
    ) -> Transmit {
        if let (Way::Function(to), true) = (route.way, self.shared.direct) {
            let ends = (self.function, self.sender, to);
            let vlan = route.vlan_there;
            if !self.shared.local.push(ends, path, vlan, pdu, payload) {
                return Transmit::NoRoom;
            }
            self.tally.local_bytes += u64::from(pdu.length);
            return Transmit::Sent;
        }
        let tagged;
        let path = if route.tag.is_some() {
            tagged = route.outward(path);
            &tagged
        } else {
            path
        };
        match route.way {
            Way::Function(_) => self.transmit_looped(memory, path, pdu, payload),
            Way::Group => self.transmit_multicast(memory, path, pdu, payload),
            Way::Link => self.transmit_packet(memory, path, pdu, payload),
            Way::Nowhere(breach) => {
                self.tally.forbid(breach, pdu.packets);
                Transmit::Sent
            }
        }
    }

    /// Sends a PDU whose sender or receiver is mirrored. What is shown was read from guest memory on its
    /// own, so a guest that changes it meanwhile changes what it shows of itself.
    #[cold]
    fn transmit_mirrored<M: Memory>(
        &mut self,
        memory: &M,
        route: &Route,
        path: &Path,
        pdu: &Pdu,
        payload: Payload<'_>,
    ) -> Transmit {
        let outward = route.outward(path);
        let mut copy = self.shared.looped.buffer(frame_length(&outward, pdu));
        let identification = self.shared.identification;
        let built = build(memory, &outward, pdu, payload, identification, &mut copy);
        let sent = self.transmit_along(memory, route, path, pdu, payload);
        if (built, sent) == (Transmit::Sent, Transmit::Sent) {
            if route.mirrored_here {
                let here = FunctionId(self.function);
                self.wire.mirrored(here, MirrorSide::Sent, &copy);
            }
            // A frame is shown when it arrives.
            if let (Way::Function(to), true, true) =
                (route.way, self.shared.direct, route.mirrored_there)
            {
                let there = FunctionId(to);
                self.wire.mirrored(there, MirrorSide::Received, &copy);
            }
        }
        self.shared.looped.recycle(copy);
        sent
    }

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
        let Some(frame) = reserve(&mut self.shared.closed, self.wire, length) else {
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

/// Room for a frame on the link. Once there is none for somebody, there is none for those behind him
/// either.
pub(super) fn reserve<'a, W: Wire>(
    closed: &mut bool,
    wire: &'a mut W,
    length: usize,
) -> Option<&'a mut [u8]> {
    if *closed {
        return None;
    }
    let room = wire.reserve(length).and_then(|room| room.get_mut(..length));
    *closed = room.is_none();
    room
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
