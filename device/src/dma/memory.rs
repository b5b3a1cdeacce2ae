//! One function's guest memory, as the engine thread that owns the function reaches it.
//!
//! [`GuestMemory`] is an [`IovaMap`] over mapped files and over memory that only messages reach.
//! Every operation first checks that all of its range is mapped for it, so that a refused one has
//! written nothing; then it goes piece by piece. It is `Send` but not `Sync`, and takes no lock: the
//! thread that applies [`MapUpdate`]s is the one that reads and writes.
//!
//! Mappings are in whole pages on both sides. So an aligned IOVA is an aligned address, and an
//! aligned word never crosses a border.
//!
//! Ordering: [`GuestMemory::write_publish`] and the atomic operations order what they say; plain
//! reads and writes are not ordered among themselves, as on PCI Express with relaxed ordering.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use thiserror::Error;
use vm_memory::{AtomicInteger, VolatileMemory, VolatileSlice};

use super::map::{self, IovaMap, MapError, Piece, Prot};
use super::{DmaError, MappedFile, RemoteMemory};

/// The granularity of mappings in bytes.
pub const PAGE_SIZE: u64 = 4096;
/// As many mappings as VFIO allows by default.
pub const MAX_MAPPINGS: usize = 65_535;
/// The most that passes through the bounce buffer at once.
const BOUNCE: usize = 64 << 10;

/// Where guest memory lies.
#[derive(Clone, Debug)]
pub enum Backing {
    /// In a file that the client shares.
    File {
        /// The file.
        file: Arc<MappedFile>,
        /// Offset in it in bytes.
        offset: u64,
    },
    /// With the client, which reads and writes it when asked to.
    Remote,
}

impl map::Backing for Backing {
    fn advance(&self, bytes: u64) -> Self {
        match self {
            Self::File { file, offset } => Self::File {
                file: Arc::clone(file),
                offset: offset.saturating_add(bytes),
            },
            Self::Remote => Self::Remote,
        }
    }

    fn continues(&self, bytes: u64, next: &Self) -> bool {
        match (self, next) {
            (
                Self::File { file, offset },
                Self::File {
                    file: next,
                    offset: at,
                },
            ) => Arc::ptr_eq(file, next) && offset.checked_add(bytes) == Some(*at),
            (Self::Remote, Self::Remote) => true,
            _ => false,
        }
    }
}

/// A change of the mappings, from the control thread to the engine.
pub enum MapUpdate {
    /// Map a range.
    Map {
        /// First address.
        iova: u64,
        /// Bytes.
        len: u64,
        /// What is permitted.
        prot: Prot,
        /// Where it lies.
        backing: Backing,
    },
    /// Unmap what is mapped of a range.
    Unmap {
        /// First address.
        iova: u64,
        /// Bytes.
        len: u64,
    },
    /// Unmap everything.
    UnmapAll,
    /// The client is another one, or gone: how its unshared memory is reached.
    Remote(Option<Box<dyn RemoteMemory>>),
}

/// Whose memory a copy could not reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CopyError {
    /// The memory that is read.
    #[error("source: {0}")]
    Source(DmaError),
    /// The memory that is written.
    #[error("target: {0}")]
    Target(DmaError),
}

/// A function's guest memory. Owned by one engine thread.
pub struct GuestMemory {
    map: IovaMap<Backing>,
    remote: Option<Box<dyn RemoteMemory>>,
    /// For copies from or to memory that messages reach; empty until there is one.
    bounce: RefCell<Vec<u8>>,
}

impl Default for GuestMemory {
    fn default() -> Self {
        Self::new(MAX_MAPPINGS)
    }
}

