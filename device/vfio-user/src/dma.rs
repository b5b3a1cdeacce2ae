//! DMA requests towards the client: cut into chunks, sent, matched to replies.
//!
//! Accesses are cut in the order they came; at most
//! [`DMA_WINDOW`] chunks are in flight. Message IDs are ours to choose, and
//! each is used by one chunk at a time. When an access fails, what was not yet
//! sent of it is dropped; it completes when all of its chunks are answered.
//! What is left when the queue is dropped fails as disconnected.
//!
//! QEMU's client of 10.1 lays these messages out differently
//! ([`Layout::Narrow`]); it, and no other known client, is of minor version 0.
//! With such a client the first message is a read with a count of 2^32, which
//! the narrow layout takes for 0 and grants, and the wide one refuses.

use std::collections::{BTreeMap, VecDeque};

use rustix::io::Errno;

use crate::handle::{Direction, DmaAccess, DmaError};
use crate::limits::DMA_WINDOW;
use crate::outbox::Outbox;
use crate::wire::dma::{self, Layout};
use crate::wire::{Command, Header, Kind};

/// A reply that answers nothing we asked. It ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReplyError {
    /// No request with this ID and command is outstanding.
    #[error("a reply to {0:?} answers no request")]
    Unasked(Command),
    /// The reply's size, address or count is not that of the request.
    #[error("a reply to {0:?} does not fit its request")]
    Mismatch(Command),
}

#[derive(Debug)]
enum Knowledge {
    Unknown,
    Asked,
    Known(Layout),
}

#[derive(Debug)]
struct Active {
    access: DmaAccess,
    issued: usize,
    in_flight: usize,
    failed: Option<DmaError>,
}

#[derive(Debug, Clone, Copy)]
enum Purpose {
    LayoutProbe,
    Chunk {
        access: u64,
        offset: usize,
        length: usize,
    },
}

#[derive(Debug, Clone, Copy)]
struct Outstanding {
    id: u16,
    command: Command,
    purpose: Purpose,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct DmaQueue {
    accesses: BTreeMap<u64, Active>,
    // Accesses of which something is not yet sent, in order.
    unsent: VecDeque<u64>,
    outstanding: Vec<Outstanding>,
    next_access: u64,
    next_id: u16,
    max_chunk: usize,
    layout: Knowledge,
}

impl DmaQueue {
    pub(crate) fn new(minor: u16, max_chunk: u32) -> Self {
        Self {
            accesses: BTreeMap::new(),
            unsent: VecDeque::new(),
            outstanding: Vec::with_capacity(DMA_WINDOW),
            next_access: 0,
            next_id: 0,
            max_chunk: usize::try_from(max_chunk).unwrap_or(usize::MAX).max(1),
            layout: match minor {
                0 => Knowledge::Unknown,
                _ => Knowledge::Known(Layout::Wide),
            },
        }
    }

    /// Takes an access and sends what the window allows.
    pub(crate) fn submit(&mut self, access: DmaAccess, out: &mut Outbox) {
        if access.data.is_empty() {
            return access.completion.complete(Ok(Vec::new()));
        }
        let key = self.next_access;
        self.next_access = self.next_access.wrapping_add(1);
        let active = Active {
            access,
            issued: 0,
            in_flight: 0,
            failed: None,
        };
        self.accesses.insert(key, active);
        self.unsent.push_back(key);
        self.pump(out);
    }

    /// Takes a reply and sends what the window allows.
    pub(crate) fn reply(
        &mut self,
        header: &Header,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), ReplyError> {
        let asked = |o: &Outstanding| o.id == header.id && o.command == header.command;
        let Some(index) = self.outstanding.iter().position(asked) else {
            return Err(ReplyError::Unasked(header.command));
        };
        let outstanding = self.outstanding.swap_remove(index);
        let answer = match header.kind {
            Kind::Error(errno) => Err(errno_of(errno)),
            _ => Ok(body),
        };
        match outstanding.purpose {
            Purpose::LayoutProbe => {
                let layout = answer.map_or(Layout::Wide, |_| Layout::Narrow);
                self.layout = Knowledge::Known(layout);
            }
            Purpose::Chunk {
                access,
                offset,
                length,
            } => self.chunk_done(header.command, access, offset, length, answer)?,
        }
        self.pump(out);
        Ok(())
    }

    fn chunk_done(
        &mut self,
        command: Command,
        key: u64,
        offset: usize,
        length: usize,
        answer: Result<&[u8], Errno>,
    ) -> Result<(), ReplyError> {
        let layout = self.known_layout().unwrap_or(Layout::Wide);
        let Some(active) = self.accesses.get_mut(&key) else {
            return Ok(());
        };
        match answer {
            Ok(body) => active
                .take(layout, offset, length, body)
                .ok_or(ReplyError::Mismatch(command))?,
            Err(errno) => active.failed = Some(DmaError::Refused(errno)),
        }
        active.in_flight = active.in_flight.saturating_sub(1);
        self.finish(key);
        Ok(())
    }

