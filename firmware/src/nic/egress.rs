//! Frames that do not belong to one connection on their way out: those of raw packet queues, and
//! packets to multicast groups.
//!
//! They can have receivers on both sides, on the link and among the functions of this NIC. Either
//! all of them get the frame or, if there is no room for it on one side, none does and the sender
//! tries again. Guest memory is read once, into the link's room where there is some; what decides
//! where a frame goes is read from there, so that a guest that changes it meanwhile changes nothing.

use alloc::vec::Vec;

use super::FunctionId;
use super::admission::Admitted;
use super::looped::Sender;
use super::port::{FunctionPort, Shared, build, reserve};
use super::stations::PortName;
use crate::frontend::env::OutgoingFrame;
use crate::frontend::payload::copy_payload;
use crate::host::{Memory, MirrorSide, Wire};
use crate::pdu::Pdu;
use crate::resource::Group;
use crate::transport::{Path, Payload, Transmit};
use crate::wire::frame::{Tag, fill_network_checksum, fill_transport_checksum, tag};
use crate::wire::{SHORTEST_FRAME, frame_length};

impl<W: Wire> FunctionPort<'_, W> {
    /// Sends an Ethernet frame, if the sender's policy lets it.
    pub(super) fn transmit_raw<M: Memory>(
        &mut self,
        memory: &M,
        frame: &OutgoingFrame<'_>,
    ) -> Transmit {
        let shared = &mut *self.shared;
        let port = shared.addresses.switch.ports.get(self.function);
        let Some(port) = port.filter(|port| !port.is_shut()) else {
            self.tally.forbid(None, 1);
            return Transmit::Sent;
        };
        let Some(raw) = RawFrame::new(frame, port.tag()) else {
            return Transmit::BadMemory;
        };
        let room = match shared.link_up && !shared.closed {
            true => self.wire.reserve(raw.total),
            false => None,
        };
        let room = room.and_then(|room| room.get_mut(..raw.total));
        let mut own = Vec::new();
        let (has_room, room) = match room {
            Some(room) => (true, room),
            // It may be for a neighbour, who does not need the link.
            None => {
                own = shared.looped.buffer(raw.total);
                (false, own.as_mut_slice())
            }
        };
        let built = raw.build(memory, room, |bytes| {
            shared.addresses.admit(self.function, bytes)
        });
        let admitted = match built {
            Some(Ok(admitted)) => admitted,
            failed => {
                shared.looped.recycle(own);
                let Some(Err(breach)) = failed else {
                    return Transmit::BadMemory;
                };
                self.tally.forbid(Some(breach), 1);
                return Transmit::Sent;
            }
        };
        let (leaves, stays) = ways(shared, &admitted, self.function);
        let lacks_link = leaves && shared.link_up && !has_room;
        if lacks_link || stays && shared.looped.is_full() {
            // There is none for those behind it either.
            shared.closed |= lacks_link;
            shared.looped.recycle(own);
            return Transmit::NoRoom;
        }
        let mirrored = shared.addresses.switch.ports.is_mirrored(self.function);
        let copy = if (stays || mirrored) && has_room {
            let mut copy = shared.looped.buffer(raw.total);
            copy.copy_from_slice(room);
            copy
        } else {
            own
        };
        if leaves && has_room {
            self.wire.commit(raw.total);
        }
        let function = FunctionId(self.function);
        if mirrored {
            self.wire.mirrored(function, MirrorSide::Sent, &copy);
        }
        let switch = &mut shared.addresses.switch;
        let port = PortName::Function(function);
        switch.learn(admitted.vlan, admitted.source, port);
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
            || (addresses.switch).is_wanted(path.vlan, path.destination_mac, self.function);
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
            sent = match reserve(&mut self.shared.closed, self.wire, length) {
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

/// Whether a frame of a raw packet queue goes out on the link, and whether it has receivers on this
/// NIC. Members of multicast groups can be among them, as the frame can be a RoCEv2 packet.
fn ways(shared: &Shared, frame: &Admitted, from: u16) -> (bool, bool) {
    let addresses = &shared.addresses;
    let (vlan, destination) = (frame.vlan, frame.destination);
    let leaves = addresses.switch.leaves(vlan, destination);
    let groups = destination.is_group() && !addresses.groups.is_empty();
    let stays = groups || addresses.switch.is_wanted(vlan, destination, from);
    (leaves, stays)
}

/// A frame of a raw packet queue.
struct RawFrame<'a> {
    frame: &'a OutgoingFrame<'a>,
    /// The tag that the sender asks for.
    tag: Option<Tag>,
    /// The tag of its port.
    port_tag: Option<Tag>,
    /// Bytes of it.
    length: usize,
    /// Bytes in front of them, for the tag that the sender asks for.
    head: usize,
    /// Bytes in front of these, for that of its port.
    port_head: usize,
    /// Bytes of the frame, with padding to the shortest one of Ethernet.
    total: usize,
}

impl<'a> RawFrame<'a> {
    fn new(frame: &'a OutgoingFrame<'a>, port_tag: Option<Tag>) -> Option<Self> {
        let tag = frame.offload.vlan_tag.map(Tag::from_control);
        let room = |tag: Option<Tag>| if tag.is_some() { tag::LENGTH } else { 0 };
        let (head, port_head) = (room(tag), room(port_tag));
        let length = usize::try_from(frame.length).ok()?;
        let length = length.checked_add(frame.headers.len())?;
        // What the receiver gets when the port's tag is out again is no shorter either.
        let total = length.checked_add(head)?.max(SHORTEST_FRAME);
        Some(Self {
            frame,
            tag,
            port_tag,
            length,
            head,
            port_head,
            total: total.checked_add(port_head)?,
        })
    }

    /// Builds the frame in `room` of its length, and returns what `admit` says of it as its sender
    /// sees it; without the port's tag if that is an error. `None` if memory cannot be read.
    fn build<M: Memory, T, E>(
        &self,
        memory: &M,
        room: &mut [u8],
        admit: impl FnOnce(&[u8]) -> Result<T, E>,
    ) -> Option<Result<T, E>> {
        let frame = room.get_mut(self.port_head..)?;
        self.build_untagged(memory, frame)?;
        let admitted = admit(frame);
        if let (Ok(_), Some(tag)) = (&admitted, self.port_tag) {
            tag::insert(room, tag).then_some(())?;
        }
        Some(admitted)
    }

    /// Builds the frame as its sender wants it. Checksums come first: behind a second tag, the IP
    /// header would not be found.
    fn build_untagged<M: Memory>(&self, memory: &M, room: &mut [u8]) -> Option<()> {
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
        Some(())
    }
}
