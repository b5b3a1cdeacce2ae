//! Which IOVA lies where: a map of disjoint intervals.
//!
//! [`IovaMap`] is ordered by address, so that a lookup is a binary search, and mostly not even that:
//! the interval of the last hit is tried first, then the next one. Neighbours that continue each other are one
//! interval, however many page-sized pieces they came in; removal splits intervals again. Inserting
//! into `n` intervals moves up to `n` of them, tens of bytes each.
//!
//! What an interval lies on is a [`Backing`], of which the map only knows how to move along it; it
//! touches no memory. Intervals may end at the last address, so their ends are inclusive.
//!
//! The number of intervals is bounded, because a client chooses it: an insertion, or a removal that
//! splits, is refused beyond the limit and then changes nothing.

use std::cell::Cell;

use thiserror::Error;

use super::DmaError;

bitflags::bitflags! {
    /// What the device may do with a mapping.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Prot: u8 {
        /// Read it.
        const READ = 1;
        /// Write it.
        const WRITE = 2;
    }
}

/// Why a mapping could not be made or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// The range is empty, wraps around or is not in whole pages, or nothing is permitted on it.
    #[error("the range or its protection is invalid")]
    Invalid,
    /// Some of the range is mapped.
    #[error("some of the range is mapped already")]
    Exists,
    /// The file is shorter than the mapping, or not open for writing.
    #[error("the file does not hold the range, or not with this protection")]
    NotInFile,
    /// There would be more mappings than a client may have.
    #[error("too many mappings")]
    TooMany,
}

/// What an interval lies on.
pub trait Backing: Clone {
    /// The place `bytes` further on.
    #[must_use]
    fn advance(&self, bytes: u64) -> Self;

    /// Whether `next` is the place `bytes` further on.
    fn continues(&self, bytes: u64, next: &Self) -> bool;
}

/// One interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping<T> {
    /// First address.
    pub first: u64,
    /// Last address, inclusive.
    pub last: u64,
    /// What is permitted.
    pub prot: Prot,
    /// Where the first address lies.
    pub backing: T,
}

/// The part of an interval that an access meets.
#[derive(Debug)]
pub struct Piece<'a, T> {
    /// Where the interval starts.
    pub backing: &'a T,
    /// Bytes from there to the piece.
    pub skip: u64,
    /// Bytes in the piece, at least one.
    pub len: usize,
}

/// Intervals of IOVA. Owned by one thread.
#[derive(Debug)]
pub struct IovaMap<T> {
    mappings: Vec<Mapping<T>>,
    last_hit: Cell<usize>,
    limit: usize,
}