    /// Completes an access if nothing is left to wait for.
    fn finish(&mut self, key: u64) {
        let Some(active) = self.accesses.get(&key) else {
            return;
        };
        let all_sent = active.issued >= active.access.data.len();
        if active.in_flight > 0 || !(all_sent || active.failed.is_some()) {
            return;
        }
        if !all_sent {
            self.unsent.retain(|unsent| *unsent != key);
        }
        if let Some(active) = self.accesses.remove(&key) {
            let DmaAccess {
                data, completion, ..
            } = active.access;
            completion.complete(active.failed.map_or(Ok(data), Err));
        }
    }

    fn known_layout(&self) -> Option<Layout> {
        match self.layout {
            Knowledge::Known(layout) => Some(layout),
            Knowledge::Unknown | Knowledge::Asked => None,
        }
    }

    fn pump(&mut self, out: &mut Outbox) {
        while let Some(key) = self.unsent.front().copied() {
            if self.outstanding.len() >= DMA_WINDOW {
                return;
            }
            match self.layout {
                Knowledge::Asked => return,
                Knowledge::Unknown => return self.probe(key, out),
                Knowledge::Known(layout) => self.send_chunk(key, layout, out),
            }
        }
    }

    fn probe(&mut self, key: u64, out: &mut Outbox) {
        self.layout = Knowledge::Asked;
        let iova = self.accesses.get(&key).map_or(0, |a| a.access.iova);
        let header = self.command(Command::DmaRead, Purpose::LayoutProbe);
        out.push(header, Vec::new(), |body| {
            dma::emit_read(body, iova, 1 << 32)
        });
    }

    fn send_chunk(&mut self, key: u64, layout: Layout, out: &mut Outbox) {
        let max_chunk = self.max_chunk;
        let Some(active) = self.accesses.get_mut(&key) else {
            self.unsent.pop_front();
            return;
        };
        let (offset, left) = (active.issued, active.access.data.len() - active.issued);
        if left == 0 || active.failed.is_some() {
            self.unsent.pop_front();
            return;
        }
        let length = left.min(max_chunk);
        active.issued += length;
        active.in_flight += 1;
        let command = match active.access.direction {
            Direction::Read => Command::DmaRead,
            Direction::Write => Command::DmaWrite,
        };
        let purpose = Purpose::Chunk {
            access: key,
            offset,
            length,
        };
        let header = self.command(command, purpose);
        let Some(active) = self.accesses.get(&key) else {
            return;
        };
        let iova = active.iova(offset);
        let data = active.chunk(offset, length);
        out.push(header, Vec::new(), |body| match command {
            Command::DmaWrite => dma::emit_write(body, layout, iova, data),
            _ => dma::emit_read(body, iova, length as u64),
        });
    }

    /// The header of a new command, noted as outstanding.
    fn command(&mut self, command: Command, purpose: Purpose) -> Header {
        // The window is far smaller than the number of IDs.
        while self.outstanding.iter().any(|o| o.id == self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.outstanding.push(Outstanding {
            id,
            command,
            purpose,
        });
        Header {
            id,
            command,
            body: 0,
            kind: Kind::Command { no_reply: false },
        }
    }
}

impl Active {
    fn iova(&self, offset: usize) -> u64 {
        // The end of the access was checked when it was submitted.
        self.access.iova.wrapping_add(offset as u64)
    }

    fn chunk(&self, offset: usize, length: usize) -> &[u8] {
        let end = offset.saturating_add(length);
        self.access.data.get(offset..end).unwrap_or_default()
    }

    /// Takes the body of a successful reply; `None` if it does not fit.
    fn take(&mut self, layout: Layout, offset: usize, length: usize, body: &[u8]) -> Option<()> {
        let iova = self.iova(offset);
        if self.access.direction == Direction::Write {
            return dma::is_write_reply(body, iova, length).then_some(());
        }
        let data = dma::parse_read_reply(body, layout, iova, length)?;
        let room = self
            .access
            .data
            .get_mut(offset..offset.checked_add(length)?)?;
        room.copy_from_slice(data);
        Some(())
    }
}

/// The errno of an error reply, which may be 0 or nonsense.
fn errno_of(raw: u32) -> Errno {
    match i32::try_from(raw) {
        Ok(raw @ 1..=4095) => Errno::from_raw_os_error(raw),
        _ => Errno::IO,
    }
}
