//! An open device, and what a process has of it: memory, doorbell pages and the handles of objects.
//! Threads share it without agreeing on anything.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use vrnic_abi::verbs::VERSION;

use crate::command::{Bytes, Command, Way};
use crate::tally::{Call, Tally};

/// Bytes of memory that queues and regions are made in.
const MEMORY: usize = 1 << 20;
/// Size of a page.
pub(crate) const PAGE: usize = 4096;

/// Memory that was mapped. It is written as raw bytes only, by anybody at any time.
pub(crate) struct Area {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it is accessed by volatile stores only, and nothing depends on what is in it.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    fn map(length: usize, prot: i32, flags: i32, fd: RawFd, offset: u64) -> io::Result<Self> {
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                prot,
                flags,
                fd,
                offset as libc::off_t,
            )
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast::<libc::c_void>() != libc::MAP_FAILED => {
                Ok(Self { start, length })
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Address in the process.
    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Stores a byte, wherever in the area `offset` leads to.
    pub(crate) fn store(&self, offset: usize, value: u8) {
        // SAFETY: it lies in the mapping.
        unsafe {
            self.start
                .as_ptr()
                .add(offset % self.length)
                .write_volatile(value)
        };
    }

    /// The same with eight bytes, aligned.
    pub(crate) fn store_word(&self, offset: usize, value: u64) {
        let offset = (offset % self.length) & !7;
        // SAFETY: it lies in the mapping, as its length is a multiple of 8, and is aligned.
        unsafe {
            self.start
                .as_ptr()
                .add(offset)
                .cast::<u64>()
                .write_volatile(value)
        };
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nobody has it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Handles of objects of a kind.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<u32>>);

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, handle: u32) {
        self.lock().push(handle);
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// One of them; 0 if there is none.
    pub(crate) fn pick(&self, index: usize) -> u32 {
        let handles = self.lock();
        handles
            .get(index % handles.len().max(1))
            .copied()
            .unwrap_or(0)
    }

    pub(crate) fn forget(&self, handle: u32) {
        self.lock().retain(|found| *found != handle);
    }
}

/// A queue, as far as scribbling needs to know: where its doorbell is, and its number if it sends.
#[derive(Clone, Copy)]
pub(crate) struct Queue {
    pub(crate) page: usize,
    pub(crate) slot: u32,
    pub(crate) qpn: Option<u32>,
    /// Offset of its ring in the memory.
    pub(crate) ring: usize,
}

/// An open device.
pub(crate) struct Context {
    file: File,
    _events: OwnedFd,
    pub(crate) memory: Area,
    /// Doorbell pages by their index in the context, and their kick pages.
    pub(crate) pages: Mutex<Vec<(Area, Area)>>,
    pub(crate) queues: Mutex<Vec<Queue>>,
    pub(crate) channels: Mutex<Vec<OwnedFd>>,
    pub(crate) pds: Pool,
    pub(crate) mrs: Pool,
    pub(crate) keys: Pool,
    pub(crate) mws: Pool,
    pub(crate) cqs: Pool,
    pub(crate) srqs: Pool,
    pub(crate) qps: Pool,
    pub(crate) qpns: Pool,
    pub(crate) ahs: Pool,
    pub(crate) xrcds: Pool,
}

impl Context {
    /// Opens the device.
    pub(crate) fn open(device: &str, tally: &Tally) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(device)?;
        let own = Bytes::default().u32(VERSION).u32(0).u64(0);
        let command = Command::new(0, Bytes::default(), 8).with(own, 96);
        let answer = tally.note(Call::GetContext, command.send(file.as_raw_fd(), Way::Write))?;
        // SAFETY: the kernel has just opened it for us.
        let events = unsafe { OwnedFd::from_raw_fd(answer.u32(0) as RawFd) };
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
        );
        let context = Self {
            file,
            _events: events,
            memory: Area::map(MEMORY, prot, flags, -1, 0)?,
            pages: Mutex::default(),
            queues: Mutex::default(),
            channels: Mutex::default(),
            pds: Pool::default(),
            mrs: Pool::default(),
            keys: Pool::default(),
            mws: Pool::default(),
            cqs: Pool::default(),
            srqs: Pool::default(),
            qps: Pool::default(),
            qpns: Pool::default(),
            ahs: Pool::default(),
            xrcds: Pool::default(),
        };
        context.map_page(
            answer.own_u32(0x10),
            answer.own_u64(0x18),
            answer.own_u64(0x20),
            tally,
        );
        Ok(context)
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Maps page `index` of the context, if that is the next one.
    pub(crate) fn map_page(&self, index: u32, doorbell: u64, kick: u64, tally: &Tally) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if index as usize != pages.len() {
            return;
        }
        let map = |offset, prot| {
            tally.note(
                Call::Map,
                Area::map(PAGE, prot, libc::MAP_SHARED, self.fd(), offset),
            )
        };
        let doorbell = map(doorbell, libc::PROT_READ | libc::PROT_WRITE);
        let kick = map(kick, libc::PROT_WRITE);
        if let (Ok(doorbell), Ok(kick)) = (doorbell, kick) {
            pages.push((doorbell, kick));
        }
    }

    /// Tries to map something that it was not told of, and stores into it if that works.
    pub(crate) fn map_any(&self, offset: u64, length: usize, value: u64) {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        if let Ok(area) = Area::map(length, prot, libc::MAP_SHARED, self.fd(), offset) {
            area.store_word(value as usize, value);
        }
    }

    /// Notes a queue for scribbling.
    pub(crate) fn add_queue(&self, queue: Queue) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        // Old ones are most likely gone.
        if queues.len() >= 64 {
            queues.remove(0);
        }
        queues.push(queue);
    }

    /// One of the queues.
    pub(crate) fn queue(&self, index: usize) -> Option<Queue> {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.get(index % queues.len().max(1)).copied()
    }
}