impl GuestMemory {
    /// No memory, and room for `limit` mappings that do not continue each other.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            map: IovaMap::new(limit),
            remote: None,
            bounce: RefCell::new(Vec::new()),
        }
    }

    /// Carries out an update. Returns how many bytes it unmapped.
    ///
    /// # Errors
    /// As [`Self::map`] and [`Self::unmap`]; nothing has then changed.
    pub fn apply(&mut self, update: MapUpdate) -> Result<u64, MapError> {
        match update {
            MapUpdate::Map {
                iova,
                len,
                prot,
                backing,
            } => self.map(iova, len, prot, backing).map(|()| 0),
            MapUpdate::Unmap { iova, len } => self.unmap(iova, len),
            MapUpdate::UnmapAll => Ok(self.unmap_all()),
            MapUpdate::Remote(remote) => {
                self.remote = remote;
                Ok(0)
            }
        }
    }

    /// Maps `len` bytes at `iova`, in whole pages.
    ///
    /// # Errors
    /// When the range is invalid, overlaps a mapping, is not in the file, or is one too many.
    pub fn map(
        &mut self,
        iova: u64,
        len: u64,
        prot: Prot,
        backing: Backing,
    ) -> Result<(), MapError> {
        if let Backing::File { file, offset } = &backing {
            if offset % PAGE_SIZE != 0 {
                return Err(MapError::Invalid);
            }
            if !file.holds(*offset, len) || (prot.contains(Prot::WRITE) && !file.is_writable()) {
                return Err(MapError::NotInFile);
            }
        }
        check_pages(iova, len)?;
        self.map.insert(iova, len, prot, backing)
    }

    /// Unmaps what is mapped of `len` bytes at `iova`, in whole pages, and returns how many bytes
    /// that were. Afterwards nothing here can reach them.
    ///
    /// # Errors
    /// When the range is invalid, or splitting a mapping makes one too many.
    pub fn unmap(&mut self, iova: u64, len: u64) -> Result<u64, MapError> {
        check_pages(iova, len)?;
        self.map.remove(iova, len)
    }

    /// Unmaps everything, and returns how many bytes that were.
    pub fn unmap_all(&mut self) -> u64 {
        let sizes = self
            .map
            .mappings()
            .iter()
            .map(|mapping| (mapping.last - mapping.first).saturating_add(1));
        let bytes = sizes.fold(0, u64::saturating_add);
        self.map.clear();
        bytes
    }

    /// Number of intervals that are mapped.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.map.mappings().len()
    }

    /// Copies guest memory into `buffer`.
    ///
    /// # Errors
    /// If any byte cannot be read; the contents of `buffer` are then unspecified.
    #[inline]
    pub fn read(&self, iova: u64, buffer: &mut [u8]) -> Result<(), DmaError> {
        match self.whole(iova, buffer.len(), Prot::READ)? {
            Some(piece) => self.read_piece(iova, &piece, buffer),
            None => self.read_pieces(iova, buffer),
        }
    }

    /// Copies `data` into guest memory.
    ///
    /// # Errors
    /// If any byte cannot be written.
    #[inline]
    pub fn write(&self, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        match self.whole(iova, data.len(), Prot::WRITE)? {
            Some(piece) => self.write_piece(iova, &piece, data),
            None => self.write_pieces(iova, data),
        }
    }

    /// Copies `data` into guest memory, its last word last and at once, with release ordering: a
    /// processor that sees the word sees everything written before. The word is the longest
    /// naturally aligned one, up to 8 bytes, that `data` ends with.
    ///
    /// # Errors
    /// If any byte cannot be written.
    #[inline]
    pub fn write_publish(&self, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        self.whole(iova, data.len(), Prot::WRITE)?;
        let word = last_word(iova, data.len());
        let Some((head, tail)) = data.split_at_checked(data.len() - word) else {
            return Ok(());
        };
        self.write(iova, head)?;
        let at = iova.wrapping_add(head.len() as u64);
        match *tail {
            [a] => self.store::<AtomicU8>(at, a, tail),
            [a, b] => self.store::<AtomicU16>(at, u16::from_ne_bytes([a, b]), tail),
            [a, b, c, d] => self.store::<AtomicU32>(at, u32::from_ne_bytes([a, b, c, d]), tail),
            [a, b, c, d, e, f, g, h] => {
                let value = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
                self.store::<AtomicU64>(at, value, tail)
            }
            _ => Ok(()),
        }
    }

    /// The naturally aligned 32-bit number at `iova`, at once, with acquire ordering.
    ///
    /// # Errors
    /// If it cannot be read or is misaligned.
    #[inline]
    pub fn read_u32_acquire(&self, iova: u64) -> Result<u32, DmaError> {
        let piece = self.word(iova, 4, Prot::READ)?;
        match self.slice(iova, &piece)? {
            Some(slice) => Ok(atomic::<AtomicU32>(iova, &slice)?.load(Ordering::Acquire)),
            None => self.remote_word(iova).map(u32::from_ne_bytes),
        }
    }

    /// The naturally aligned 64-bit number at `iova`, at once, with acquire ordering.
    ///
    /// # Errors
    /// If it cannot be read or is misaligned.
    #[inline]
    pub fn read_u64_acquire(&self, iova: u64) -> Result<u64, DmaError> {
        let piece = self.word(iova, 8, Prot::READ)?;
        match self.slice(iova, &piece)? {
            Some(slice) => Ok(atomic::<AtomicU64>(iova, &slice)?.load(Ordering::Acquire)),
            None => self.remote_word(iova).map(u64::from_ne_bytes),
        }
    }

    /// Adds to the naturally aligned 64-bit number at `iova` and returns what it was; atomic
    /// towards processors if the memory is shared, else only towards this function.
    ///
    /// # Errors
    /// If it cannot be read and written, or is misaligned.
    pub fn fetch_add(&self, iova: u64, value: u64) -> Result<u64, DmaError> {
        self.modify(
            iova,
            |word| word.fetch_add(value, Ordering::AcqRel),
            |old| Some(old.wrapping_add(value)),
        )
    }

    /// Stores `swap` into the naturally aligned 64-bit number at `iova` if it equals `compare`, and
    /// returns what it was; atomic as [`Self::fetch_add`] is.
    ///
    /// # Errors
    /// If it cannot be read and written, or is misaligned.
    pub fn compare_swap(&self, iova: u64, compare: u64, swap: u64) -> Result<u64, DmaError> {
        self.modify(
            iova,
            |word| {
                let result =
                    word.compare_exchange(compare, swap, Ordering::AcqRel, Ordering::Acquire);
                result.unwrap_or_else(|old| old)
            },
            |old| (old == compare).then_some(swap),
        )
    }

    /// Copies `len` bytes at `from` to `to` in `other`, each piece in one go. The ranges may overlap
    /// as IOVAs of the same memory; where two IOVAs are the same page, the order of pieces decides.
    ///
    /// # Errors
    /// If any byte cannot be read or written; nothing is then written, unless memory is lost or
    /// remote.
    #[inline]
    pub fn copy_to(&self, from: u64, other: &Self, to: u64, len: usize) -> Result<(), CopyError> {
        let source = self
            .whole(from, len, Prot::READ)
            .map_err(CopyError::Source)?;
        let target = other
            .whole(to, len, Prot::WRITE)
            .map_err(CopyError::Target)?;
        if let (Some(source), Some(target)) = (source, target) {
            if common(&source, &target) == len {
                return self.copy_piece(from, &source, other, to, &target);
            }
        }
        self.copy_pieces(from, other, to, len)
    }

    /// Copies what has been checked, piece by piece.
    fn copy_pieces(&self, from: u64, other: &Self, to: u64, len: usize) -> Result<(), CopyError> {
        // As memmove: from the end, if the start would be overwritten before it is read.
        let backward = std::ptr::eq(self, other) && to > from && to - from < len as u64;
        let mut done = 0;
        while done < len {
            let left = len - done;
            let copied = if backward {
                self.copy_last(from, other, to, left)?
            } else {
                let done = done as u64;
                self.copy_first(from.wrapping_add(done), other, to.wrapping_add(done), left)?
            };
            done += copied;
        }
        Ok(())
    }

    /// Copies as much of the start as lies together on both sides.
    #[inline]
    fn copy_first(&self, from: u64, other: &Self, to: u64, len: usize) -> Result<usize, CopyError> {
        let mut source = self
            .map
            .piece(from, len, Prot::READ)
            .map_err(CopyError::Source)?;
        let mut target = other
            .map
            .piece(to, len, Prot::WRITE)
            .map_err(CopyError::Target)?;
        let len = common(&source, &target);
        (source.len, target.len) = (len, len);
        self.copy_piece(from, &source, other, to, &target)?;
        Ok(len)
    }

    /// Copies as much of the end as lies together on both sides.
    fn copy_last(&self, from: u64, other: &Self, to: u64, len: usize) -> Result<usize, CopyError> {
        let last = len as u64 - 1;
        let mut source = self
            .map
            .piece_ending(from + last, len, Prot::READ)
            .map_err(CopyError::Source)?;
        let mut target = other
            .map
            .piece_ending(to + last, len, Prot::WRITE)
            .map_err(CopyError::Target)?;
        let common = common(&source, &target);
        for piece in [&mut source, &mut target] {
            piece.skip += (piece.len - common) as u64;
            piece.len = common;
        }
        let before = (len - common) as u64;
        self.copy_piece(from + before, &source, other, to + before, &target)?;
        Ok(common)
    }

    #[inline]
    fn copy_piece(
        &self,
        from: u64,
        source: &Piece<'_, Backing>,
        other: &Self,
        to: u64,
        target: &Piece<'_, Backing>,
    ) -> Result<(), CopyError> {
        let source_slice = self.slice(from, source).map_err(CopyError::Source)?;
        let target_slice = other.slice(to, target).map_err(CopyError::Target)?;
        if let (Some(source_slice), Some(target_slice)) = (source_slice, target_slice) {
            source_slice.copy_to_volatile_slice(target_slice);
            still_there(from, source).map_err(CopyError::Source)?;
            return still_there(to, target).map_err(CopyError::Target);
        }
        let mut bounce = self.bounce.borrow_mut();
        bounce.resize(BOUNCE, 0);
        let Some(buffer) = bounce.get_mut(..source.len) else {
            return Err(CopyError::Source(DmaError::Remote(from)));
        };
        self.read_piece(from, source, buffer)
            .map_err(CopyError::Source)?;
        other
            .write_piece(to, target, buffer)
            .map_err(CopyError::Target)
    }

    /// Whether an access may go ahead: all of it mapped, permitted and still there. The piece, if it
    /// is a single one.
    #[inline]
    fn whole(
        &self,
        iova: u64,
        len: usize,
        prot: Prot,
    ) -> Result<Option<Piece<'_, Backing>>, DmaError> {
        if len == 0 {
            return Ok(None);
        }
        let piece = self.map.piece(iova, len, prot)?;
        if piece.len == len {
            still_there(iova, &piece)?;
            return Ok(Some(piece));
        }
        self.check(iova, len, prot).map(|()| None)
    }

    fn check(&self, iova: u64, len: usize, prot: Prot) -> Result<(), DmaError> {
        let mut at = iova;
        for piece in self.map.pieces(iova, len, prot) {
            let piece = piece?;
            still_there(at, &piece)?;
            at = at.wrapping_add(piece.len as u64);
        }
        Ok(())
    }

    fn read_pieces(&self, iova: u64, buffer: &mut [u8]) -> Result<(), DmaError> {
        let mut at = iova;
        let mut rest = buffer;
        for piece in self.map.pieces(iova, rest.len(), Prot::READ) {
            let piece = piece?;
            let Some((part, more)) = rest.split_at_mut_checked(piece.len) else {
                break;
            };
            self.read_piece(at, &piece, part)?;
            at = at.wrapping_add(piece.len as u64);
            rest = more;
        }
        Ok(())
    }

    fn write_pieces(&self, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        let mut at = iova;
        let mut rest = data;
        for piece in self.map.pieces(iova, data.len(), Prot::WRITE) {
            let piece = piece?;
            let Some((part, more)) = rest.split_at_checked(piece.len) else {
                break;
            };
            self.write_piece(at, &piece, part)?;
            at = at.wrapping_add(piece.len as u64);
            rest = more;
        }
        Ok(())
    }

    #[inline]
    fn read_piece(
        &self,
        iova: u64,
        piece: &Piece<'_, Backing>,
        buffer: &mut [u8],
    ) -> Result<(), DmaError> {
        match self.slice(iova, piece)? {
            Some(slice) => {
                slice.copy_to(buffer);
                still_there(iova, piece)
            }
            None => self.remote(iova)?.read(iova, buffer),
        }
    }

    #[inline]
    fn write_piece(
        &self,
        iova: u64,
        piece: &Piece<'_, Backing>,
        data: &[u8],
    ) -> Result<(), DmaError> {
        match self.slice(iova, piece)? {
            Some(slice) => {
                slice.copy_from(data);
                still_there(iova, piece)
            }
            None => self.remote(iova)?.write(iova, data),
        }
    }

    /// The memory of `piece`, or `None` if only messages reach it.
    #[inline]
    fn slice<'a>(
        &self,
        iova: u64,
        piece: &Piece<'a, Backing>,
    ) -> Result<Option<VolatileSlice<'a>>, DmaError> {
        match piece.backing {
            Backing::File { file, offset } => {
                let slice = file.slice(offset.wrapping_add(piece.skip), piece.len);
                slice.map(Some).ok_or(DmaError::Unmapped(iova))
            }
            Backing::Remote => Ok(None),
        }
    }

    fn remote(&self, iova: u64) -> Result<&dyn RemoteMemory, DmaError> {
        self.remote.as_deref().ok_or(DmaError::Remote(iova))
    }

    fn remote_word<const N: usize>(&self, iova: u64) -> Result<[u8; N], DmaError> {
        let mut word = [0; N];
        self.remote(iova)?.read(iova, &mut word)?;
        Ok(word)
    }

    /// The naturally aligned word of `size` bytes at `iova`.
    #[inline]
    fn word(&self, iova: u64, size: u8, prot: Prot) -> Result<Piece<'_, Backing>, DmaError> {
        if iova % u64::from(size) != 0 {
            return Err(DmaError::Misaligned(iova));
        }
        let piece = self.map.piece(iova, size.into(), prot)?;
        still_there(iova, &piece)?;
        Ok(piece)
    }

    /// Stores a word with release ordering.
    #[inline]
    fn store<A: AtomicInteger>(
        &self,
        iova: u64,
        value: A::V,
        bytes: &[u8],
    ) -> Result<(), DmaError> {
        let piece = self.map.piece(iova, bytes.len(), Prot::WRITE)?;
        match self.slice(iova, &piece)? {
            Some(slice) => {
                atomic::<A>(iova, &slice)?.store(value, Ordering::Release);
                still_there(iova, &piece)
            }
            None => self.remote(iova)?.write(iova, bytes),
        }
    }

    /// Changes a 64-bit word: `shared` in memory, or what `remote` makes of it by messages.
    fn modify(
        &self,
        iova: u64,
        shared: impl FnOnce(&AtomicU64) -> u64,
        remote: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<u64, DmaError> {
        let piece = self.word(iova, 8, Prot::READ | Prot::WRITE)?;
        if let Some(slice) = self.slice(iova, &piece)? {
            let old = shared(atomic(iova, &slice)?);
            return still_there(iova, &piece).map(|()| old);
        }
        let old = u64::from_ne_bytes(self.remote_word(iova)?);
        if let Some(new) = remote(old) {
            self.remote(iova)?.write(iova, &new.to_ne_bytes())?;
        }
        Ok(old)
    }
}

