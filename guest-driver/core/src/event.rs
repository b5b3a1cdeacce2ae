//! Event queues: what an interrupt handler drains.
//!
//! One queue for asynchronous events, on vector 0 with the admin queue, and one or more for
//! completion events, each on a vector of its own as long as there are enough. A handler takes
//! the entries that are there, passes them on, and arms the queue again; an entry that arrives in
//! between makes the device notify at once, so none is lost.

use vrnic_abi::admin::{AdminOpcode, Buffer, CreateEq, ObjectReference};
use vrnic_abi::doorbell;
use vrnic_abi::eqe::{EventEntry, EventType};

use crate::device::Shared;
use crate::doorbell::Doorbell;
use crate::error::Error;
use crate::platform::{DmaBuffer, Lock, Platform};
use crate::ring::{RingSize, owner_of};

/// Something happened to an object or to the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncEvent {
    /// What happened.
    pub event: EventType,
    /// Number of the object.
    pub object: u32,
    /// The context that the object was created with; 0 if the event is about none that has one, or
    /// about one that is being created or destroyed.
    pub context: u64,
    /// Detail, by type.
    pub detail: u32,
    /// When, in nanoseconds of the device's clock.
    pub timestamp: u64,
}

/// Most asynchronous events that are kept for [`crate::Driver::poll_event`].
pub(crate) const KEPT_EVENTS: usize = 256;

struct State {
    /// The life of the function that the queue belongs to.
    generation: u32,
    number: u32,
    doorbell: Option<Doorbell>,
    consumer: u32,
    sequence: u16,
}

pub(crate) struct EventQueue<P: Platform> {
    buffer: P::Dma,
    size: RingSize,
    vector: u16,
    state: P::Lock<State>,
}

impl<P: Platform> EventQueue<P> {
    pub(crate) fn new(platform: &P, log_entries: u8, vector: u16) -> Result<Self, Error> {
        let size = RingSize::from_log(log_entries);
        let length = size.entries() as usize * EventEntry::SIZE;
        Ok(Self {
            buffer: platform.allocate_dma(length)?,
            size,
            vector,
            state: P::Lock::new(State {
                generation: 0,
                number: 0,
                doorbell: None,
                consumer: 0,
                sequence: 0,
            }),
        })
    }

    pub(crate) fn vector(&self) -> u16 {
        self.vector
    }

    /// The queue's number; `None` from the beginning of a reset until the queue exists again.
    pub(crate) fn number(&self) -> Option<u32> {
        self.state
            .with(|state| state.doorbell.map(|_| state.number))
    }

    /// The command that creates the queue; the buffer is cleared.
    pub(crate) fn create_command(&self) -> CreateEq {
        for word in 0..self.buffer.len() / 8 {
            self.buffer.store(word * 8, 0);
        }
        CreateEq {
            buffer: contiguous(&self.buffer),
            doorbell_page: doorbell::KERNEL_PAGE,
            log_entries: self.size.log(),
            vector: self.vector,
            ..CreateEq::default()
        }
    }

    /// Takes the queue into use with the device's answer, and arms it.
    pub(crate) fn start(
        &self,
        platform: &P,
        generation: u32,
        (number, slot): (u64, u64),
    ) -> Result<(), Error> {
        let doorbell = Doorbell::new(doorbell::KERNEL_PAGE, slot)?;
        let number = u32::try_from(number).map_err(|_| Error::BadAnswer("event queue number"))?;
        self.state.with(|state| {
            *state = State {
                generation,
                number,
                doorbell: Some(doorbell),
                consumer: 0,
                sequence: 0,
            };
        });
        self.arm(platform);
        Ok(())
    }

    /// Ends the use of doorbell and ring, before a reset.
    pub(crate) fn stop(&self) {
        self.state.with(|state| state.doorbell = None);
    }

