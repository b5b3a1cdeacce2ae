//! Frames that do not belong to one connection on their way out: those of raw packet queues, and
//! packets to multicast groups.
//!
//! They can have receivers on both sides, on the link and among the functions of this NIC. Either
//! all of them get the frame or, if there is no room for it on one side, none does and the sender
//! tries again. Guest memory is read once, into the link's room where there is some; what decides
//! where a frame goes is read from there, so that a guest that changes it meanwhile changes nothing.

use alloc::vec::Vec;

use super::looped::Sender;
use super::port::{FunctionPort, build};
use crate::frontend::env::OutgoingFrame;
use crate::frontend::payload::copy_payload;
use crate::host::{Memory, Wire};
use crate::pdu::Pdu;
use crate::resource::Group;
use crate::transport::{Path, Payload, Transmit};
use crate::types::Mac;
use crate::wire::frame::{Tag, fill_network_checksum, fill_transport_checksum, tag};
use crate::wire::{SHORTEST_FRAME, frame_length};

impl<W: Wire> FunctionPort<'_, W> {
    /// Sends an Ethernet frame.
    pub(super) fn transmit_raw<M: Memory>(
        &mut self,
        memory: &M,
        frame: &OutgoingFrame<'_>,
    ) -> Transmit {
        let Some(raw) = RawFrame::new(frame) else {
            return Transmit::BadMemory;
        };
        let shared = &mut *self.shared;
        let room = match shared.link_up {
            true => self.wire.reserve(raw.total),
            false => None,
        };
        let mut own = Vec::new();
        let (has_room, room) = match room.and_then(|room| room.get_mut(..raw.total)) {
            Some(room) => (true, room),
            // It may be for a neighbour, who does not need the link.
            None => {
                own = shared.looped.buffer(raw.total);
                (false, own.as_mut_slice())
            }
        };
        let Some(destination) = raw.build(memory, room) else {
            shared.looped.recycle(own);
            return Transmit::BadMemory;
        };
        let leaves = shared.addresses.switch.leaves(destination);
        let stays = stays(shared, destination, self.function);
        if leaves && shared.link_up && !has_room || stays && shared.looped.is_full() {
            shared.looped.recycle(own);
            return Transmit::NoRoom;
        }
        let copy = if stays && has_room {
            let mut copy = shared.looped.buffer(raw.total);
            copy.copy_from_slice(room);
            copy
        } else {
            own
        };
        if leaves && has_room {
            self.wire.commit(raw.total);
        }
        self.count_sent(raw.total, leaves);
        self.loop_back(copy, true, stays, leaves);
        Transmit::Sent
    }

    /// Sends a packet to a multicast group.
    pub(super) fn transmit_multicast<M: Memory>(
        &mut self,
        memory: &M,
        path: &Path,
        pdu: &Pdu,
        payload: Payload<'_>,
    ) -> Transmit {
        let group = Group {
            vlan: path.vlan,
            gid: path.destination,
        };
        let addresses = &self.shared.addresses;
        let stays = !addresses.groups.members(group).is_empty()
            || (addresses.switch).is_wanted(path.destination_mac, self.function);
        if !stays {
            let sent = self.transmit_packet(memory, path, pdu, payload);
            self.tally.multicast += u64::from(sent == Transmit::Sent);
            return sent;
        }
        if self.shared.looped.is_full() {
            return Transmit::NoRoom;
        }
        let length = frame_length(path, pdu);
        let mut copy = self.shared.looped.buffer(length);
        let identification = self.shared.identification;
        let mut sent = build(memory, path, pdu, payload, identification, &mut copy);
        if sent == Transmit::Sent && self.shared.link_up {
            sent = match self.wire.reserve(length).and_then(|r| r.get_mut(..length)) {
                Some(room) => {
                    room.copy_from_slice(&copy);
                    self.wire.commit(length);
                    Transmit::Sent
                }
                None => Transmit::NoRoom,
            };
        }
        if sent != Transmit::Sent {
            self.shared.looped.recycle(copy);
            return sent;
        }
        self.shared.identification = identification.wrapping_add(1);
        self.tally.multicast += 1;
        self.count_sent(length, true);
        self.loop_back(copy, false, true, true);
        Transmit::Sent
    }

    /// Counts a frame that was sent; one that leaves is lost if the link is down.
    fn count_sent(&mut self, length: usize, leaves: bool) {
        if leaves && !self.shared.link_up {
            self.tally.discards += 1;
        } else {
            self.tally.packets += 1;
            self.tally.data += length as u64 / 4;
        }
    }

    /// Queues a copy for functions of this NIC, if it `stays`.
    fn loop_back(&mut self, copy: Vec<u8>, raw: bool, stays: bool, leaves: bool) {
        if !stays {
            self.shared.looped.recycle(copy);
            return;
        }
        // One that left was seen then.
        if !leaves || !self.shared.link_up {
            self.wire.looped(&copy);
        }
        let function = self.function;
        self.shared.looped.push(Sender { function, raw }, copy);
    }
}

/// Whether a frame of a raw packet queue has receivers on this NIC. Members of multicast groups can
/// be among them, as the frame can be a RoCEv2 packet.
fn stays(shared: &super::port::Shared, destination: Mac, from: u16) -> bool {
    let addresses = &shared.addresses;
    let groups = destination.is_group() && !addresses.groups.is_empty();
    groups || addresses.switch.is_wanted(destination, from)
}

/// A frame of a raw packet queue.
struct RawFrame<'a> {
    frame: &'a OutgoingFrame<'a>,
    tag: Option<Tag>,
    /// Bytes of it.
    length: usize,
    /// Bytes in front of them, for the tag.
    head: usize,
    /// Bytes of the frame, with padding to the shortest one of Ethernet.
    total: usize,
}

impl<'a> RawFrame<'a> {
    fn new(frame: &'a OutgoingFrame<'a>) -> Option<Self> {
        let tag = frame.offload.vlan_tag.map(Tag::from_control);
        let head = if tag.is_some() { tag::LENGTH } else { 0 };
        let length = usize::try_from(frame.length).ok()?;
        let length = length.checked_add(frame.headers.len())?;
        let total = length.checked_add(head)?.max(SHORTEST_FRAME);
        Some(Self {
            frame,
            tag,
            length,
            head,
            total,
        })
    }

    /// Builds the frame in `room` of its length, and returns its destination address. Checksums come
    /// first: behind a second tag, the IP header would not be found.
    fn build<M: Memory>(&self, memory: &M, room: &mut [u8]) -> Option<Mac> {
        let (frame, padding) = room.split_at_mut_checked(self.head + self.length)?;
        padding.fill(0);
        let untagged = frame.get_mut(self.head..)?;
        let headers = self.frame.headers;
        let (start, rest) = untagged.split_at_mut_checked(headers.len())?;
        start.copy_from_slice(headers);
        copy_payload(memory, self.frame.payload, rest)?;
        // What has no such checksum is sent as it is.
        let offload = &self.frame.offload;
        if offload.ip_checksum {
            fill_network_checksum(untagged);
        }
        if offload.transport_checksum {
            fill_transport_checksum(untagged);
        }
        if let Some(tag) = self.tag {
            tag::insert(frame, tag).then_some(())?;
        }
        frame.first_chunk().map(|mac| Mac(*mac))
    }
}
