//! How large the rings of a queue pair are, and where they stand in its buffer.

use vrnic_abi::admin::QpType;
use vrnic_abi::object::DeviceAttributes;
use vrnic_abi::wqe::{BASIC_BLOCK, MAX_BLOCKS, SEGMENT};

use crate::error::Error;
use crate::qp::QpConfig;
use crate::qp::service::overhead;
use crate::ring::RingSize;

/// Most data segments of a receive entry.
pub(crate) const MAX_RECEIVE_SEGMENTS: u32 = 16;

/// Sizes of both rings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) send: RingSize,
    pub(super) receive: RingSize,
    /// Data segments of a receive entry, as a power of two.
    pub(super) log_receive_segments: u8,
    /// Offset of the send queue in the buffer, in bytes.
    pub(super) send_offset: usize,
}

impl Shape {
    /// The rings that `config` asks for, the receive queue only if the queue pair has its own.
    pub(super) fn new(config: &QpConfig, own_receive: bool) -> Option<Self> {
        let send = send_ring(config)?;
        if !own_receive {
            return Some(Self {
                send,
                receive: RingSize::from_log(0),
                log_receive_segments: 0,
                send_offset: 0,
            });
        }
        if config.receive_segments > MAX_RECEIVE_SEGMENTS {
            return None;
        }
        let receive = RingSize::at_least(config.receive_requests)?;
        let segments = RingSize::at_least(config.receive_segments)?;
        let stride = SEGMENT << segments.log();
        let bytes = (receive.entries() as usize).checked_mul(stride)?;
        Some(Self {
            send,
            receive,
            log_receive_segments: segments.log(),
            send_offset: bytes.checked_next_multiple_of(BASIC_BLOCK)?,
        })
    }

    /// Bytes of the buffer.
    pub(super) fn length(&self) -> Option<usize> {
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

/// The send queue: as many blocks as the largest requests need.
fn send_ring(config: &QpConfig) -> Option<RingSize> {
    let (besides_data, least) = overhead(config.qp_type);
    let inline = config.inline.div_ceil(SEGMENT as u32);
    let data = config.send_segments.max(inline);
    let segments = data.checked_add(besides_data)?.max(least);
    let blocks = segments.div_ceil((BASIC_BLOCK / SEGMENT) as u32);
    if blocks > MAX_BLOCKS as u32 || config.qp_type == QpType::XrcTarget {
        return None;
    }
    RingSize::at_least(config.send_requests.checked_mul(blocks)?)
}
