//! Send and receive queues of a queue pair in guest memory (see [`vrnic_abi::wqe`]).
//!
//! Three counters run around a send ring, all modulo 2^32: `consumer` (ended) ≤ `fetched` (handed
//! to the transport) ≤ `producer` (posted, as the doorbell said), never further apart than the ring
//! is long. The receive ring has the same, its producer is read from the doorbell slot when a
//! request is needed. Entries are copied out of guest memory several at a time, and only those that
//! were posted, which the driver leaves alone until they have ended.

use alloc::boxed::Box;

use vrnic_abi::doorbell;
use vrnic_abi::wqe::{BASIC_BLOCK, MAX_BLOCKS, SEGMENT};

use super::work::{decode_receive, decode_send, malformed, request_vector};
use crate::host::{Host, Memory, TraceEvent};
use crate::resource::PageMap;
use crate::transport::{Domain, Kind, ReceiveWork, Remote, SendWork, SgList, Vector};
use crate::types::Outcome;

/// Blocks that are copied at a time.
const WINDOW_BLOCKS: u32 = 16;
const WINDOW_BYTES: usize = WINDOW_BLOCKS as usize * BASIC_BLOCK;
/// Largest receive entry.
const MAX_ENTRY: usize = SEGMENT << crate::resource::limits::LOG_RECEIVE_SEGMENTS;

/// What became of a doorbell value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// Nothing new.
    Nothing,
    /// New work.
    Work,
    /// It makes no sense: another queue pair's number, or going back.
    Bad,
    /// It announces more than the ring holds.
    Overrun,
}

/// A send queue.
#[derive(Clone, Debug)]
pub struct SendRing {
    /// Where the ring starts in the queue pair's buffer.
    offset: u64,
    /// Doorbell page and slot.
    pub doorbell: (u32, u32),
    mask: u32,
    producer: u32,
    /// No request is handed out from this index on, if it is set.
    held_at: Option<u32>,
    fetched: u32,
    consumer: u32,
    window: Box<[u8; WINDOW_BYTES]>,
    /// Index of the first block in the window, and how many it holds.
    window_at: u32,
    window_blocks: u32,
    /// The address vector in the datagram that was last handed out.
    pub vector: Vector,
}

impl SendRing {
    /// An empty ring of 2^`log_blocks` blocks that starts at `offset` in its buffer.
    #[must_use]
    pub fn new(offset: u64, log_blocks: u8, doorbell: (u32, u32)) -> Self {
        Self {
            offset,
            doorbell,
            mask: (1u32 << log_blocks) - 1,
            producer: 0,
            held_at: None,
            fetched: 0,
            consumer: 0,
            window: Box::new([0; WINDOW_BYTES]),
            window_at: 0,
            window_blocks: 0,
            vector: Vector::default(),
        }
    }

    /// Starts over with an empty ring.
    pub fn reset(&mut self) {
        self.producer = 0;
        self.held_at = None;
        self.fetched = 0;
        self.consumer = 0;
        self.window_blocks = 0;
    }

    /// Hands out nothing that is posted from now on, until [`Self::release`].
    pub const fn hold(&mut self) {
        self.held_at = Some(self.producer);
    }

    /// Hands out everything again.
    pub const fn release(&mut self) {
        self.held_at = None;
    }

    /// Blocks ever posted, as last seen.
    #[must_use]
    pub const fn producer(&self) -> u32 {
        self.producer
    }

    /// Blocks ever ended.
    #[must_use]
    pub const fn consumer(&self) -> u32 {
        self.consumer
    }

    /// Basic blocks of requests that were handed out and have not ended.
    #[must_use]
    pub const fn handed_out(&self) -> u32 {
        self.fetched.wrapping_sub(self.consumer)
    }

