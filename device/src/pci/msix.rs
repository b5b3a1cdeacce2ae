//! MSI-X: the table, the pending bits, and the way from an engine thread to the client's eventfd.
//!
//! [`Msix`] stays with the control thread, which answers accesses to the BAR and sets eventfds;
//! [`MsixHandle`] goes to engine threads, whose [`MsixHandle::raise`] takes no lock: a vector's
//! eventfd is replaced under running engines, and the old one is closed when the last write to it
//! has returned.
//!
//! What masks a vector. A vfio-user client may keep the MSI-X table to itself, as QEMU does: it
//! answers the guest's accesses from a table of its own, masks by itself, and sends here only the
//! eventfds (SET_IRQS) and the writes to the capability's message control. Others know nothing but
//! SET_IRQS. So:
//!
//! * a vector without an eventfd counts as masked;
//! * the table's mask bit counts once the client has written that dword (it reads 1 after reset, as
//!   it must, but that alone masks nothing);
//! * the function mask counts whenever it is set;
//! * MSI-X enable does not count: a client of SET_IRQS alone never sets it.
//!
//! An interrupt raised while its vector is masked sets its pending bit, and is delivered when the
//! last reason for the mask goes: none is lost while a client disables and enables all vectors to
//! get more of them. QEMU reads the pending bit array from here.
//!
//! No lost interrupt: `raise` publishes the pending bit, passes a full fence, then looks again
//! whether the vector is masked; the control thread unmasks, passes a full fence, then looks at the
//! pending bit. One of the two sees the other's store, and taking the bit decides who delivers.
//!
//! Clauses: PCI Express Base 6.0, section 6.1.4 (masking and pending bits) and 7.7.2 (table).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use arc_swap::ArcSwapOption;
use rustix::io::Errno;
use thiserror::Error;

use super::eventfd::{Eventfd, Signaller};
use super::vectors::VectorCount;

/// Bytes of a table entry.
const ENTRY_SIZE: usize = 16;
/// The most vectors that the capability can announce.
const MAX_VECTORS: u16 = 2048;
/// Index of the vector control dword in an entry.
const CONTROL: usize = 3;
/// Vector control: masked.
const MASKED: u32 = 1;
/// The writable bits of an entry: address (dword-aligned), data, mask.
const WRITABLE: [u32; 4] = [!0x3, !0, !0, MASKED];

/// Where table and pending bits lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixLayout {
    /// Number of vectors, 1 to 2048; the most that there can be.
    pub vectors: u16,
    /// Index of the BAR that holds both.
    pub bar: u8,
    /// Offset of the table in the BAR in bytes, a multiple of 8.
    pub table_offset: u32,
    /// Offset of the pending bit array in the BAR in bytes, a multiple of 8.
    pub pba_offset: u32,
}

impl MsixLayout {
    /// Whether table and pending bits fit into a BAR of `bar_size` bytes without overlap.
    #[must_use]
    pub fn fits(&self, bar_size: u64) -> bool {
        let [table, pba] = [u64::from(self.table_offset), u64::from(self.pba_offset)];
        let table_end = table + 16 * u64::from(self.vectors);
        let pba_end = pba + 8 * u64::from(self.vectors.div_ceil(64));
        let aligned = table % 8 == 0 && pba % 8 == 0;
        let disjoint = table_end <= pba || pba_end <= table;
        let number = (1..=MAX_VECTORS).contains(&self.vectors);
        number && aligned && disjoint && table_end.max(pba_end) <= bar_size
    }
}

/// The writable bits of the capability's message control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsixControl {
    /// MSI-X is enabled.
    pub enabled: bool,
    /// All vectors are masked.
    pub function_masked: bool,
}

/// Why an eventfd was refused, or a saved state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MsixError {
    /// There is no such vector.
    #[error("no such vector")]
    NoSuchVector,
    /// The file descriptor is no eventfd.
    #[error("the file descriptor is no eventfd")]
    NotEventfd,
    /// The saved state is of another version or another number of vectors.
    #[error("saved MSI-X state does not fit this function")]
    Incompatible,
}

/// What became of raised interrupts since the function was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsixCounters {
    /// Written to an eventfd.
    pub delivered: u64,
    /// Kept as a pending bit, because the vector was masked.
    pub pended: u64,
    /// Raised on a vector that does not exist, and ignored.
    pub no_such_vector: u64,
    /// The eventfd took no more: its owner has not read it for 2^64 interrupts, or broke it.
    pub failed: u64,
}

