//! The blocks of a pcapng file that a capture needs, appended to a byte vector.
//!
//! Format: "PCAP Now Generic Dump File Format", draft-ietf-opsawg-pcapng, section
//! 4; little-endian. Section Header (4.1), Interface Description (4.2), Enhanced
//! Packet (4.3) and Interface Statistics (4.6). Writing only.

use super::Direction;

/// What an Enhanced Packet block adds to its frame: fixed fields, padding, flags
/// option, end of options, second length.
const PACKET_OVERHEAD: usize = 28 + 3 + 8 + 4 + 4;

const LINKTYPE_ETHERNET: u16 = 1;
const OPT_END: u16 = 0;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;

/// At most this many bytes are appended by [`packet`] for a frame of `len` bytes.
pub(super) const fn packet_bytes(len: usize) -> usize {
    len + PACKET_OVERHEAD
}

/// Begins the file: Section Header block.
pub(super) fn section(out: &mut Vec<u8>) {
    block(out, 0x0A0D_0D0A, |out| {
        put32(out, 0x1A2B_3C4D);
        put16(out, 1);
        put16(out, 0);
        put64(out, u64::MAX); // section length not known
        option(
            out,
            SHB_USERAPPL,
            concat!("vrnic ", env!("CARGO_PKG_VERSION")).as_bytes(),
        );
        option(out, OPT_END, &[]);
    });
}

/// Interface Description block: Ethernet, whole frames, nanoseconds.
pub(super) fn interface(out: &mut Vec<u8>, name: &str) {
    block(out, 1, |out| {
        put16(out, LINKTYPE_ETHERNET);
        put16(out, 0);
        put32(out, 0); // no snapshot length
        option(out, IF_NAME, name.as_bytes());
        option(out, IF_TSRESOL, &[9]);
        option(out, OPT_END, &[]);
    });
}

/// Enhanced Packet block; `time` in nanoseconds since 1970.
pub(super) fn packet(out: &mut Vec<u8>, id: u32, time: u64, direction: Direction, frame: &[u8]) {
    let flags: u32 = match direction {
        Direction::Received => 1,
        Direction::Sent => 2,
    };
    // CAST: frames are bounded far below 4 GiB.
    let len = frame.len() as u32;
    block(out, 6, |out| {
        put32(out, id);
        put_time(out, time);
        put32(out, len); // captured
        put32(out, len); // on the wire
        put_padded(out, frame);
        option(out, EPB_FLAGS, &flags.to_le_bytes());
        option(out, OPT_END, &[]);
    });
}

/// Interface Statistics block: frames seen, and those that the capture lost.
pub(super) fn statistics(out: &mut Vec<u8>, id: u32, time: u64, seen: u64, lost: u64) {
    block(out, 5, |out| {
        put32(out, id);
        put_time(out, time);
        option(out, ISB_IFRECV, &seen.to_le_bytes());
        option(out, ISB_IFDROP, &lost.to_le_bytes());
        option(out, OPT_END, &[]);
    });
}

/// A block: type, length, body, length again.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    put32(out, kind);
    put32(out, 0);
    body(out);
    // CAST: a block holds at most one frame.
    let len = (out.len() - start + 4) as u32;
    put32(out, len);
    if let Some(place) = out.get_mut(start + 4..start + 8) {
        place.copy_from_slice(&len.to_le_bytes());
    }
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    // An option's length has 16 bits; only an interface name could exceed them.
    let value = value.get(..value.len().min(0xFFF0)).unwrap_or_default();
    put16(out, code);
    put16(out, value.len() as u16);
    put_padded(out, value);
}

fn put_padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The high half comes first.
fn put_time(out: &mut Vec<u8>, time: u64) {
    put32(out, (time >> 32) as u32);
    put32(out, (time & 0xFFFF_FFFF) as u32);
}

fn put16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}
