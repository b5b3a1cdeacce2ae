//! The rings of the admin queue (see [`vrnic_abi::admin`]).
//!
//! `consumed` ≤ `completed` ≤ `fetched` ≤ `announced`, modulo 2^16; a command is fetched only when
//! its completion has room, that is, while fewer commands than the ring has entries are between
//! `consumed` and `fetched`.

use vrnic_abi::admin::{Command, Completion};
use vrnic_abi::registers::HealthCode;

use crate::frontend::registers::Fault;
use crate::host::{Host, Memory, TraceEvent};

/// The admin queue of a running function.
#[derive(Clone, Debug)]
pub(in crate::frontend) struct AdminQueue {
    submission: u64,
    completion: u64,
    /// Entries of both rings, a power of two below 2^16.
    entries: u16,
    vector: Option<u16>,
    announced: u16,
    fetched: u16,
    completed: u16,
    consumed: u16,
}

impl AdminQueue {
    /// An empty queue of `entries` entries.
    #[must_use]
    pub(in crate::frontend) fn new(
        submission: u64,
        completion: u64,
        entries: u32,
        vector: Option<u16>,
    ) -> Self {
        Self {
            submission,
            completion,
            entries: u16::try_from(entries).unwrap_or(1),
            vector,
            announced: 0,
            fetched: 0,
            completed: 0,
            consumed: 0,
        }
    }

    /// Takes the number of commands ever submitted.
    ///
    /// # Errors
    /// If the ring does not hold as many.
    pub(in crate::frontend) fn announce(&mut self, value: u16) -> Result<(), Fault> {
        if value.wrapping_sub(self.fetched) > self.entries {
            return Err(Fault {
                code: HealthCode::AdminRingOverrun,
                object: value.into(),
                address: self.submission,
            });
        }
        self.announced = value;
        Ok(())
    }

    /// Takes the number of completions ever consumed; values that make no sense are ignored.
    pub(in crate::frontend) fn consume<H: Host>(&mut self, host: &H, value: u16) {
        let outstanding = self.completed.wrapping_sub(self.consumed);
        if self.completed.wrapping_sub(value) > outstanding {
            return;
        }
        self.consumed = value;
        if self.completed != self.consumed {
            self.interrupt(host);
        }
    }

    /// The queue's vector, if it has one.
    pub(in crate::frontend) const fn vector(&self) -> Option<u16> {
        self.vector
    }

    /// Raises the queue's vector, if it has one.
    pub(in crate::frontend) fn interrupt<H: Host>(&self, host: &H) {
        if let Some(vector) = self.vector {
            host.trace(&TraceEvent::Interrupt { vector });
            host.raise(vector);
        }
    }

    /// Whether a command can be fetched.
    #[must_use]
    pub(in crate::frontend) const fn has_command(&self) -> bool {
        self.announced != self.fetched && self.fetched.wrapping_sub(self.consumed) < self.entries
    }

    /// Fetches the next command, if there is one and room for its completion.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(in crate::frontend) fn fetch<H: Host>(
        &mut self,
        host: &H,
    ) -> Result<Option<Command>, Fault> {
        if !self.has_command() {
            return Ok(None);
        }
        let mut command = Command::default();
        let address = self.submission + self.offset(self.fetched, Command::SIZE);
        let bytes = bytemuck::bytes_of_mut(&mut command);
        host.memory()
            .read(address, bytes)
            .map_err(|_| dma_failed(address))?;
        host.trace(&TraceEvent::Command(bytes));
        self.fetched = self.fetched.wrapping_add(1);
        Ok(Some(command))
    }

    /// Writes a completion.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(in crate::frontend) fn complete<H: Host>(
        &mut self,
        host: &H,
        mut entry: Completion,
    ) -> Result<(), Fault> {
        let address = self.completion + self.offset(self.completed, Completion::SIZE);
        let pass = self.completed / self.entries;
        entry.owner = u8::from(pass & 1 == 0);
        let bytes = bytemuck::bytes_of(&entry);
        host.memory()
            .write_publish(address, bytes)
            .map_err(|_| dma_failed(address))?;
        host.trace(&TraceEvent::CommandDone(bytes));
        self.completed = self.completed.wrapping_add(1);
        self.interrupt(host);
        Ok(())
    }

    /// Byte offset of an entry in its ring. With the bases checked, sums do not overflow.
    fn offset(&self, index: u16, size: usize) -> u64 {
        u64::from(index & (self.entries - 1)) * size as u64
    }
}

const fn dma_failed(address: u64) -> Fault {
    Fault {
        code: HealthCode::AdminDmaFailed,
        object: 0,
        address,
    }
}
