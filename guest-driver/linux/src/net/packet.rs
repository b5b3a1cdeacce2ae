//! The stack's packets, `struct sk_buff`.
//!
//! What the driver wants to know of a packet to send is read at once into a
//! `vrnic_packet`; the rest are questions about that.

use core::ptr::NonNull;

use vrnic_driver::Sge;
use vrnic_driver::abi::wqe::RESERVED_LKEY;

use crate::bindings;

/// Pieces of memory that a packet stands in; one with more is copied together.
pub(super) const PIECES: usize = bindings::MAX_SKB_FRAGS as usize + 1;

/// Protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where the checksum is in their headers.
const TCP_CHECKSUM: u32 = 16;
const UDP_CHECKSUM: u32 = 6;
/// Length of an IPv6 header.
const IPV6: usize = 40;
/// Length of an Ethernet header, and with a VLAN tag.
const ETHERNET: [u32; 2] = [14, 18];

/// A packet to send, or one received that the stack does not have yet.
#[derive(Clone, Copy)]
pub(super) struct Packet(pub(super) NonNull<bindings::sk_buff>);

impl Packet {
    /// Reads what there is to know of a packet to send.
    ///
    /// # Safety
    /// It is ours.
    #[inline]
    pub(super) unsafe fn look(self) -> Look {
        let mut look = Look::default();
        // SAFETY: by the contract of this function.
        unsafe { bindings::vrnic_packet_look(self.0.as_ptr(), &raw mut look.0) };
        look
    }

    /// Gives a packet up that is not sent. Any context.
    ///
    /// # Safety
    /// It is ours, and is not used any more.
    pub(super) unsafe fn discard(self) {
        let reason = bindings::SKB_DROP_REASON_NOT_SPECIFIED;
        // SAFETY: by the contract of this function.
        unsafe { bindings::dev_kfree_skb_any_reason(self.0.as_ptr(), reason) };
    }
}

/// What there is to know of a packet to send.
#[derive(Default)]
pub(super) struct Look(pub(super) bindings::vrnic_packet);

impl Look {
    /// Pieces of memory it stands in.
    #[inline]
    pub(super) fn pieces(&self) -> usize {
        1 + self.0.fragments as usize
    }

    /// The VLAN tag to insert.
    #[inline]
    pub(super) fn tag(&self) -> Option<u16> {
        self.0.tagged.then_some(self.0.tag)
    }

    /// Bytes of the linear part from `offset` on.
    #[inline]
    fn bytes(&self, offset: usize, length: usize) -> Option<&[u8]> {
        let end = offset.checked_add(length)?;
        if end > self.0.linear as usize {
            return None;
        }
        // SAFETY: the linear part has so many bytes, and nobody changes a packet that is being sent.
        Some(unsafe { core::slice::from_raw_parts(self.0.data.add(offset), length) })
    }

    /// Whether the checksum that is to be filled in is the one that the device would: that of the
    /// TCP or UDP header right behind an IP header, behind at most one VLAN tag.
    #[inline]
    pub(super) fn device_fills_checksum(&self) -> bool {
        self.transport().is_some_and(|(protocol, start)| {
            let place = (protocol, self.0.checksum_offset);
            start == self.0.checksum_start
                && matches!(place, (TCP, TCP_CHECKSUM) | (UDP, UDP_CHECKSUM))
        })
    }

    /// Whether the device can cut it into frames: a TCP segment, with headers as for the checksum.
    pub(super) fn device_cuts(&self) -> bool {
        self.0.checksum && self.0.checksum_offset == TCP_CHECKSUM && self.device_fills_checksum()
    }

    /// Frames that it becomes, and their bytes.
    #[inline]
    pub(super) fn frames(&self) -> (u32, u32) {
        let length = self.0.length;
        let frames = match length.checked_sub(self.0.headers) {
            Some(data) if self.0.mss > 0 => data.div_ceil(self.0.mss).max(1),
            _ => 1,
        };
        (frames, length + (frames - 1) * self.0.headers)
    }

    /// Protocol and offset of the transport header of a packet whose IP header the device
    /// understands.
    fn transport(&self) -> Option<(u8, u32)> {
        let network = self.0.network;
        if !ETHERNET.contains(&network) {
            return None;
        }
        let header = self.bytes(network as usize, 20)?;
        let (protocol, length) = match header[0] >> 4 {
            // Neither more fragments nor an offset.
            4 if u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0 => {
                (header[9], usize::from(header[0] & 0xf) * 4)
            }
            6 => (header[6], IPV6),
            _ => return None,
        };
        Some((protocol, network + length as u32))
    }
}

/// A piece of a packet as the device reaches it.
pub(super) type Mapping = bindings::vrnic_mapping;

/// The piece in a work request.
#[inline]
pub(super) fn segment(mapping: &Mapping) -> Sge {
    Sge {
        address: mapping.address,
        length: mapping.length,
        lkey: RESERVED_LKEY,
    }
}
