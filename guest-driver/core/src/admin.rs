//! The admin queue: commands in flight, their completions and their memory.
//!
//! Commands are issued in sleepable context and complete in any order. Completions are taken from
//! the ring in atomic context, by an interrupt handler or by whoever waits; that only copies them
//! into the command's slot, where the owner of the [`PendingCommand`] finds them.
//!
//! A slot keeps the DMA buffer of its command alive until the slot is used again after the
//! command has completed, or until the function was reset, whatever happens to the command's
//! owner. A command that misses its deadline makes the device count as lost.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use vrnic_abi::admin::{AdminOpcode, Command, CommandHeader, Completion, Status};
use vrnic_abi::registers;

use crate::device::Shared;
use crate::error::Error;
use crate::platform::{DmaBuffer, Lock, Platform};
use crate::ring::{RingSize, owner_of};

/// What a slot's command is doing.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Free,
    Outstanding,
    /// Outstanding, and nobody waits for it.
    Abandoned,
    Done(Completion),
}

struct Slot<P: Platform> {
    phase: Phase,
    opcode: AdminOpcode,
    /// Memory that the command refers to.
    keep: Option<Arc<P::Dma>>,
}

struct State<P: Platform> {
    /// The life of the function that the commands belong to.
    generation: u32,
    produced: u16,
    consumed: u16,
    lost: bool,
    slots: Vec<Slot<P>>,
}

/// Both rings and the commands in flight.
pub(crate) struct AdminQueue<P: Platform> {
    submission: Arc<P::Dma>,
    completion: Arc<P::Dma>,
    size: RingSize,
    state: P::Lock<State<P>>,
    /// The generation of `state` unless that is lost, then [`LOST`]; changes under its lock.
    live: AtomicU32,
}

/// No life of the function.
const LOST: u32 = u32::MAX;

/// Identifies a command in flight within one life of the function.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    id: u16,
    generation: u32,
}

impl<P: Platform> AdminQueue<P> {
    pub(crate) fn new(platform: &P, log_entries: u8) -> Result<Self, Error> {
        let size = RingSize::from_log(log_entries);
        let entries = size.entries() as usize;
        let mut slots = Vec::with_capacity(entries);
        slots.resize_with(entries, || Slot {
            phase: Phase::Free,
            opcode: AdminOpcode::Nop,
            keep: None,
        });
        Ok(Self {
            submission: Arc::new(platform.allocate_dma(entries * Command::SIZE)?),
            completion: Arc::new(platform.allocate_dma(entries * Completion::SIZE)?),
            size,
            state: P::Lock::new(State {
                generation: 0,
                produced: 0,
                consumed: 0,
                lost: true,
                slots,
            }),
            live: AtomicU32::new(LOST),
        })
    }

    /// Forgets all commands and hands the rings to the function, which must be reset and begins its
    /// life `generation`.
    pub(crate) fn start(&self, platform: &P, generation: u32, vector: u16) {
        let words = self.completion.len() / 8;
        for word in 0..words {
            self.completion.store(word * 8, 0);
        }
        // Buffers are freed outside of the lock, as that may sleep.
        let mut slots = self.state.with(|state| core::mem::take(&mut state.slots));
        for slot in &mut slots {
            slot.phase = Phase::Free;
            slot.keep = None;
        }
        self.state.with(|state| {
            state.generation = generation;
            state.produced = 0;
            state.consumed = 0;
            state.lost = false;
            state.slots = slots;
            self.live.store(generation, Ordering::SeqCst);
        });
        self.program(platform, vector);
    }

    fn program(&self, platform: &P, vector: u16) {
        use registers::admin_queue as queue;
        let submission = self.submission.device_address();
        let completion = self.completion.device_address();
        let shape = queue::LOG_ENTRIES.put(u32::from(self.size.log()))
            | queue::VECTOR.put(u32::from(vector))
            | queue::INTERRUPT.put(1);
        let values = [
            (registers::ADMIN_SUBMISSION_BASE, submission as u32),
            (
                registers::ADMIN_SUBMISSION_BASE_HIGH,
                (submission >> 32) as u32,
            ),
            (registers::ADMIN_COMPLETION_BASE, completion as u32),
            (
                registers::ADMIN_COMPLETION_BASE_HIGH,
                (completion >> 32) as u32,
            ),
            (registers::ADMIN_QUEUE, shape),
            (
                registers::DEVICE_CONTROL,
                registers::device_control::ENABLE.put(1),
            ),
        ];
        for (register, value) in values {
            platform.write_register(register.offset, value);
        }
    }

    /// Whether commands can be issued.
    pub(crate) fn is_lost(&self) -> bool {
        self.state.with(|state| state.lost)
    }

    /// Whether life `generation` of the function goes on, as far as the driver knows. One load.
    #[inline]
    pub(crate) fn is_live(&self, generation: u32) -> bool {
        self.live.load(Ordering::Acquire) == generation
    }