/// The saved contents of table and pending bits. Eventfds are the next client's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MsixState {
    /// [`MsixState::VERSION`] of the process that wrote it.
    pub version: u32,
    /// The table: address low, address high, data, vector control.
    pub entries: Vec<[u32; 4]>,
    /// For each vector, whether the client has written vector control since reset.
    pub control_written: Vec<bool>,
    /// The pending bit array.
    pub pending: Vec<u64>,
    /// The function mask.
    pub function_masked: bool,
}

impl MsixState {
    /// The version this process writes and reads.
    pub const VERSION: u32 = 1;
}

/// One vector as engine threads see it.
#[derive(Debug, Default)]
struct Vector {
    eventfd: ArcSwapOption<Eventfd>,
    masked: AtomicBool,
}

#[derive(Debug, Default)]
struct Counters {
    delivered: AtomicU64,
    pended: AtomicU64,
    no_such_vector: AtomicU64,
    failed: AtomicU64,
}

/// What control thread and engine threads share.
#[derive(Debug)]
struct Shared {
    vectors: Box<[Vector]>,
    /// How many of them there are.
    count: VectorCount,
    pending: Box<[AtomicU64]>,
    function_masked: AtomicBool,
    counters: Counters,
    signaller: Signaller,
}

/// The MSI-X table and pending bits of a function; its control thread's end.
#[derive(Debug)]
pub struct Msix {
    layout: MsixLayout,
    /// Vectors that the client has seen.
    vectors: u16,
    entries: Vec<[u32; 4]>,
    control_written: Vec<bool>,
    shared: Arc<Shared>,
}

/// An engine thread's end: raises interrupts.
#[derive(Clone, Debug)]
pub struct MsixHandle {
    shared: Arc<Shared>,
}

impl Msix {
    /// Table and pending bits as after reset, without eventfds.
    #[must_use]
    pub fn new(layout: MsixLayout) -> Self {
        Self::with_signaller(layout, Signaller::default())
    }

    /// The same, with a signaller that others use, too.
    #[must_use]
    pub fn with_signaller(layout: MsixLayout, signaller: Signaller) -> Self {
        let vectors = usize::from(layout.vectors);
        let shared = Shared {
            count: VectorCount::new(layout.vectors),
            vectors: (0..vectors).map(|_| Vector::default()).collect(),
            pending: (0..vectors.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            function_masked: AtomicBool::new(false),
            counters: Counters::default(),
            signaller,
        };
        Self {
            layout,
            vectors: layout.vectors,
            entries: vec![[0, 0, 0, MASKED]; vectors],
            control_written: vec![false; vectors],
            shared: Arc::new(shared),
        }
    }

    /// A handle for an engine thread.
    #[must_use]
    pub fn handle(&self) -> MsixHandle {
        MsixHandle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Number of vectors.
    #[must_use]
    pub const fn vectors(&self) -> u16 {
        self.vectors
    }

    /// A client comes: from here until [`Self::detach`] there are so many vectors.
    pub fn attach(&mut self) -> u16 {
        self.vectors = self.shared.count.show();
        self.vectors
    }

    /// Reads from the BAR at `offset`; what is neither table nor pending bits reads zero.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.byte(at).unwrap_or(0);
        }
    }

