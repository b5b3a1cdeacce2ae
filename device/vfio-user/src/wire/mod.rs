//! The messages of the protocol as bytes.
//!
//! One file per family of messages: a struct for each layout, with `parse`
//! from bytes and `emit` to bytes ([`Fixed`] where it has no tail), and nothing that depends on a
//! connection's state. All integers are in the host's byte order (vfio-user,
//! "Protocol Specification"). `parse` returns `None` when the bytes are fewer
//! than the structure; bytes beyond it are left alone, as VFIO does.
//!
//! # Panics
//! Nothing here panics, whatever the bytes.

pub mod access;
pub mod device;
pub mod dma;
pub mod header;
pub mod irq;
pub mod region;
pub mod version;

use bytemuck::Pod;

pub use header::{Command, Header, Kind};

/// A structure whose layout in memory is that on the wire.
pub trait Fixed: Pod {
    /// Bytes on the wire.
    const SIZE: u32 = size_of::<Self>() as u32;

    /// Reads it from the front of a message's body; `None` if that is shorter.
    fn parse(body: &[u8]) -> Option<Self> {
        let bytes = body.get(..size_of::<Self>())?;
        Some(bytemuck::pod_read_unaligned(bytes))
    }

    /// Appends it to a message's body.
    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(bytemuck::bytes_of(self));
    }
}

/// Takes integers off the front of a message's bytes.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.chunk().map(u16::from_ne_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_ne_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.chunk().map(u64::from_ne_bytes)
    }

    pub(crate) fn bytes8(&mut self) -> Option<[u8; 8]> {
        self.chunk()
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Appends integers to a message.
pub(crate) trait Put {
    fn put_u16(&mut self, value: u16);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
}

impl Put for Vec<u8> {
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_ne_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_ne_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_ne_bytes());
    }
}
