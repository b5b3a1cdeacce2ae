//! A received Ethernet frame, on its way into the queue of a raw packet queue pair.
//!
//! What completions tell of a frame is found out once, whatever number of queue pairs get a copy.
//! The VLAN tag is taken out while the frame is copied to guest memory: its two pieces are placed one
//! behind the other.

use vrnic_abi::cqe::{CompletionEntry, CompletionFlags};

use super::env::Arrived;
use crate::wire::frame::{Frame, Tag, Verdict, tag};

/// A received frame.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedFrame<'a> {
    bytes: &'a [u8],
    /// The outer VLAN tag, and the pieces of the frame without it.
    tagged: Option<(Tag, [&'a [u8]; 2])>,
    flow: FlowHash,
    network: Verdict,
    transport: Verdict,
}

/// The hash of the flow that a frame belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowHash {
    /// The hash; 0 if the frame belongs to none.
    pub value: u32,
    /// It is over ports too, not over addresses alone.
    pub has_ports: bool,
}

impl FlowHash {
    /// The hash of a frame with these parts.
    #[must_use]
    pub fn of(parts: &Frame<'_>) -> Self {
        let flow = parts.flow();
        flow.map_or_else(Self::default, |flow| Self {
            value: flow.hash(),
            has_ports: flow.ports.is_some(),
        })
    }
}

/// A frame as one queue pair gets it.
#[derive(Clone, Copy, Debug)]
pub struct FrameCopy<'a> {
    frame: ReceivedFrame<'a>,
    /// The VLAN tag is taken out, if there is one.
    strip: bool,
}

impl<'a> ReceivedFrame<'a> {
    /// A frame, its parts, and the hash of its flow.
    #[must_use]
    pub fn new(bytes: &'a [u8], parts: &Frame<'a>, flow: FlowHash) -> Self {
        Self {
            bytes,
            tagged: tag::split(bytes),
            flow,
            network: parts.network_checksum(),
            transport: parts.transport_checksum(),
        }
    }

    /// A frame; `None` if its Ethernet header is cut off.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let parts = Frame::parse(bytes)?;
        Some(Self::new(bytes, &parts, FlowHash::of(&parts)))
    }

    /// The whole frame.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The frame for a queue pair that wants the VLAN tag taken out, or not.
    #[must_use]
    pub const fn copy(self, strip: bool) -> FrameCopy<'a> {
        FrameCopy { frame: self, strip }
    }
}

impl<'a> FrameCopy<'a> {
    fn stripped(&self) -> Option<(Tag, [&'a [u8]; 2])> {
        self.frame.tagged.filter(|_| self.strip)
    }

    /// Bytes that the queue pair gets.
    #[must_use]
    pub fn length(&self) -> u32 {
        let removed = self.stripped().map_or(0, |_| tag::LENGTH);
        u32::try_from(self.frame.bytes.len() - removed).unwrap_or(u32::MAX)
    }

    /// The bytes.
    #[must_use]
    pub fn payload<M>(&self) -> Arrived<'a, M> {
        match self.stripped() {
            Some((_, pieces)) => Arrived::Pieces(pieces),
            None => Arrived::Bytes(self.frame.bytes),
        }
    }

    /// Adds what is known of the frame to its completion.
    pub fn describe(&self, flags: &mut CompletionFlags, entry: &mut CompletionEntry) {
        let frame = &self.frame;
        entry.hash = frame.flow.value;
        flags.set(CompletionFlags::HASH_PORTS, frame.flow.has_ports);
        flags.set(CompletionFlags::CHECKSUM_IP, frame.network == Verdict::Good);
        flags.set(
            CompletionFlags::CHECKSUM_TRANSPORT,
            frame.transport == Verdict::Good,
        );
        if let Some((tag, _)) = self.stripped() {
            *flags |= CompletionFlags::VLAN;
            entry.vlan = tag.control().into();
        }
    }
}
