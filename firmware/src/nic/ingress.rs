//! Received frames that are not for one queue pair of one function: those for multicast groups, and
//! those that filters decide about.
//!
//! Filters see what is no RoCEv2 packet, and RoCEv2 packets that are not addressed to a GID of this
//! NIC, those to multicast groups included. A damaged RoCEv2 packet is counted by the function whose
//! Ethernet address it names; if that is nobody's, filters decide about it too, as about any frame
//! between strangers.

use alloc::vec::Vec;

use vrnic_abi::counter::Counter;

use super::looped::Sender;
use super::port::FunctionPort;
use super::ports::Sight;
use super::stations::PortName;
use super::switch::{Receivers, Sorting};
use super::{FunctionId, Nic, add};
use crate::frontend::address::is_multicast;
use crate::frontend::frame::{FlowHash, ReceivedFrame};
use crate::host::{Host, MirrorSide, Wire};
use crate::resource::Group;
use crate::types::{Mac, Qpn, Time};
use crate::wire::frame::{Frame, Tag, tag};
use crate::wire::{DropReason, Received};

impl<H: Host> Nic<H> {
    /// Takes a RoCEv2 packet that is not addressed to a GID of this NIC.
    pub(super) fn receive_stray<W: Wire>(
        &mut self,
        now: Time,
        frame: &[u8],
        packet: &Received<'_>,
        from: Option<Sender>,
        wire: &mut W,
    ) {
        if from.is_none() {
            let switch = &mut self.shared.addresses.switch;
            switch.learn(packet.vlan, packet.source_mac, PortName::Link);
        }
        let multicast = packet.pdu.destination == Qpn::MULTICAST
            && packet.destination_mac.is_group()
            && is_multicast(packet.destination);
        let group = multicast.then_some(Group {
            vlan: packet.vlan,
            gid: packet.destination,
        });
        let mut received = false;
        if let Some(group) = group {
            received = self.receive_multicast(now, frame, packet, group, from, wire);
        }
        received |= self.offer(now, frame, group, from, wire);
        if received || self.went_out(packet.vlan, packet.destination_mac, from) {
            return;
        }
        self.drops.not_ours += 1;
        if multicast {
            let functions = self.functions.iter_mut().flatten();
            for function in functions.filter(|function| function.is_ready()) {
                function.count(Counter::RxNoMulticastMember, 1);
            }
        } else {
            self.count_stray(Counter::RxNotForUs);
        }
    }

    /// Takes a frame that is not a sound RoCEv2 packet.
    pub(super) fn receive_other<W: Wire>(
        &mut self,
        now: Time,
        frame: &[u8],
        reason: DropReason,
        from: Option<Sender>,
        wire: &mut W,
    ) {
        if from.is_none() && self.is_forged(frame) {
            return;
        }
        let target = frame.first_chunk::<6>().map(|mac| Mac(*mac));
        let vlan = tag::split(frame).map_or(0, |(tag, _)| tag.id);
        let out = target.is_some_and(|mac| self.went_out(vlan, mac, from));
        let Some(counter) = reason.counter() else {
            if !self.offer(now, frame, None, from, wire) && !out {
                self.drops.not_roce += 1;
                self.count_stray(Counter::RxNotRoce);
            }
            return;
        };
        let owner = target.and_then(|mac| self.shared.addresses.switch.owner_in(vlan, mac));
        if let Some(owner) = owner {
            self.count_at(owner, counter, 1);
            self.count_at(owner, Counter::RxMalformed, reason.is_malformed().into());
        } else if !self.offer(now, frame, None, from, wire) && !out {
            self.drops.malformed += 1;
            self.count_stray(Counter::RxNotForUs);
        }
    }

    /// Learns the source of a frame from the link. If that is the assigned address of a function, which
    /// the link's rules do not allow, it counts that, and the frame is forged.
    fn is_forged(&mut self, frame: &[u8]) -> bool {
        let Some(parts) = Frame::parse(frame) else {
            return false;
        };
        let vlan = parts.tag.map_or(0, |tag| tag.id);
        let switch = &mut self.shared.addresses.switch;
        let owner = switch.assignee(vlan, parts.source);
        let owner = owner.filter(|_| switch.ports.uplink.check_sources);
        match owner {
            Some(owner) => self.count_at(owner, Counter::RxSpoofedSource, 1),
            None => switch.learn(vlan, parts.source, PortName::Link),
        }
        owner.is_some()
    }

    /// Hands a packet to the members of its group; returns whether there is any. A sender that is a
    /// member gets its own packets too, as from channel adapters that replicate them.
    fn receive_multicast<W: Wire>(
        &mut self,
        now: Time,
        frame: &[u8],
        packet: &Received<'_>,
        group: Group,
        from: Option<Sender>,
        wire: &mut W,
    ) -> bool {
        let mut receivers = core::mem::take(&mut self.receivers);
        let queues = &mut receivers.queues;
        queues.clear();
        let members = self.shared.addresses.groups.members(group).iter();
        let apart = from.filter(|sender| sender.raw).map(|s| s.function);
        queues.extend(members.filter(|(function, _)| Some(*function) != apart));
        let mut last = None;
        for (to, qpn) in queues.iter().copied() {
            let first = last.replace(to) != Some(to);
            if first {
                self.count_at(to, Counter::MulticastRcvPackets, 1);
                self.mirror(to, frame, wire);
            }
            let mut copy = *packet;
            copy.pdu.destination = Qpn::new(qpn);
            self.hand_over(now, to, &copy, first.then_some(frame.len()), wire);
        }
        let any = !queues.is_empty();
        self.receivers = receivers;
        any
    }

