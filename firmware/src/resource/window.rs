//! Memory windows (InfiniBand Architecture volume 1, 10.6.7).
//!
//! A [`Window`] gives peers a range of a region under a key of its own, with fewer rights. What it
//! is bound to is a [`Binding`]; which region that is, and whether it allows the binding, is decided
//! in `key`, where all keys are.
//!
//! Windows of type 2 belong to the queue pair that bound them (type 2B, 10.6.7.2), which loses them
//! when it is reset or destroyed. So each queue pair has a list of them, which is threaded through
//! the windows themselves: binding allocates nothing.

use crate::types::{Access, AccessError};

/// Types of memory windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    /// Bound and bound again; serves all queue pairs of its protection domain.
    Type1,
    /// Type 2B: bound while it is free, serves the queue pair that bound it, and is invalidated.
    Type2,
}

/// A memory window.
#[derive(Clone, Debug)]
pub struct Window {
    /// The key that it has, bound or not.
    pub key: u32,
    /// Protection domain.
    pub pd: u32,
    /// Type.
    pub kind: WindowKind,
    /// What it gives access to, if anything.
    pub binding: Option<Binding>,
}

/// What a memory window gives access to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Key of the region.
    pub region: u32,
    /// Virtual address of the first byte in the region.
    pub start: u64,
    /// Length in bytes, not zero.
    pub length: u64,
    /// What peers may do: nothing but remote rights.
    pub access: Access,
    /// Addresses are offsets from the first byte.
    pub zero_based: bool,
    /// The queue pair that it belongs to, with type 2.
    pub qp: Option<u32>,
    /// Its neighbours in that queue pair's list, 0 at the ends.
    pub(super) links: Links,
}

/// Numbers of the windows before and after one in a list; no window has number 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Links {
    pub(super) before: u32,
    pub(super) after: u32,
}

/// The windows of type 2 that are bound to a queue pair.
#[derive(Clone, Debug, Default)]
pub struct WindowList {
    /// Number of the one bound last, 0 if there is none.
    pub(super) first: u32,
}

impl WindowList {
    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.first == 0
    }
}

impl Binding {
    /// The virtual address in the region of `length` bytes that a peer on queue pair `qp` names by
    /// `address`.
    ///
    /// # Errors
    /// Why the access is not allowed.
    pub(super) fn resolve(
        &self,
        qp: u32,
        access: Access,
        address: u64,
        length: u32,
    ) -> Result<u64, AccessError> {
        self.permit(qp, access)?;
        let offset = if self.zero_based {
            Some(address)
        } else {
            address.checked_sub(self.start)
        };
        let offset = offset.ok_or(AccessError::Bounds)?;
        let end = offset.checked_add(length.into());
        if end.is_none_or(|end| end > self.length) {
            return Err(AccessError::Bounds);
        }
        self.start.checked_add(offset).ok_or(AccessError::Bounds)
    }

    /// Whether queue pair `qp` may access something so. Local accesses are refused, as a window has
    /// no local rights: its key is an rkey only.
    pub(super) fn permit(&self, qp: u32, access: Access) -> Result<(), AccessError> {
        if self.qp.is_some_and(|owner| owner != qp) {
            return Err(AccessError::Key);
        }
        if !self.access.contains(access) {
            return Err(AccessError::Permission);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINDING: Binding = Binding {
        region: 0x100,
        start: 0x5000_0010,
        length: 0x20,
        access: Access::REMOTE_READ,
        zero_based: false,
        qp: Some(7),
        links: Links {
            before: 0,
            after: 0,
        },
    };

    #[test]
    fn exactly_the_window_is_reached() {
        let read = |address, length| BINDING.resolve(7, Access::REMOTE_READ, address, length);
        assert_eq!(read(0x5000_0010, 0x20), Ok(0x5000_0010));
        assert_eq!(read(0x5000_002f, 1), Ok(0x5000_002f));
        assert_eq!(read(0x5000_0030, 0), Ok(0x5000_0030));
        for (address, length) in [
            (0x5000_000f, 1),
            (0x5000_0010, 0x21),
            (0x5000_0030, 1),
            (0, 1),
            (u64::MAX, u32::MAX),
        ] {
            assert_eq!(read(address, length), Err(AccessError::Bounds));
        }
    }

    #[test]
    fn zero_based_addresses_are_offsets() {
        let binding = Binding {
            zero_based: true,
            ..BINDING
        };
        let read = |address, length| binding.resolve(7, Access::REMOTE_READ, address, length);
        assert_eq!(read(0x1f, 1), Ok(0x5000_002f));
        assert_eq!(read(0x1f, 2), Err(AccessError::Bounds));
        assert_eq!(read(u64::MAX, 1), Err(AccessError::Bounds));
    }

    #[test]
    fn rights_and_the_queue_pair_decide_first() {
        for access in [
            Access::LOCAL_READ,
            Access::LOCAL_WRITE,
            Access::REMOTE_WRITE,
            Access::REMOTE_READ | Access::REMOTE_ATOMIC,
        ] {
            assert_eq!(BINDING.permit(7, access), Err(AccessError::Permission));
        }
        let other = BINDING.permit(8, Access::REMOTE_READ);
        assert_eq!(other, Err(AccessError::Key));
    }
}