    fn lose(&self, state: &mut State<P>) {
        state.lost = true;
        self.live.store(LOST, Ordering::SeqCst);
    }

    /// Lets every command in flight and every further one fail.
    pub(crate) fn set_lost(&self) {
        self.state.with(|state| self.lose(state));
    }

    /// The same, unless the function was reset since life `generation`.
    pub(crate) fn set_lost_in(&self, generation: u32) {
        self.state.with(|state| {
            if state.generation == generation {
                self.lose(state);
            }
        });
    }

    /// Leaves all memory to the device for ever.
    pub(crate) fn leak(&self) {
        core::mem::forget(Arc::clone(&self.submission));
        core::mem::forget(Arc::clone(&self.completion));
        self.state
            .with(|state| core::mem::forget(core::mem::take(&mut state.slots)));
    }

    fn submit(
        &self,
        platform: &P,
        generation: u32,
        mut command: Command,
        keep: Option<Arc<P::Dma>>,
    ) -> Result<Ticket, Error> {
        let opcode = AdminOpcode::from_raw(command.header.opcode).unwrap_or(AdminOpcode::Nop);
        let (id, old) = self.state.with(|state| {
            if state.generation != generation {
                return Err(Error::Stale);
            }
            if state.lost {
                return Err(Error::DeviceLost);
            }
            let free = |slot: &Slot<P>| matches!(slot.phase, Phase::Free);
            let index = state.slots.iter().position(free);
            let index = index.ok_or(Error::AdminQueueFull)?;
            let Some(slot) = state.slots.get_mut(index) else {
                return Err(Error::AdminQueueFull);
            };
            slot.phase = Phase::Outstanding;
            slot.opcode = opcode;
            let old = core::mem::replace(&mut slot.keep, keep);
            command.header.id = index as u16;
            self.write_command(state.produced, &command);
            state.produced = state.produced.wrapping_add(1);
            let doorbell = registers::ADMIN_DOORBELL.offset;
            platform.write_register(doorbell, u32::from(state.produced));
            Ok((index as u16, old))
        })?;
        drop(old);
        Ok(Ticket { id, generation })
    }

    fn write_command(&self, counter: u16, command: &Command) {
        let words: [u64; 8] = bytemuck::cast(*command);
        let base = self.size.position(u32::from(counter)) * Command::SIZE;
        for (index, word) in words.into_iter().enumerate() {
            self.submission.store(base + index * 8, word);
        }
    }

    /// Takes completions from the ring into their slots. Atomic context.
    pub(crate) fn drain(&self, platform: &P) {
        self.state.with(|state| {
            if state.lost {
                return;
            }
            let before = state.consumed;
            for _ in 0..self.size.entries() {
                let Some(completion) = self.read_completion(state.consumed) else {
                    break;
                };
                state.consumed = state.consumed.wrapping_add(1);
                if !state.complete(completion) {
                    // Nothing the device says can be trusted any more.
                    self.lose(state);
                    return;
                }
            }
            if state.consumed != before {
                let doorbell = registers::ADMIN_COMPLETION_DOORBELL.offset;
                platform.write_register(doorbell, u32::from(state.consumed));
            }
        });
    }

    fn read_completion(&self, counter: u16) -> Option<Completion> {
        let base = self.size.position(u32::from(counter)) * Completion::SIZE;
        let last = self.completion.load(base + 24);
        if !self.size.is_valid(u32::from(counter), owner_of(last)) {
            return None;
        }
        let load = |index: usize| self.completion.load(base + index * 8);
        Some(bytemuck::cast([load(0), load(1), load(2), last]))
    }

    /// The completion of a command, whose slot it frees; `None` while it is outstanding.
    fn take(&self, ticket: Ticket) -> Option<Result<Completion, Error>> {
        self.state.with(|state| {
            if state.generation != ticket.generation {
                return Some(Err(Error::DeviceLost));
            }
            let lost = state.lost;
            let slot = state.slots.get_mut(usize::from(ticket.id))?;
            match slot.phase {
                Phase::Done(completion) => {
                    slot.phase = Phase::Free;
                    Some(result_of(slot.opcode, completion))
                }
                _ if lost => Some(Err(Error::DeviceLost)),
                _ => None,
            }
        })
    }

    fn abandon(&self, ticket: Ticket) {
        self.state.with(|state| {
            if state.generation != ticket.generation {
                return;
            }
            let Some(slot) = state.slots.get_mut(usize::from(ticket.id)) else {
                return;
            };
            slot.phase = match slot.phase {
                Phase::Outstanding => Phase::Abandoned,
                Phase::Done(_) => Phase::Free,
                other => other,
            };
        });
    }
}