    /// Writes to the BAR at `offset`; only the table takes it.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, &byte) in (offset..).zip(data) {
            self.write_byte(at, byte);
        }
    }

    /// Gives `vector` an eventfd, or takes its own away.
    ///
    /// # Errors
    /// When the vector does not exist or the descriptor is no eventfd; the old one then stays.
    pub fn set_eventfd(&mut self, vector: u32, fd: Option<OwnedFd>) -> Result<(), MsixError> {
        let slot = self.vector(vector)?;
        let eventfd = fd.map(Eventfd::new).transpose();
        let eventfd = eventfd.map_err(|_| MsixError::NotEventfd)?;
        slot.eventfd.store(eventfd.map(Arc::new));
        self.shared.deliver_pending(vector);
        Ok(())
    }

    /// Takes all eventfds away, as SET_IRQS with a count of 0 asks.
    pub fn clear_eventfds(&mut self) {
        for vector in &self.shared.vectors {
            vector.eventfd.store(None);
        }
    }

    /// Masks or unmasks a vector, as SET_IRQS or the table asks.
    ///
    /// # Errors
    /// When the vector does not exist.
    pub fn set_masked(&mut self, vector: u32, masked: bool) -> Result<(), MsixError> {
        let slot = self.vector(vector)?;
        slot.masked.store(masked, Ordering::SeqCst);
        if !masked {
            self.shared.deliver_pending(vector);
        }
        Ok(())
    }

    /// Takes over the message control of configuration space after it changed.
    pub fn set_control(&mut self, control: MsixControl) {
        self.shared
            .function_masked
            .store(control.function_masked, Ordering::SeqCst);
        if !control.function_masked {
            self.shared.deliver_all_pending();
        }
    }

    /// A function level reset: table and pending bits are as new. Eventfds stay, because they are
    /// the client's wiring and it does not see a reset that its guest started.
    pub fn reset(&mut self) {
        self.entries.fill([0, 0, 0, MASKED]);
        self.control_written.fill(false);
        for word in &self.shared.pending {
            word.store(0, Ordering::SeqCst);
        }
        for vector in &self.shared.vectors {
            vector.masked.store(false, Ordering::SeqCst);
        }
        self.shared.function_masked.store(false, Ordering::SeqCst);
    }

    /// The client is gone: its eventfds are closed and all is reset.
    pub fn detach(&mut self) {
        self.clear_eventfds();
        self.reset();
        self.shared.count.release();
    }

    fn vector(&self, vector: u32) -> Result<&Vector, MsixError> {
        let exists = vector < self.vectors.into();
        let slot = self.shared.vector(vector).filter(|_| exists);
        slot.ok_or(MsixError::NoSuchVector)
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> MsixCounters {
        self.shared.counters.load()
    }

    /// The contents, to be saved while no engine runs.
    #[must_use]
    pub fn save(&self) -> MsixState {
        MsixState {
            version: MsixState::VERSION,
            entries: self.entries.clone(),
            control_written: self.control_written.clone(),
            pending: self
                .shared
                .pending
                .iter()
                .map(|word| word.load(Ordering::SeqCst))
                .collect(),
            function_masked: self.shared.function_masked.load(Ordering::SeqCst),
        }
    }

    /// Takes over saved contents.
    ///
    /// # Errors
    /// [`MsixError::Incompatible`]; nothing is then changed.
    pub fn restore(&mut self, state: &MsixState) -> Result<(), MsixError> {
        let same_size = state.entries.len() == self.entries.len()
            && state.control_written.len() == self.control_written.len()
            && state.pending.len() == self.shared.pending.len();
        if state.version != MsixState::VERSION || !same_size {
            return Err(MsixError::Incompatible);
        }
        self.entries.clone_from(&state.entries);
        self.control_written.clone_from(&state.control_written);
        for (entry, writable) in self
            .entries
            .iter_mut()
            .flat_map(|entry| entry.iter_mut().zip(WRITABLE))
        {
            *entry &= writable;
        }
        let masks = self.entries.iter().zip(&self.control_written);
        for (vector, (entry, &written)) in self.shared.vectors.iter().zip(masks) {
            vector
                .masked
                .store(written && entry[CONTROL] & MASKED != 0, Ordering::SeqCst);
        }
        self.restore_pending(&state.pending);
        self.set_control(MsixControl {
            enabled: true,
            function_masked: state.function_masked,
        });
        Ok(())
    }

    fn restore_pending(&self, pending: &[u64]) {
        let mut left = self.shared.vectors.len();
        for (word, &saved) in self.shared.pending.iter().zip(pending) {
            let valid = if left >= 64 {
                u64::MAX
            } else {
                (1 << left) - 1
            };
            word.store(saved & valid, Ordering::SeqCst);
            left = left.saturating_sub(64);
        }
    }

    /// The byte at `offset` of the BAR.
    fn byte(&self, offset: u64) -> Option<u8> {
        if let Some((entry, dword, lane)) = self.table_position(offset) {
            return self
                .entries
                .get(entry)?
                .get(dword)?
                .to_le_bytes()
                .get(lane)
                .copied();
        }
        let at = usize::try_from(offset.checked_sub(self.layout.pba_offset.into())?).ok()?;
        let word = self.shared.pending.get(at / 8)?.load(Ordering::SeqCst);
        word.to_le_bytes().get(at % 8).copied()
    }

    fn write_byte(&mut self, offset: u64, byte: u8) {
        let Some((entry, dword, lane)) = self.table_position(offset) else {
            return;
        };
        let Some(value) = self
            .entries
            .get_mut(entry)
            .and_then(|entry| entry.get_mut(dword))
        else {
            return;
        };
        let mut bytes = value.to_le_bytes();
        if let Some(old) = bytes.get_mut(lane) {
            *old = byte;
        }
        *value = u32::from_le_bytes(bytes) & WRITABLE.get(dword).copied().unwrap_or(0);
        let masked = *value & MASKED != 0;
        if dword == CONTROL && lane == 0 {
            self.vector_control_written(entry, masked);
        }
    }

    fn vector_control_written(&mut self, vector: usize, masked: bool) {
        if let Some(written) = self.control_written.get_mut(vector) {
            *written = true;
        }
        if let Ok(vector) = u32::try_from(vector) {
            // The entry exists, so the vector does.
            let _ = self.set_masked(vector, masked);
        }
    }

    /// Entry, dword in it and byte in that, of `offset` in the BAR.
    fn table_position(&self, offset: u64) -> Option<(usize, usize, usize)> {
        let at = usize::try_from(offset.checked_sub(self.layout.table_offset.into())?).ok()?;
        let entry = at / ENTRY_SIZE;
        (entry < usize::from(self.vectors)).then_some((entry, at % ENTRY_SIZE / 4, at % 4))
    }
}

