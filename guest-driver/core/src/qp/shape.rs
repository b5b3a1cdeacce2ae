//! How large the rings of a queue pair are, and where they stand in its buffer.

use vrnic_abi::admin::QpType;
use vrnic_abi::object::DeviceAttributes;
use vrnic_abi::wqe::{BASIC_BLOCK, MAX_BLOCKS, MAX_INLINE, SEGMENT};

use crate::error::Error;
use crate::qp::QpConfig;
use crate::qp::service::overhead;
use crate::ring::RingSize;

/// Most data segments of a receive entry.
pub const MAX_RECEIVE_SEGMENTS: u32 = 16;

/// Sizes of both rings.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Basic blocks of the send queue.
    pub send: RingSize,
    /// Entries of the receive queue; means nothing without one.
    pub receive: RingSize,
    /// Data segments of a receive entry, as a power of two.
    pub log_receive_segments: u8,
    /// Offset of the send queue in the buffer, in bytes.
    pub send_offset: usize,
}

impl Shape {
    /// The rings that `config` asks for, the receive queue only if the queue pair has its own;
    /// `None` if no requests are so large.
    #[must_use]
    pub fn new(config: &QpConfig, own_receive: bool) -> Option<Self> {
        let send = send_ring(config)?;
        if !own_receive {
            return Some(Self::send_only(send));
        }
        if config.receive_segments > MAX_RECEIVE_SEGMENTS {
            return None;
        }
        let receive = RingSize::at_least(config.receive_requests)?;
        let segments = RingSize::at_least(config.receive_segments)?;
        Self::with_receive(send, receive, segments.log())
    }

    /// Rings of exactly that size, the receive queue, if there is one, with its entries and their
    /// data segments, all as powers of two.
    pub(crate) fn exact(log_send: u8, receive: Option<(u8, u8)>) -> Option<Self> {
        let send = RingSize::within(log_send, 31)?;
        let Some((log_entries, log_segments)) = receive else {
            return Some(Self::send_only(send));
        };
        if log_segments > MAX_RECEIVE_SEGMENTS.ilog2() as u8 {
            return None;
        }
        Self::with_receive(send, RingSize::within(log_entries, 31)?, log_segments)
    }

    fn with_receive(send: RingSize, receive: RingSize, log_segments: u8) -> Option<Self> {
        let stride = SEGMENT << log_segments;
        let bytes = (receive.entries() as usize).checked_mul(stride)?;
        Some(Self {
            send,
            receive,
            log_receive_segments: log_segments,
            send_offset: bytes.checked_next_multiple_of(BASIC_BLOCK)?,
        })
    }

    /// A send queue alone.
    const fn send_only(send: RingSize) -> Self {
        Self {
            send,
            receive: RingSize::from_log(0),
            log_receive_segments: 0,
            send_offset: 0,
        }
    }

    /// Bytes of inline data that the largest request has room for that `config` asks for: at least what
    /// it asks for itself, more if its basic blocks are not full. `None` if no requests are so large.
    #[must_use]
    pub fn inline_room(config: &QpConfig) -> Option<u32> {
        let (besides_data, _) = overhead(config.qp_type);
        let segments = blocks(config)? * SEGMENTS_PER_BLOCK;
        let room = segments.checked_sub(besides_data)? * SEGMENT as u32;
        Some(room.min(MAX_INLINE as u32).max(config.inline))
    }

    /// Bytes of the buffer.
    #[must_use]
    pub fn length(&self) -> Option<usize> {
        let send = (self.send.entries() as usize).checked_mul(BASIC_BLOCK)?;
        self.send_offset.checked_add(send)
    }

    /// Fails if the device has no such rings.
    pub(super) fn check(&self, limits: &DeviceAttributes) -> Result<(), Error> {
        if self.send.log() > limits.log_max_send_blocks
            || self.receive.log() > limits.log_max_receive_entries
        {
            return Err(Error::BadArgument("number of work requests"));
        }
        Ok(())
    }
}

/// Segments of a basic block.
const SEGMENTS_PER_BLOCK: u32 = (BASIC_BLOCK / SEGMENT) as u32;

/// Basic blocks of the largest request.
fn blocks(config: &QpConfig) -> Option<u32> {
    let (besides_data, least) = overhead(config.qp_type);
    let inline = config.inline.div_ceil(SEGMENT as u32);
    let data = config.send_segments.max(inline);
    let segments = data.checked_add(besides_data)?.max(least);
    let blocks = segments.div_ceil(SEGMENTS_PER_BLOCK);
    let possible = blocks <= MAX_BLOCKS as u32 && config.qp_type != QpType::XrcTarget;
    possible.then_some(blocks)
}

/// The send queue: as many blocks as the largest requests need.
fn send_ring(config: &QpConfig) -> Option<RingSize> {
    RingSize::at_least(config.send_requests.checked_mul(blocks(config)?)?)
}
