//! `DMA_MAP`, `DMA_UNMAP`, `DMA_READ` and `DMA_WRITE`.

use bytemuck::{Pod, Zeroable};

use super::{Fixed, Put, Reader};

/// The memory may be read by the device (`VFIO_DMA_MAP_FLAG_READ`).
pub const MAP_READ: u32 = 1 << 0;
/// The memory may be written by the device (`VFIO_DMA_MAP_FLAG_WRITE`).
pub const MAP_WRITE: u32 = 1 << 1;
/// Asks for a dirty bitmap (`VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP`).
pub const UNMAP_DIRTY: u32 = 1 << 0;
/// Removes every mapping (`VFIO_DMA_UNMAP_FLAG_ALL`).
pub const UNMAP_ALL: u32 = 1 << 1;

/// The request of `DMA_MAP`; its reply has no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct MapRequest {
    /// Size of this structure.
    pub argsz: u32,
    /// [`MAP_READ`] and [`MAP_WRITE`].
    pub flags: u32,
    /// Offset in the descriptor that comes with the message.
    pub offset: u64,
    /// First address.
    pub iova: u64,
    /// Bytes.
    pub size: u64,
}

impl Fixed for MapRequest {}

/// The request of `DMA_UNMAP`, and its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct UnmapRequest {
    /// Largest reply the client takes.
    pub argsz: u32,
    /// [`UNMAP_DIRTY`] and [`UNMAP_ALL`].
    pub flags: u32,
    /// First address.
    pub iova: u64,
    /// Bytes.
    pub size: u64,
}

impl Fixed for UnmapRequest {}

/// How the fixed part of `DMA_READ` and `DMA_WRITE` is laid out.
///
/// The specification has a 64-bit count. QEMU's client of 10.1 has a 32-bit
/// one, with the data right behind it and four bytes of padding at the end of
/// the message; the size of the message is the same in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As specified: 8 bytes address, 8 bytes count, data.
    Wide,
    /// 8 bytes address, 4 bytes count, data, 4 bytes padding.
    Narrow,
}

/// Bytes of a DMA message's body besides the data, in both layouts.
pub const DMA_FIXED: usize = 16;

/// Appends the body of a `DMA_READ` command: the same in both layouts.
pub fn emit_read(out: &mut Vec<u8>, iova: u64, count: u64) {
    out.put_u64(iova);
    out.put_u64(count);
}

/// Appends the body of a `DMA_WRITE` command. `data` is shorter than 4 GiB.
pub fn emit_write(out: &mut Vec<u8>, layout: Layout, iova: u64, data: &[u8]) {
    out.put_u64(iova);
    match layout {
        Layout::Wide => {
            out.put_u64(data.len() as u64);
            out.extend_from_slice(data);
        }
        Layout::Narrow => {
            out.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
            out.extend_from_slice(data);
            out.put_u32(0);
        }
    }
}

/// The data of a `DMA_READ` reply, if it answers a read of `count` bytes at
/// `iova`.
pub fn parse_read_reply(body: &[u8], layout: Layout, iova: u64, count: usize) -> Option<&[u8]> {
    if body.len() != count.checked_add(DMA_FIXED)? {
        return None;
    }
    let mut r = Reader::new(body);
    let address = r.u64()?;
    let echoed = match layout {
        Layout::Wide => r.u64()?,
        Layout::Narrow => u64::from(r.u32()?),
    };
    if address != iova || echoed != count as u64 {
        return None;
    }
    r.rest().get(..count)
}

/// Whether `body` is a `DMA_WRITE` reply to a write of `count` bytes at
/// `iova`.
///
/// The specification repeats the address and a 32-bit count; libvfio-user's
/// clients send a 64-bit count and QEMU's sends the header alone.
pub fn is_write_reply(body: &[u8], iova: u64, count: usize) -> bool {
    if body.is_empty() {
        return true;
    }
    let mut r = Reader::new(body);
    let address = r.u64();
    let echoed = match body.len() {
        12 => r.u32().map(u64::from),
        DMA_FIXED => r.u64(),
        _ => None,
    };
    address == Some(iova) && echoed == Some(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_have_the_same_size_and_keep_the_data() {
        for layout in [Layout::Wide, Layout::Narrow] {
            let mut body = Vec::new();
            emit_write(&mut body, layout, 0x1000, &[0xaa, 0xbb, 0xcc]);
            assert_eq!(body.len(), DMA_FIXED + 3);
            // A read's reply has the layout of a write's command.
            assert_eq!(
                parse_read_reply(&body, layout, 0x1000, 3),
                Some(&[0xaa, 0xbb, 0xcc][..])
            );
            assert_eq!(parse_read_reply(&body, layout, 0x1001, 3), None);
            assert_eq!(parse_read_reply(&body, layout, 0x1000, 2), None);
        }
    }

    #[test]
    fn write_replies_of_all_known_clients_are_taken() {
        let mut wide = Vec::new();
        emit_read(&mut wide, 7, 9);
        assert!(is_write_reply(&[], 7, 9));
        assert!(is_write_reply(&wide[..12], 7, 9));
        assert!(is_write_reply(&wide, 7, 9));
        assert!(!is_write_reply(&wide, 7, 8));
        assert!(!is_write_reply(&wide, 8, 9));
        assert!(!is_write_reply(&wide[..11], 7, 9));
    }
}