    /// Takes the value of the doorbell slot of queue pair `qpn`. Slots of a group are looked at
    /// together, so that the value can be old, or none yet.
    pub fn ring(&mut self, value: u64, qpn: u32) -> Rung {
        let named = (value >> 32) as u32;
        let producer = doorbell::index(value);
        if named == 0 {
            return Rung::Nothing;
        }
        if named != qpn {
            return Rung::Bad;
        }
        if producer == self.producer {
            return Rung::Nothing;
        }
        let posted = producer.wrapping_sub(self.consumer);
        if posted > self.mask.wrapping_add(1) {
            return Rung::Overrun;
        }
        if posted < self.producer.wrapping_sub(self.consumer) {
            return Rung::Bad;
        }
        self.producer = producer;
        Rung::Work
    }

    /// The next work request, its cookie set; `None` if there is none. With `signal_all`, whatever
    /// it says, it writes a completion.
    pub fn next<H: Host>(
        &mut self,
        host: &H,
        pages: &PageMap,
        (kind, qpn): (Kind, u32),
        signal_all: bool,
    ) -> Option<SendWork> {
        let end = self.held_at.unwrap_or(self.producer);
        let posted = end.wrapping_sub(self.fetched);
        if posted == 0 {
            return None;
        }
        let index = self.fetched;
        let mut work = malformed();
        let blocks = match self.look(host, pages, posted) {
            Some(bytes) => decode_send(kind, bytes, index, &mut work),
            None => 1,
        };
        if let Some(entry) = self.windowed(blocks) {
            host.trace(&TraceEvent::WorkRequest { qpn, entry });
            if let Remote::Datagram(_) = work.remote {
                self.vector = request_vector(entry).unwrap_or_default();
            }
        }
        work.signaled |= signal_all;
        work.cookie = u64::from(index) | u64::from(blocks) << 32;
        self.fetched = index.wrapping_add(blocks);
        Some(work)
    }

    /// Ends the request with `cookie` and returns the index of its first block.
    pub fn end(&mut self, cookie: u64) -> u32 {
        let index = cookie as u32;
        self.consumer = index.wrapping_add((cookie >> 32) as u32);
        index
    }

    /// The next blocks, at most as many as were posted; enough for any request.
    fn look<H: Host>(&mut self, host: &H, pages: &PageMap, posted: u32) -> Option<&[u8]> {
        let wanted = posted.min(MAX_BLOCKS as u32);
        if self.windowed(wanted).is_none() {
            self.refill(host, pages, posted)?;
        }
        self.windowed(wanted)
    }

    /// The next `blocks` blocks, if the window holds them.
    fn windowed(&self, blocks: u32) -> Option<&[u8]> {
        let at = self.fetched.wrapping_sub(self.window_at);
        if at.checked_add(blocks)? > self.window_blocks {
            return None;
        }
        let start = usize::try_from(at).ok()? * BASIC_BLOCK;
        let length = usize::try_from(blocks).ok()? * BASIC_BLOCK;
        self.window.get(start..start + length)
    }

    fn refill<H: Host>(&mut self, host: &H, pages: &PageMap, posted: u32) -> Option<()> {
        self.window_blocks = 0;
        let blocks = posted.min(WINDOW_BLOCKS);
        let mut done = 0;
        while done < blocks {
            let at = self.fetched.wrapping_add(done) & self.mask;
            let to_end = (self.mask - at).saturating_add(1);
            let offset = self.offset + u64::from(at) * BASIC_BLOCK as u64;
            let (address, run) = pages.run(offset)?;
            let run = u32::try_from(run / BASIC_BLOCK as u64).unwrap_or(u32::MAX);
            let count = run.min(to_end).min(blocks - done);
            let bytes = window_range(&mut self.window, done, count)?;
            host.memory().read(address, bytes).ok()?;
            done += count;
        }
        self.window_at = self.fetched;
        self.window_blocks = blocks;
        Some(())
    }
}