impl<P: Platform> State<P> {
    /// Notes a completion; false if it is one of no command.
    fn complete(&mut self, completion: Completion) -> bool {
        let Some(slot) = self.slots.get_mut(usize::from(completion.id)) else {
            return false;
        };
        slot.phase = match slot.phase {
            Phase::Outstanding => Phase::Done(completion),
            Phase::Abandoned => Phase::Free,
            Phase::Free | Phase::Done(_) => return false,
        };
        true
    }
}

fn result_of(opcode: AdminOpcode, completion: Completion) -> Result<Completion, Error> {
    let status = Status::from_raw(completion.status).ok_or(Error::BadAnswer("command status"))?;
    if completion.opcode != opcode.raw() {
        return Err(Error::BadAnswer("command opcode"));
    }
    match status {
        Status::Success => Ok(completion),
        status => Err(Error::Command {
            opcode,
            status,
            syndrome: completion.syndrome,
        }),
    }
}

/// A command in flight. Dropping it forgets the result, not the command.
pub struct PendingCommand<P: Platform> {
    shared: Arc<Shared<P>>,
    ticket: Ticket,
    deadline: u64,
    taken: bool,
}

impl<P: Platform> PendingCommand<P> {
    /// The result, if the command has completed or failed; at most once. Atomic context.
    pub fn poll(&mut self) -> Option<Result<Completion, Error>> {
        if self.taken {
            return None;
        }
        if self.shared.generation() != self.ticket.generation {
            self.taken = true;
            return Some(Err(Error::DeviceLost));
        }
        self.shared.admin.drain(&self.shared.platform);
        let result = self.shared.admin.take(self.ticket);
        self.taken = result.is_some();
        result
    }

    /// Waits for the result. Sleepable context. A command that does not complete in time makes
    /// the device count as lost.
    pub fn wait(mut self) -> Result<Completion, Error> {
        let shared = Arc::clone(&self.shared);
        let generation = self.ticket.generation;
        loop {
            let seen = shared.platform.raised(shared.admin_vector());
            if let Some(result) = self.poll() {
                return result;
            }
            let now = shared.platform.now();
            if now >= self.deadline {
                shared.fail(generation, "a command was not answered in time");
                return Err(shared.failure());
            }
            let until = self
                .deadline
                .min(now.saturating_add(shared.config.check_period));
            shared.wait_for_commands(seen, until);
            if shared.platform.now() >= until {
                shared.check_registers(generation)?;
            }
        }
    }
}

impl<P: Platform> Drop for PendingCommand<P> {
    fn drop(&mut self) {
        if !self.taken {
            self.shared.admin.abandon(self.ticket);
        }
    }
}

/// Puts a command together.
pub(crate) fn command<B: bytemuck::NoUninit>(opcode: AdminOpcode, body: &B) -> Command {
    let mut command = Command {
        header: CommandHeader {
            opcode: opcode.raw(),
            ..CommandHeader::default()
        },
        ..Command::default()
    };
    let bytes = bytemuck::bytes_of(body);
    let room = bytemuck::bytes_of_mut(&mut command.body);
    if let Some(room) = room.get_mut(..bytes.len()) {
        room.copy_from_slice(bytes);
    }
    command
}

impl<P: Platform> Shared<P> {
    /// Issues a command; `keep` is memory that the device may access until it completes. It fails
    /// with [`Error::Stale`] if the function was reset since life `generation`, that of the objects
    /// which the command names: their numbers may be those of others by now.
    pub(crate) fn submit(
        self: &Arc<Self>,
        generation: u32,
        command: Command,
        keep: Option<Arc<P::Dma>>,
    ) -> Result<PendingCommand<P>, Error> {
        let ticket = self
            .admin
            .submit(&self.platform, generation, command, keep)?;
        let timeout = self.config.command_timeout;
        Ok(PendingCommand {
            shared: Arc::clone(self),
            ticket,
            deadline: self.platform.now().saturating_add(timeout),
            taken: false,
        })
    }

    /// Issues a command, as [`Self::submit`] does, and waits for it.
    pub(crate) fn execute<B: bytemuck::NoUninit>(
        self: &Arc<Self>,
        generation: u32,
        opcode: AdminOpcode,
        body: &B,
        keep: Option<Arc<P::Dma>>,
    ) -> Result<Completion, Error> {
        let command = command(opcode, body);
        loop {
            let seen = self.platform.raised(self.admin_vector());
            let pending = self.submit(generation, command, keep.clone());
            if !matches!(pending, Err(Error::AdminQueueFull)) {
                return pending?.wait();
            }
            let until = self.platform.now().saturating_add(self.config.check_period);
            self.wait_for_commands(seen, until);
        }
    }

    /// Sleeps until commands may have completed since the platform counted `seen` interrupts.
    fn wait_for_commands(self: &Arc<Self>, seen: u32, until: u64) {
        let vector = self.admin_vector();
        self.platform.wait(vector, seen, until);
        if !P::HANDLES_INTERRUPTS {
            // The interrupt may have been for the event queues that share the vector.
            self.handle_interrupt(vector);
        }
    }
}