    /// Hands a frame to the queue pairs whose filters want it; returns whether there are any. The
    /// function that it is addressed to counts it otherwise. Functions with members of `group` have
    /// got it, and counted it as received, before.
    fn offer<W: Wire>(
        &mut self,
        now: Time,
        frame: &[u8],
        group: Option<Group>,
        from: Option<Sender>,
        wire: &mut W,
    ) -> bool {
        let Some(parts) = Frame::parse(frame) else {
            return false;
        };
        let flow = FlowHash::of(&parts);
        let sorting = Sorting {
            destination: parts.destination,
            vlan: parts.tag.map_or(0, |tag| tag.id),
            inner_vlan: tag::second(frame).map_or(0, |tag| tag.id),
            hash: flow.value,
        };
        let from = from.map(|sender| sender.function);
        let mut receivers = core::mem::take(&mut self.receivers);
        let switch = &self.shared.addresses.switch;
        switch.receivers(sorting, from, &mut receivers);
        for barred in &receivers.barred {
            self.count_at(*barred, Counter::RxNotAllowed, 1);
        }
        let any = !receivers.queues.is_empty();
        if any {
            let received = ReceivedFrame::new(frame, &parts, flow);
            self.hand_out(now, &received, &receivers, group, wire);
        } else if receivers.barred.is_empty() {
            let owner = self.shared.addresses.switch.owner(parts.destination);
            if let Some(owner) = owner.filter(|owner| from != Some(*owner)) {
                self.count_at(owner, Counter::RxFrameNoFilter, 1);
            }
        }
        self.receivers = receivers;
        any
    }

    /// Hands a frame to queue pairs, as the function of each sees it.
    fn hand_out<W: Wire>(
        &mut self,
        now: Time,
        frame: &ReceivedFrame<'_>,
        receivers: &Receivers,
        group: Option<Group>,
        wire: &mut W,
    ) {
        let queues = &receivers.queues;
        let access = queues.iter().any(|(to, _)| self.sees_untagged(*to));
        let bytes = if access {
            self.without_tag(frame.bytes())
        } else {
            Vec::new()
        };
        let untagged = ReceivedFrame::parse(&bytes);
        let outside = frame.bytes();
        let mut last = None;
        for (to, qpn) in queues.iter().copied() {
            let frame = match &untagged {
                Some(untagged) if self.sees_untagged(to) => untagged,
                _ => frame,
            };
            let length = frame.bytes().len();
            let first = last.replace(to) != Some(to);
            if !self.takes(to, length) {
                self.count_at(to, Counter::RxFrameTooLong, first.into());
                continue;
            }
            let groups = &self.shared.addresses.groups;
            let counted = group.is_some_and(|group| groups.has_member_of(group, to));
            if first && !counted {
                self.count_at(to, Counter::PortRcvPackets, 1);
                self.count_at(to, Counter::PortRcvData, length as u64 / 4);
                self.mirror(to, outside, wire);
            }
            self.hand_over_frame(now, (to, qpn), frame, wire);
        }
        self.shared.looped.recycle(bytes);
    }

    /// Shows a frame that a function gets, if it is mirrored.
    pub(super) fn mirror<W: Wire>(&self, to: u16, frame: &[u8], wire: &mut W) {
        if self.shared.addresses.switch.ports.is_mirrored(to) {
            wire.mirrored(FunctionId(to), MirrorSide::Received, frame);
        }
    }

    /// Whether a function's port takes the tag out of what goes to it.
    fn sees_untagged(&self, to: u16) -> bool {
        self.shared.addresses.switch.ports.sight(to) == Sight::Untagged
    }

    /// A copy of a frame without its tag, in a buffer of the queue between functions.
    fn without_tag(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut copy = self.shared.looped.buffer(0);
        let (_, pieces) = tag::split(frame).unwrap_or((Tag::default(), [frame, &[]]));
        for piece in pieces {
            copy.extend_from_slice(piece);
        }
        copy
    }

    /// Whether frames of `length` bytes fit into the MTU of a function, so that they go to its raw
    /// packet queues.
    fn takes(&self, to: u16, length: usize) -> bool {
        let function = self.functions.get(usize::from(to));
        let function = function.and_then(Option::as_ref);
        function.is_some_and(|function| length <= function.longest_frame())
    }

    fn hand_over_frame<W: Wire>(
        &mut self,
        now: Time,
        (to, qpn): (u16, u32),
        frame: &ReceivedFrame<'_>,
        wire: &mut W,
    ) {
        let index = usize::from(to);
        let host = self.hosts.get(index).and_then(Option::as_ref);
        let function = self.functions.get_mut(index).and_then(Option::as_mut);
        let (Some(host), Some(function)) = (host, function) else {
            return;
        };
        if !function.is_ready() {
            return;
        }
        let mut port = FunctionPort::new(&mut self.shared, wire, to);
        function.receive_frame(host, now, &mut port, qpn, frame);
        let tally = port.tally;
        add(function, tally);
    }

    /// Whether a function sent a frame out on the link too, so that it is not lost if no other one
    /// takes it.
    fn went_out(&self, vlan: u16, destination: Mac, from: Option<Sender>) -> bool {
        from.is_some() && self.shared.addresses.switch.leaves(vlan, destination)
    }

    /// Counts a frame that reaches no function, at the physical function.
    fn count_stray(&mut self, counter: Counter) {
        let mut functions = self.functions.iter_mut().flatten();
        if let Some(function) = functions.find(|function| function.identity.number == 0) {
            function.count(counter, 1);
        }
    }

    pub(super) fn count_at(&mut self, function: u16, counter: Counter, n: u64) {
        if let Some(Some(function)) = self.functions.get_mut(usize::from(function)) {
            function.count(counter, n);
        }
    }
}
