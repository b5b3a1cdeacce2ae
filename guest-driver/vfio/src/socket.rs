//! A function on a vfio-user socket: a client of the protocol (vfio-user specification 0.9.2, as
//! published with libvfio-user and in QEMU's documentation).
//!
//! Requests are answered in the order in which they are made, one at a time. The server may ask
//! for memory that is not shared with it at any time, so in that case a thread of its own receives
//! all messages and passes the answers on.

mod connection;
mod memory;
mod message;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::{bytes_of, pod_read_unaligned};

use crate::bus::{Bus, DmaRange, RegionInfo, mappable_start};
use crate::mapping::Mapping;
use connection::{Answer, Connection, Receiver};
use memory::Memory;
use message::{
    Command, DMA_READ_WRITE, DmaMap, DmaUnmap, IRQ_EVENTFD_TRIGGER, IRQ_INDEX_MSIX, RegionAccess,
    SetIrqs,
};

/// Most bytes asked for or sent in one region access.
const MAX_ACCESS: usize = 4096;

/// A client of a vfio-user server.
pub(crate) struct SocketBus {
    connection: Arc<Connection>,
    receiver: Mutex<Receiver>,
    memory: Arc<Memory>,
    share: bool,
    max_fds: usize,
}

impl SocketBus {
    /// Connects and negotiates. With `share` the server maps DMA memory, else it asks for it.
    pub(crate) fn connect(path: &Path, share: bool) -> io::Result<Self> {
        let connection = Arc::new(Connection::connect(path)?);
        let memory = Arc::new(Memory::default());
        let mut receiver = Receiver::direct();
        let max_fds = connection.negotiate(&mut receiver)?;
        if !share {
            receiver = Receiver::threaded(&connection, &memory)?;
        }
        Ok(Self {
            connection,
            receiver: Mutex::new(receiver),
            memory,
            share,
            max_fds,
        })
    }

    fn request(
        &self,
        command: Command,
        body: &[&[u8]],
        files: &[std::os::fd::BorrowedFd<'_>],
    ) -> io::Result<Answer> {
        // Held until the answer is there: one request at a time.
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.connection.send_request(command, body, files)?;
        receiver.receive(&self.connection, &self.memory, id)
    }

    /// The server's description of a region, with its capabilities and file.
    fn region(&self, index: u32) -> io::Result<Answer> {
        let question = RegionInfo {
            argsz: 4096,
            index,
            ..RegionInfo::default()
        };
        self.request(Command::GetRegionInfo, &[bytes_of(&question)], &[])
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Bus for SocketBus {
    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        if data.len() > MAX_ACCESS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let access = RegionAccess {
            offset,
            region,
            count: data.len() as u32,
        };
        let answer = self.request(Command::RegionRead, &[bytes_of(&access)], &[])?;
        let bytes = answer.body.get(size_of::<RegionAccess>()..);
        let bytes = bytes.filter(|bytes| bytes.len() == data.len());
        data.copy_from_slice(bytes.ok_or_else(|| invalid("short answer to a region read"))?);
        Ok(())
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        if data.len() > MAX_ACCESS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let access = RegionAccess {
            offset,
            region,
            count: data.len() as u32,
        };
        let body = [bytes_of(&access), data];
        self.request(Command::RegionWrite, &body, &[]).map(drop)
    }

    fn map_region(&self, region: u32) -> io::Result<Option<Mapping>> {
        let answer = self.region(region)?;
        let start = answer.body.get(..size_of::<RegionInfo>());
        let info: RegionInfo = pod_read_unaligned(start.ok_or_else(|| invalid("short answer"))?);
        let (Some(area), Some(file)) = (mappable_start(&answer.body), answer.files.first()) else {
            return Ok(None);
        };
        let length = usize::try_from(area.length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Mapping::new(file, info.offset, length).map(Some)
    }

    fn map_dma(&self, range: &DmaRange<'_>) -> io::Result<()> {
        let (file, mapping) = range.file.ok_or(io::ErrorKind::Unsupported)?;
        let map = DmaMap {
            argsz: size_of::<DmaMap>() as u32,
            flags: DMA_READ_WRITE,
            offset: 0,
            address: range.iova,
            size: range.length,
        };
        self.memory.insert(range.iova, mapping);
        let files: &[_] = if self.share { &[file] } else { &[] };
        let mapped = self.request(Command::DmaMap, &[bytes_of(&map)], files);
        if mapped.is_err() {
            self.memory.remove(range.iova);
        }
        mapped.map(drop)
    }

    fn unmap_dma(&self, iova: u64, length: u64) -> io::Result<()> {
        let unmap = DmaUnmap {
            argsz: size_of::<DmaUnmap>() as u32,
            flags: 0,
            address: iova,
            size: length,
        };
        self.request(Command::DmaUnmap, &[bytes_of(&unmap)], &[])?;
        self.memory.remove(iova);
        Ok(())
    }

    fn set_interrupts(&self, eventfds: &[OwnedFd]) -> io::Result<()> {
        let mut start = 0;
        for part in eventfds.chunks(self.max_fds) {
            let set = SetIrqs {
                argsz: size_of::<SetIrqs>() as u32,
                flags: IRQ_EVENTFD_TRIGGER,
                index: IRQ_INDEX_MSIX,
                start,
                count: part.len() as u32,
            };
            let files: Vec<_> = part.iter().map(AsFd::as_fd).collect();
            self.request(Command::SetIrqs, &[bytes_of(&set)], &files)?;
            start += part.len() as u32;
        }
        Ok(())
    }

    fn reset(&self) -> io::Result<()> {
        self.request(Command::DeviceReset, &[], &[]).map(drop)
    }
}

impl Drop for SocketBus {
    fn drop(&mut self) {
        // Ends the receiving thread, if there is one.
        self.connection.shutdown();
    }
}
