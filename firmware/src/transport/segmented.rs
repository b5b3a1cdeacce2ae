//! TCP segments that leave in several frames: what of them is not like other raw packets.
//!
//! The headers are read once, when the request is taken from the work queue; a guest that changes
//! them afterwards changes nothing. Of the data, each frame's is read when that is sent. A request is
//! as many packets as it has frames, so that it is sent in portions, and waits for room, as a long
//! message does. What stands in the headers is not for the transport to know.

use vrnic_abi::wqe::MAX_SEGMENTED;

use super::gather::gather;
use super::message::{Message, Run};
use super::{Env, Part, Payload, Segmentation};
use crate::types::{Access, Chunks, Outcome};

/// Checks a request whose length is known, reads its headers, and counts its frames.
pub(super) fn admit<E: Env>(
    env: &mut E,
    message: &mut Message,
    segmentation: &Segmentation,
    chunks: &mut Chunks,
) -> Result<(), Outcome> {
    let headers = u32::from(segmentation.header_length);
    let data = message.length.checked_sub(headers);
    let data = data.filter(|data| *data <= MAX_SEGMENTED);
    let data = data.ok_or(Outcome::LocalLength)?;
    let most = u32::from(segmentation.mss);
    // No overflow: both have 16 bits.
    if headers + data.min(most) > env.max_frame() {
        return Err(Outcome::LocalLength);
    }
    read_headers(env, message, segmentation, chunks)?;
    message.packets = data.div_ceil(most.max(1)).max(1);
    Ok(())
}

fn read_headers<E: Env>(
    env: &mut E,
    message: &Message,
    segmentation: &Segmentation,
    chunks: &mut Chunks,
) -> Result<(), Outcome> {
    let work = &message.work;
    let length = segmentation.header_length;
    let headers = match work.inline.get(..usize::from(length)) {
        Some(bytes) => Payload::Bytes(bytes),
        None => {
            let domain = env.domain();
            let access = Access::LOCAL_READ;
            gather(env, domain, &work.sges, access, 0, length.into(), chunks)
                .map_err(|_| Outcome::LocalProtection)?;
            Payload::Chunks(chunks)
        }
    };
    env.keep_headers(length, headers)
}

/// The next frame of a request, as the run of its bytes that are the frame's data.
pub(super) fn run(message: &Message, segmentation: &Segmentation) -> Run {
    let most = u32::from(segmentation.mss);
    let before = message.acked.saturating_mul(most);
    let offset = before.saturating_add(segmentation.header_length.into());
    Run {
        packet: message.acked,
        packets: 1,
        offset,
        length: message.length.saturating_sub(offset).min(most),
        ends: message.remaining() <= 1,
    }
}

/// The part of the data that `run` is.
pub(super) fn part(run: &Run, segmentation: &Segmentation) -> Part {
    Part {
        index: run.packet,
        offset: run.offset.saturating_sub(segmentation.header_length.into()),
        // CAST: no more than the MSS.
        length: run.length as u16,
        last: run.ends,
    }
}