    fn arm(&self, platform: &P) {
        self.state.with(|state| {
            let Some(doorbell) = state.doorbell else {
                return;
            };
            state.sequence = state.sequence.wrapping_add(1);
            let value = doorbell::consumer(state.consumer, state.sequence, false);
            doorbell.ring(platform, value);
        });
    }

    /// The oldest entry, and the life of the function that it is from.
    fn pop(&self) -> Option<(u32, EventEntry)> {
        self.state.with(|state| {
            state.doorbell?;
            let base = self.size.position(state.consumer) * EventEntry::SIZE;
            let last = self.buffer.load(base + 24);
            if !self.size.is_valid(state.consumer, owner_of(last)) {
                return None;
            }
            state.consumer = state.consumer.wrapping_add(1);
            let load = |index: usize| self.buffer.load(base + index * 8);
            let entry = bytemuck::cast([load(0), load(1), load(2), last]);
            Some((state.generation, entry))
        })
    }

    /// Passes the entries that are there on and arms the queue. Atomic context; bounded by the
    /// size of the ring, whatever the device writes meanwhile.
    pub(crate) fn drain(&self, shared: &Shared<P>) {
        for _ in 0..self.size.entries() {
            let Some((generation, entry)) = self.pop() else {
                break;
            };
            shared.dispatch(generation, &entry);
        }
        // The doorbell of a lost function may be another's by now.
        if shared.admin.is_live(shared.generation()) {
            self.arm(&shared.platform);
        }
    }
}

impl<P: Platform> Shared<P> {
    fn dispatch(&self, generation: u32, entry: &EventEntry) {
        match EventType::from_raw(entry.event) {
            Some(EventType::Completion) => self.completion_event(entry.object),
            Some(event) => {
                let event = AsyncEvent {
                    event,
                    object: entry.object,
                    context: 0,
                    detail: entry.detail,
                    timestamp: entry.timestamp,
                };
                self.asynchronous_event(generation, event);
            }
            // A newer device may know more events; they do not concern this driver.
            None => {}
        }
    }

    fn asynchronous_event(&self, generation: u32, mut event: AsyncEvent) {
        if event.event == EventType::DeviceFatal {
            self.admin.set_lost_in(generation);
        }
        event.context = self.context_of(&event).unwrap_or(0);
        self.events.with(|events| {
            // Never beyond the capacity reserved at probe: this is atomic context.
            if events.len() < KEPT_EVENTS {
                events.push_back(event);
            }
        });
        self.platform.asynchronous_event(&event);
    }

    /// The context of the object that `event` is about. A queue pair that has failed is told so.
    fn context_of(&self, event: &AsyncEvent) -> Option<u64> {
        let number = event.object;
        match event.event {
            EventType::QpFatal | EventType::QpRequestError | EventType::QpAccessError => {
                self.qps.look(number, |qp| {
                    if let Some(tables) = &qp.table {
                        tables.set_failed(&self.platform);
                    }
                    qp.context
                })
            }
            EventType::CommunicationEstablished
            | EventType::SendQueueDrained
            | EventType::PathMigrated
            | EventType::PathMigrationFailed
            | EventType::LastWqeReached => self.qps.look(number, |qp| qp.context),
            EventType::CqError => self.cqs.look(number, |cq| cq.context),
            EventType::SrqLimit | EventType::SrqError => self.srqs.look(number, |srq| srq.context),
            _ => None,
        }
    }

    /// Tells the device which queue asynchronous events go to.
    pub(crate) fn async_eq_reference(&self) -> Option<(AdminOpcode, ObjectReference)> {
        let object = self.eqs.first()?.number()?;
        let body = ObjectReference {
            object,
            reserved: 0,
        };
        Some((AdminOpcode::SetAsyncEq, body))
    }
}

/// The description of a buffer that is contiguous in DMA addresses.
pub(crate) fn contiguous<D: DmaBuffer>(buffer: &D) -> Buffer {
    Buffer {
        address: buffer.device_address(),
        pages: buffer.len().div_ceil(4096) as u32,
        page_shift: 12,
        ..Buffer::default()
    }
}