impl MsixHandle {
    /// Changes how many vectors there are for the next client, 1 to the most; `false`, and nothing
    /// changes, if there is a client now.
    #[must_use]
    pub fn set_vectors(&self, vectors: u16) -> bool {
        let most = self.shared.vectors.len();
        (1..=most).contains(&usize::from(vectors)) && self.shared.count.change(vectors)
    }

    /// Raises the interrupt of `vector`: signals its eventfd, or sets its pending bit when it is
    /// masked. A vector that does not exist is counted. Memory written before is visible to whoever
    /// then reads the eventfd.
    pub fn raise(&self, vector: u32) {
        let Some(slot) = self.shared.vector(vector) else {
            self.shared
                .counters
                .no_such_vector
                .fetch_add(1, Ordering::Relaxed);
            return;
        };
        if self.shared.deliver(slot) {
            return;
        }
        if let Some((word, bit)) = self.shared.pending_bit(vector) {
            word.fetch_or(bit, Ordering::SeqCst);
        }
        self.shared.counters.pended.fetch_add(1, Ordering::Relaxed);
        self.shared.deliver_pending(vector);
    }

    /// Forgets interrupts that are pending: the function was reset, and what was raised before
    /// concerns nobody any more.
    pub fn discard_pending(&self) {
        for word in &self.shared.pending {
            word.store(0, Ordering::SeqCst);
        }
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> MsixCounters {
        self.shared.counters.load()
    }
}

impl Shared {
    fn vector(&self, vector: u32) -> Option<&Vector> {
        self.vectors.get(usize::try_from(vector).ok()?)
    }

    fn pending_bit(&self, vector: u32) -> Option<(&AtomicU64, u64)> {
        let word = self.pending.get(usize::try_from(vector / 64).ok()?)?;
        Some((word, 1 << (vector % 64)))
    }

    fn is_masked(&self, vector: &Vector) -> bool {
        self.function_masked.load(Ordering::SeqCst) || vector.masked.load(Ordering::SeqCst)
    }

    /// Signals an unmasked vector; false when it is masked or has no eventfd.
    fn deliver(&self, vector: &Vector) -> bool {
        if self.is_masked(vector) {
            return false;
        }
        let eventfd = vector.eventfd.load();
        let Some(eventfd) = eventfd.as_ref() else {
            return false;
        };
        self.counters.signalled(self.signaller.signal(eventfd));
        true
    }

    /// Delivers the pending interrupt of `vector` if there is one and nothing masks it.
    fn deliver_pending(&self, vector: u32) {
        let (Some(slot), Some((word, bit))) = (self.vector(vector), self.pending_bit(vector))
        else {
            return;
        };
        // Between this thread's store (pending bit, or mask and eventfd) and its loads of the other.
        fence(Ordering::SeqCst);
        if word.load(Ordering::SeqCst) & bit == 0 || self.is_masked(slot) {
            return;
        }
        let eventfd = slot.eventfd.load();
        let Some(eventfd) = eventfd.as_ref() else {
            return;
        };
        if word.fetch_and(!bit, Ordering::SeqCst) & bit != 0 {
            self.counters.signalled(self.signaller.signal(eventfd));
        }
    }

    fn deliver_all_pending(&self) {
        for (vector, _) in (0u32..).zip(&self.vectors) {
            self.deliver_pending(vector);
        }
    }
}

impl Counters {
    fn signalled(&self, result: Result<(), Errno>) {
        let counter = if result.is_ok() {
            &self.delivered
        } else {
            &self.failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn load(&self) -> MsixCounters {
        MsixCounters {
            delivered: self.delivered.load(Ordering::Relaxed),
            pended: self.pended.load(Ordering::Relaxed),
            no_such_vector: self.no_such_vector.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}
