//! A client's files, each mapped once.
//!
//! DMA_MAP brings a file descriptor with every mapping, thousands of them for the same file with a
//! guest IOMMU. [`FileTable`] recognizes the file by device and inode, and keeps one shared mapping
//! of the whole of it; when a file has grown, a longer mapping takes its place, while the old one
//! lives as long as something lies on it. One table per function, on the control thread: a
//! descriptor gives rights to the function it came to, and to no other. The table keeps files
//! mapped that nothing lies on until it needs the room, because guests map and unmap the same
//! memory often; so it is also the control thread that unmaps, not an engine.
//!
//! What a client sends is bounded: number and size of files, and their kind. Files on file systems
//! that other processes implement (FUSE) or that networks carry are refused: a page fault on them
//! could hang an engine.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use thiserror::Error;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use super::sigbus::{self, Registration};

/// `statfs` type of ramfs, which `libc` does not name.
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// Why a file cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FileError {
    /// The descriptor is neither shared memory nor a file on a local disk.
    #[error("only shared memory and files on local disks can be mapped")]
    Kind,
    /// The range is empty or reaches beyond the end of the file.
    #[error("the range lies beyond the end of the file")]
    Range,
    /// The descriptor is not open for writing, or not for reading.
    #[error("the file is not open for this access")]
    Access,
    /// The client has given too many files, or too large ones.
    #[error("too many files, or too much memory, for one function")]
    Limit,
    /// The operating system refused.
    #[error("mapping failed: {0}")]
    System(Errno),
}

impl From<Errno> for FileError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ACCESS | Errno::PERM => Self::Access,
            _ => Self::System(errno),
        }
    }
}

/// Files that one function's client may map at a time.
pub(super) const FILES: usize = 64;

/// What one function's client may map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLimits {
    /// Files at a time; each costs a descriptor and a mapping.
    pub files: usize,
    /// Bytes of address space at a time.
    pub bytes: u64,
}

impl Default for FileLimits {
    fn default() -> Self {
        Self {
            files: FILES,
            bytes: 4 << 40,
        }
    }
}

/// What is one file, however many descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

/// A shared mapping of a whole file.
#[derive(Debug)]
pub struct MappedFile {
    /// Before `region`, so that it is dropped before the memory is unmapped.
    registration: Registration,
    region: MmapRegion,
    identity: Identity,
    writable: bool,
}

impl MappedFile {
    /// Length of the mapping in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.region.size() as u64
    }

    /// Whether the mapping has no bytes; never, but convention asks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.region.size() == 0
    }

    /// Whether the mapping can be written.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether the owner has truncated the file, and an access has met the gap.
    #[inline]
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.registration.is_lost()
    }

    /// Whether `len` bytes at `offset` are within the mapping.
    #[must_use]
    pub fn holds(&self, offset: u64, len: u64) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.len())
    }

    /// `len` bytes at `offset`.
    #[inline]
    pub(super) fn slice(&self, offset: u64, len: usize) -> Option<VolatileSlice<'_>> {
        self.region
            .get_slice(usize::try_from(offset).ok()?, len)
            .ok()
    }

    /// Maps all `size` bytes of `fd`, for writing too if it allows that.
    fn new(fd: OwnedFd, identity: Identity, size: u64, kind: Kind) -> Result<Self, FileError> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        let writable = match flags & rustix::fs::OFlags::RWMODE {
            rustix::fs::OFlags::RDWR => true,
            rustix::fs::OFlags::RDONLY => false,
            _ => return Err(FileError::Access),
        };
        let size = usize::try_from(size).map_err(|_| FileError::Limit)?;
        let prot = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        let file = FileOffset::new(File::from(fd), 0);
        let region = MmapRegion::build(
            Some(file),
            size,
            prot,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
        )
        .map_err(|error| mmap_error(&error))?;
        let start = region.as_ptr() as usize;
        let end = start + size.next_multiple_of(kind.page);
        let registration =
            sigbus::register(start..end, kind.page).map_err(|error| system(&error))?;
        Ok(Self {
            registration,
            region,
            identity,
            writable,
        })
    }
}