fn window_range(window: &mut [u8; WINDOW_BYTES], at: u32, blocks: u32) -> Option<&mut [u8]> {
    if blocks == 0 {
        return None;
    }
    let start = usize::try_from(at).ok()? * BASIC_BLOCK;
    let length = usize::try_from(blocks).ok()? * BASIC_BLOCK;
    window.get_mut(start..start + length)
}

/// A receive queue.
#[derive(Clone, Debug)]
pub struct ReceiveRing {
    /// Doorbell page and slot.
    pub doorbell: (u32, u32),
    mask: u32,
    /// Size of an entry in bytes, a power of two up to [`MAX_ENTRY`].
    entry: usize,
    producer: u32,
    fetched: u32,
    consumer: u32,
}

impl ReceiveRing {
    /// An empty ring of 2^`log_entries` entries of 2^`log_segments` segments, at the start of its
    /// buffer.
    #[must_use]
    pub const fn new(log_entries: u8, log_segments: u8, doorbell: (u32, u32)) -> Self {
        Self {
            doorbell,
            mask: (1u32 << log_entries) - 1,
            entry: SEGMENT << log_segments,
            producer: 0,
            fetched: 0,
            consumer: 0,
        }
    }

    /// Starts over with an empty ring.
    pub fn reset(&mut self) {
        self.producer = 0;
        self.fetched = 0;
        self.consumer = 0;
    }

    /// Number of entries.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.mask.wrapping_add(1)
    }

    /// Data segments in an entry.
    #[must_use]
    pub const fn segments(&self) -> usize {
        self.entry / SEGMENT
    }

    /// Entries ever posted, as last seen.
    #[must_use]
    pub const fn producer(&self) -> u32 {
        self.producer
    }

    /// Entries ever consumed.
    #[must_use]
    pub const fn consumer(&self) -> u32 {
        self.consumer
    }

    /// Entries that were posted, as last seen, and not taken.
    #[must_use]
    pub const fn left(&self) -> u32 {
        self.producer.wrapping_sub(self.fetched)
    }

    /// The next work request, its cookie set, its buffers in `domain`; `None` if there is none. Also
    /// says whether the doorbell made sense.
    pub fn next<H: Host>(
        &mut self,
        host: &H,
        pages: &PageMap,
        domain: Domain,
    ) -> (Option<ReceiveWork>, bool) {
        if self.producer == self.fetched {
            let valid = self.look(host);
            if self.producer == self.fetched {
                return (None, valid);
            }
        }
        let index = self.fetched;
        self.fetched = index.wrapping_add(1);
        let mut work = self.fetch(host, pages, index).unwrap_or(ReceiveWork {
            cookie: 0,
            domain,
            sges: SgList::new(),
            invalid: Some(Outcome::LocalQpOperation),
        });
        work.cookie = index.into();
        work.domain = domain;
        (Some(work), true)
    }

    /// Reads the doorbell slot; `false` if it makes no sense.
    pub fn look<H: Host>(&mut self, host: &H) -> bool {
        let value = host.doorbell(self.doorbell.0, self.doorbell.1);
        let producer = doorbell::index(value);
        let posted = producer.wrapping_sub(self.consumer);
        let known = self.producer.wrapping_sub(self.consumer);
        let valid = posted <= self.mask.wrapping_add(1) && posted >= known;
        if valid {
            self.producer = producer;
        }
        valid
    }

    /// Ends the request with `cookie` and returns the index of its entry.
    pub fn end(&mut self, cookie: u64) -> u32 {
        let index = cookie as u32;
        self.consumer = index.wrapping_add(1);
        index
    }

    fn fetch<H: Host>(&self, host: &H, pages: &PageMap, index: u32) -> Option<ReceiveWork> {
        let mut buffer = [0; MAX_ENTRY];
        let bytes = buffer.get_mut(..self.entry)?;
        let offset = u64::from(index & self.mask) * u64::try_from(self.entry).ok()?;
        let (address, _) = pages.run(offset)?;
        host.memory().read(address, bytes).ok()?;
        Some(decode_receive(bytes))
    }
}
