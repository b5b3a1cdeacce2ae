//! The memory that the two ends of a shared-memory link have in common.
//!
//! One sealed memfd: a control page of positions and sleep words, each on lines
//! of its own, then one ring for each direction. The listening end creates it,
//! anew for every peer, so that no former peer can reach it.
//!
//! The other process can write any of it at any time. So no Rust reference to
//! it exists but to atomics; bytes are copied in and out by raw pointer, and
//! whatever is copied out is checked after copying. All accesses are bounds
//! checked against our own idea of the layout; a failed check is a bug of ours
//! and panics. The seals keep the file from shrinking under us (`SIGBUS`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::super::MAX_FRAME;

/// Bytes of each ring that we make: some 120 frames at path MTU 4096. Sizes from
/// 256 KiB to 2 MiB measured alike.
pub(super) const RING_BYTES: usize = 512 << 10;

/// Ring sizes that we accept from a listener, both powers of two.
const MIN_RING: usize = 4 * MAX_FRAME;
const MAX_RING: usize = 8 << 20;

/// Bytes of the control page; the rings follow.
const CONTROL_BYTES: usize = 4096;

/// `TMPFS_MAGIC` of `statfs(2)`: a memfd of ordinary pages. Others, as huge
/// pages, can fail a page fault.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// A word of the control page. Each has 128 bytes of its own, since processors
/// fetch 64-byte lines in pairs.
#[derive(Clone, Copy)]
pub(super) struct Word(usize);

/// One direction: where its positions and its bytes lie.
#[derive(Clone, Copy)]
pub(super) struct Lane {
    /// Written by the producer.
    pub(super) head: Word,
    /// Written by the consumer.
    pub(super) tail: Word,
    start: usize,
}

/// Which end of the link we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Listener,
    Caller,
}

impl End {
    pub(super) fn other(self) -> End {
        match self {
            End::Listener => End::Caller,
            End::Caller => End::Listener,
        }
    }

    /// Where this end publishes that it sleeps.
    pub(super) fn sleep_word(self) -> Word {
        match self {
            End::Listener => Word(4 * 128),
            End::Caller => Word(5 * 128),
        }
    }
}

/// The shared mapping.
pub(super) struct Memory {
    base: NonNull<u8>,
    ring: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and `Memory` owns
// it; what is in it is accessed through atomics and raw copies only.
unsafe impl Send for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `base` and the length are those of the mapping that `map` made,
        // and nothing that borrows from it outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len()) };
    }
}

impl Memory {
    /// New shared memory, and the descriptor to give to the other end.
    pub(super) fn create() -> io::Result<(Memory, OwnedFd)> {
        let fd = rustix::fs::memfd_create(
            "vrnic-link",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::ftruncate(&fd, file_len(RING_BYTES) as u64)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals)?;
        Ok((Memory::map(&fd, RING_BYTES)?, fd))
    }

    /// Memory that the other end made, with rings of `ring` bytes as it says.
    ///
    /// # Errors
    /// `InvalidData` for a size, seal or file type that we do not trust.
    pub(super) fn accept(fd: &OwnedFd, ring: u64) -> io::Result<Memory> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let ring = usize::try_from(ring).map_err(|_| invalid("ring size"))?;
        if !ring.is_power_of_two() || !(MIN_RING..=MAX_RING).contains(&ring) {
            return Err(invalid("ring size"));
        }
        let seals = rustix::fs::fcntl_get_seals(fd).map_err(|_| invalid("not a memfd"))?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(invalid("memfd is not sealed"));
        }
        if i128::from(rustix::fs::fstatfs(fd)?.f_type) != i128::from(TMPFS_MAGIC) {
            return Err(invalid("memfd of huge pages"));
        }
        let len = u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0);
        if len < file_len(ring) as u64 {
            return Err(invalid("memfd is too small"));
        }
        Memory::map(fd, ring)
    }

    fn map(fd: &OwnedFd, ring: usize) -> io::Result<Memory> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice; the file has
        // at least this length and is sealed against shrinking.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                file_len(ring),
                prot,
                flags,
                fd.as_fd(),
                0,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        Ok(Memory { base, ring })
    }

    /// Bytes of each ring.
    pub(super) fn ring(&self) -> u64 {
        self.ring as u64
    }

    fn len(&self) -> usize {
        file_len(self.ring)
    }

    /// The direction in which `from` sends.
    pub(super) fn lane(&self, from: End) -> Lane {
        match from {
            End::Listener => Lane {
                head: Word(0),
                tail: Word(128),
                start: CONTROL_BYTES,
            },
            End::Caller => Lane {
                head: Word(256),
                tail: Word(384),
                start: CONTROL_BYTES + self.ring,
            },
        }
    }

    /// A word of the control page.
    pub(super) fn word(&self, word: Word) -> &AtomicU64 {
        self.atomic(word.0)
    }

    /// The first eight bytes of the record at `position`.
    pub(super) fn record(&self, lane: Lane, position: u64) -> &AtomicU64 {
        self.atomic(lane.start + self.index(position))
    }

    fn atomic(&self, offset: usize) -> &AtomicU64 {
        assert!(offset % 8 == 0 && offset <= self.len() - 8);
        // SAFETY: aligned and inside the mapping, which lives as long as `self`;
        // all accesses to these eight bytes by this process that can meet others
        // are atomic.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    /// Copies `bytes` into a ring at `position`, around its end if need be.
    pub(super) fn copy_in(&self, lane: Lane, position: u64, bytes: &[u8]) {
        let at = self.index(position);
        assert!(bytes.len() <= self.ring);
        let (first, rest) = bytes.split_at(bytes.len().min(self.ring - at));
        let ring = self.base.as_ptr().wrapping_add(lane.start);
        // SAFETY: `at + first.len() <= ring` and `rest.len() <= at`, so both pieces
        // lie in the ring; `bytes` is private memory and overlaps neither. That the
        // other process may write the ring meanwhile changes only what it will read.
        unsafe {
            std::ptr::copy_nonoverlapping(first.as_ptr(), ring.add(at), first.len());
            std::ptr::copy_nonoverlapping(rest.as_ptr(), ring, rest.len());
        }
    }

    /// Copies out of a ring at `position`, around its end if need be.
    pub(super) fn copy_out(&self, lane: Lane, position: u64, bytes: &mut [u8]) {
        let at = self.index(position);
        assert!(bytes.len() <= self.ring);
        let middle = bytes.len().min(self.ring - at);
        let (first, rest) = bytes.split_at_mut(middle);
        let ring = self.base.as_ptr().wrapping_add(lane.start);
        // SAFETY: as in `copy_in`. The other process may write the ring meanwhile;
        // the copy then holds a mixture, and any bytes are valid `u8`s.
        unsafe {
            std::ptr::copy_nonoverlapping(ring.add(at), first.as_mut_ptr(), first.len());
            std::ptr::copy_nonoverlapping(ring, rest.as_mut_ptr(), rest.len());
        }
    }

    fn index(&self, position: u64) -> usize {
        (position & (self.ring as u64 - 1)) as usize
    }
}

fn file_len(ring: usize) -> usize {
    CONTROL_BYTES + 2 * ring
}