/// The files of one function's client.
#[derive(Debug)]
pub struct FileTable {
    files: Vec<Arc<MappedFile>>,
    limits: FileLimits,
}

impl FileTable {
    /// An empty table.
    #[must_use]
    pub fn new(limits: FileLimits) -> Self {
        Self {
            files: Vec::new(),
            limits,
        }
    }

    /// The mapping of the file `fd`, which holds at least `len` bytes at `offset`, writable if
    /// `write`. Closes `fd` when the file is mapped already.
    ///
    /// # Errors
    /// When the file cannot be mapped, is too short, or exceeds the limits.
    pub fn map(
        &mut self,
        fd: OwnedFd,
        offset: u64,
        len: u64,
        write: bool,
    ) -> Result<Arc<MappedFile>, FileError> {
        let stat = rustix::fs::fstat(&fd)?;
        let identity = Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
        };
        let fits = |file: &MappedFile| {
            let usable = file.identity == identity && !file.is_lost();
            usable && file.holds(offset, len) && (file.writable || !write)
        };
        if let Some(file) = self.files.iter().find(|file| fits(file)) {
            return Ok(Arc::clone(file));
        }
        let kind = Kind::of(&fd)?;
        let size = u64::try_from(stat.st_size).map_err(|_| FileError::Range)?;
        if len == 0 || offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(FileError::Range);
        }
        self.make_room(identity, size)?;
        let file = Arc::new(MappedFile::new(fd, identity, size, kind)?);
        if !fits(&file) {
            return Err(FileError::Access);
        }
        self.files.push(Arc::clone(&file));
        Ok(file)
    }

    /// Unmaps the files that nothing lies on any more.
    pub fn trim(&mut self) {
        self.files.retain(|file| Arc::strong_count(file) > 1);
    }

    /// Forgets all files; each is unmapped when nothing lies on it any more.
    pub fn clear(&mut self) {
        self.files.clear();
    }

    /// Number of files that are mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether no file is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Makes room for one more file of `size` bytes that replaces earlier mappings of `identity`.
    fn make_room(&mut self, identity: Identity, size: u64) -> Result<(), FileError> {
        self.files
            .retain(|file| file.identity != identity || Arc::strong_count(file) > 1);
        if !self.has_room(size) {
            self.trim();
        }
        if self.has_room(size) {
            Ok(())
        } else {
            Err(FileError::Limit)
        }
    }

    fn has_room(&self, size: u64) -> bool {
        let mapped = self
            .files
            .iter()
            .map(|file| file.len())
            .fold(size, u64::saturating_add);
        self.files.len() < self.limits.files && mapped <= self.limits.bytes
    }
}

/// What matters of the file system a file lies on.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// Bytes of a page of a mapping.
    page: usize,
}

impl Kind {
    fn of(fd: impl AsFd) -> Result<Self, FileError> {
        const MEMORY_AND_DISKS: [u64; 5] = [
            libc::TMPFS_MAGIC as u64,
            RAMFS_MAGIC,
            libc::EXT4_SUPER_MAGIC as u64,
            libc::XFS_SUPER_MAGIC as u64,
            libc::BTRFS_SUPER_MAGIC as u64,
        ];
        let regular =
            rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode).is_file();
        let statfs = rustix::fs::fstatfs(&fd)?;
        let magic = statfs.f_type as u64;
        if regular && magic == libc::HUGETLBFS_MAGIC as u64 {
            let page = usize::try_from(statfs.f_bsize).map_err(|_| FileError::Kind)?;
            return Ok(Self { page });
        }
        if regular && MEMORY_AND_DISKS.contains(&magic) {
            return Ok(Self {
                page: rustix::param::page_size(),
            });
        }
        Err(FileError::Kind)
    }
}

fn mmap_error(error: &vm_memory::mmap::MmapRegionError) -> FileError {
    match error {
        vm_memory::mmap::MmapRegionError::Mmap(error) => system(error),
        _ => FileError::System(Errno::INVAL),
    }
}

fn system(error: &io::Error) -> FileError {
    Errno::from_io_error(error).unwrap_or(Errno::INVAL).into()
}