impl<T: Backing> IovaMap<T> {
    /// An empty map of at most `limit` intervals.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            mappings: Vec::new(),
            last_hit: Cell::new(0),
            limit,
        }
    }

    /// The intervals, in order of address.
    #[must_use]
    pub fn mappings(&self) -> &[Mapping<T>] {
        &self.mappings
    }

    /// Maps `len` bytes at `iova`.
    ///
    /// # Errors
    /// When the range is invalid, overlaps a mapping, or is one too many.
    pub fn insert(&mut self, iova: u64, len: u64, prot: Prot, backing: T) -> Result<(), MapError> {
        let last = last_address(iova, len)?;
        if prot.is_empty() {
            return Err(MapError::Invalid);
        }
        let at = self.mappings.partition_point(|mapping| mapping.last < iova);
        if self
            .mappings
            .get(at)
            .is_some_and(|mapping| mapping.first <= last)
        {
            return Err(MapError::Exists);
        }
        let mapping = Mapping {
            first: iova,
            last,
            prot,
            backing,
        };
        if !self.append_to_neighbour(at, &mapping) {
            self.insert_at(at, mapping)?;
        }
        Ok(())
    }

    /// Unmaps what is mapped of `len` bytes at `iova`: nothing, several mappings or parts of them.
    /// Returns how many bytes that were.
    ///
    /// # Errors
    /// When the range is invalid, or splitting a mapping makes one too many.
    pub fn remove(&mut self, iova: u64, len: u64) -> Result<u64, MapError> {
        let last = last_address(iova, len)?;
        let from = self.mappings.partition_point(|mapping| mapping.last < iova);
        let to = self
            .mappings
            .partition_point(|mapping| mapping.first <= last);
        let Some(hit) = self.mappings.get(from..to) else {
            return Ok(0);
        };
        let (Some(front), Some(back)) = (hit.first(), hit.last()) else {
            return Ok(0);
        };
        let rests = [front.before(iova), back.after(last)];
        let kept = rests.iter().flatten().count();
        if kept > hit.len() && self.mappings.len() >= self.limit {
            return Err(MapError::TooMany);
        }
        let removed = hit
            .iter()
            .map(|mapping| mapping.overlap(iova, last))
            .fold(0, u64::saturating_add);
        self.mappings.splice(from..to, rests.into_iter().flatten());
        Ok(removed)
    }

    /// Unmaps everything.
    pub fn clear(&mut self) {
        self.mappings.clear();
    }

    /// The interval that holds `iova`.
    #[must_use]
    #[inline]
    pub fn lookup(&self, iova: u64) -> Option<&Mapping<T>> {
        let hit = self.mappings.get(self.last_hit.get());
        hit.filter(|mapping| mapping.contains(iova))
            .or_else(|| self.search(iova))
    }

    /// Whether all of `len` bytes at `iova` are mapped with `prot`.
    ///
    /// # Errors
    /// The first address that is not.
    #[inline]
    pub fn check(&self, iova: u64, len: usize, prot: Prot) -> Result<(), DmaError> {
        for piece in self.pieces(iova, len, prot) {
            piece?;
        }
        Ok(())
    }

    /// The pieces that make up `len` bytes at `iova`. Ends after an error.
    #[inline]
    pub fn pieces(&self, iova: u64, len: usize, prot: Prot) -> Pieces<'_, T> {
        Pieces {
            map: self,
            at: Some(iova),
            len,
            prot,
        }
    }

    /// The longest piece that starts at `iova`, at most `len` bytes (at least 1).
    ///
    /// # Errors
    /// When `iova` is not mapped with `prot`.
    #[inline]
    pub fn piece(&self, iova: u64, len: usize, prot: Prot) -> Result<Piece<'_, T>, DmaError> {
        let mapping = self.permitted(iova, prot)?;
        let room =
            usize::try_from(mapping.last - iova).map_or(usize::MAX, |rest| rest.saturating_add(1));
        Ok(Piece {
            backing: &mapping.backing,
            skip: iova - mapping.first,
            len: len.min(room),
        })
    }

    /// The longest piece that ends with the byte at `iova`, at most `len` bytes (at least 1).
    ///
    /// # Errors
    /// When `iova` is not mapped with `prot`.
    pub fn piece_ending(
        &self,
        iova: u64,
        len: usize,
        prot: Prot,
    ) -> Result<Piece<'_, T>, DmaError> {
        let mapping = self.permitted(iova, prot)?;
        let into = iova - mapping.first;
        let len = usize::try_from(into).map_or(len, |into| len.min(into.saturating_add(1)));
        Ok(Piece {
            backing: &mapping.backing,
            skip: into - (len as u64 - 1),
            len,
        })
    }

    #[inline]
    fn permitted(&self, iova: u64, prot: Prot) -> Result<&Mapping<T>, DmaError> {
        let mapping = self.lookup(iova).ok_or(DmaError::Unmapped(iova))?;
        if !mapping.prot.contains(prot) {
            return Err(DmaError::Denied(iova));
        }
        Ok(mapping)
    }

    /// Tries the interval after the last hit, because accesses walk along, then all.
    fn search(&self, iova: u64) -> Option<&Mapping<T>> {
        let mut at = self.last_hit.get().saturating_add(1);
        let mut found = self.mappings.get(at);
        if !found.is_some_and(|mapping| mapping.contains(iova)) {
            at = self.mappings.partition_point(|mapping| mapping.last < iova);
            found = self.mappings.get(at);
        }
        let mapping = found.filter(|mapping| mapping.contains(iova))?;
        self.last_hit.set(at);
        Some(mapping)
    }

    /// Lengthens the interval before position `at`, and joins it with the one there, if they fit.
    fn append_to_neighbour(&mut self, at: usize, new: &Mapping<T>) -> bool {
        let Some((head, tail)) = self.mappings.split_at_mut_checked(at) else {
            return false;
        };
        let Some(before) = head.last_mut().filter(|before| before.joins(new)) else {
            return false;
        };
        before.last = new.last;
        if let Some(after) = tail.first().filter(|after| before.joins(after)) {
            before.last = after.last;
            self.mappings.remove(at);
        }
        true
    }

    /// Inserts at position `at`, or puts `new` in front of the interval there if they fit.
    fn insert_at(&mut self, at: usize, new: Mapping<T>) -> Result<(), MapError> {
        if let Some(after) = self.mappings.get_mut(at).filter(|after| new.joins(after)) {
            after.first = new.first;
            after.backing = new.backing;
            return Ok(());
        }
        if self.mappings.len() >= self.limit {
            return Err(MapError::TooMany);
        }
        self.mappings.insert(at, new);
        Ok(())
    }
}

impl<T: Backing> Mapping<T> {
    #[inline]
    fn contains(&self, iova: u64) -> bool {
        self.first <= iova && iova <= self.last
    }

    /// Whether `next` continues this mapping in every respect.
    fn joins(&self, next: &Self) -> bool {
        self.last.checked_add(1) == Some(next.first)
            && self.prot == next.prot
            && self
                .backing
                .continues(next.first - self.first, &next.backing)
    }

    /// What lies before `iova`.
    fn before(&self, iova: u64) -> Option<Self> {
        (self.first < iova).then(|| Self {
            last: iova - 1,
            ..self.clone()
        })
    }

    /// What lies after `iova`.
    fn after(&self, iova: u64) -> Option<Self> {
        (self.last > iova).then(|| Self {
            first: iova + 1,
            backing: self.backing.advance(iova + 1 - self.first),
            ..self.clone()
        })
    }

    /// Bytes in common with `first..=last`.
    fn overlap(&self, first: u64, last: u64) -> u64 {
        let bytes = self.last.min(last) - self.first.max(first);
        bytes.saturating_add(1)
    }
}

/// The pieces of a range, see [`IovaMap::pieces`].
#[derive(Debug)]
pub struct Pieces<'a, T> {
    map: &'a IovaMap<T>,
    /// The next address; `None` after the last address of all.
    at: Option<u64>,
    len: usize,
    prot: Prot,
}

impl<'a, T: Backing> Iterator for Pieces<'a, T> {
    type Item = Result<Piece<'a, T>, DmaError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.len == 0 {
            return None;
        }
        let piece = match self.at {
            Some(at) => self.map.piece(at, self.len, self.prot),
            None => Err(DmaError::Unmapped(0)),
        };
        match &piece {
            Ok(piece) => {
                self.len -= piece.len;
                self.at = self.at.and_then(|at| at.checked_add(piece.len as u64));
            }
            Err(_) => self.len = 0,
        }
        Some(piece)
    }
}

/// The last address of `len` bytes at `iova`.
fn last_address(iova: u64, len: u64) -> Result<u64, MapError> {
    let more = len.checked_sub(1).ok_or(MapError::Invalid)?;
    iova.checked_add(more).ok_or(MapError::Invalid)
}