impl std::fmt::Debug for GuestMemory {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("GuestMemory")
            .field("map", &self.map)
            .finish_non_exhaustive()
    }
}

/// How much of two pieces can be copied at once.
#[inline]
fn common(source: &Piece<'_, Backing>, target: &Piece<'_, Backing>) -> usize {
    let shared = !matches!(
        (source.backing, target.backing),
        (Backing::Remote, _) | (_, Backing::Remote)
    );
    let len = source.len.min(target.len);
    if shared { len } else { len.min(BOUNCE) }
}

/// An error if the file behind a piece was truncated.
#[inline]
fn still_there(iova: u64, piece: &Piece<'_, Backing>) -> Result<(), DmaError> {
    match piece.backing {
        Backing::File { file, .. } if file.is_lost() => Err(DmaError::Lost(iova)),
        _ => Ok(()),
    }
}

/// The word that a piece consists of.
#[inline]
fn atomic<'a, A: AtomicInteger>(
    iova: u64,
    slice: &'a VolatileSlice<'_>,
) -> Result<&'a A, DmaError> {
    slice
        .get_atomic_ref::<A>(0)
        .map_err(|_| DmaError::Misaligned(iova))
}

/// Bytes of the longest naturally aligned word at the end of `len` bytes at `iova`.
#[inline]
fn last_word(iova: u64, len: usize) -> usize {
    let end = iova.wrapping_add(len as u64);
    [8usize, 4, 2, 1]
        .into_iter()
        .find(|&size| len >= size && end % size as u64 == 0)
        .unwrap_or(0)
}

/// Whether a range is in whole pages.
fn check_pages(iova: u64, len: u64) -> Result<(), MapError> {
    if len == 0 || iova % PAGE_SIZE != 0 || len % PAGE_SIZE != 0 {
        return Err(MapError::Invalid);
    }
    Ok(())
}
