//! A user process: rings in its own pinned memory, which it writes and reads by itself.
//!
//! It knows the formats of the programming interface and nothing of the driver, as a verbs provider.

use std::sync::Arc;

use vrnic_abi::cqe::CompletionEntry;
use vrnic_abi::doorbell;
use vrnic_abi::wqe::{
    BASIC_BLOCK, ControlSegment, DataSegment, END_OF_LIST, RemoteSegment, SEGMENT, WqeFlags,
    WqeOpcode, XrcSegment,
};
use vrnic_driver::{Platform, Remote, Sge};
use vrnic_tests::platform::{SimPinned, SimPlatform};

/// A doorbell slot in the process' page.
#[derive(Clone)]
pub struct Slot {
    pub platform: SimPlatform,
    pub page: u32,
    pub slot: u32,
}

impl Slot {
    fn publish(&self, value: u64) {
        self.platform.store_slot(self.page, self.slot, value);
    }

    fn ring(&self, value: u64) {
        self.publish(value);
        let group = self.slot / doorbell::SLOTS_PER_GROUP;
        self.platform.store_mark(self.page, group);
        if self.platform.load_engine_state(self.page) != doorbell::ENGINE_AWAKE {
            self.platform.kick(self.page);
        }
    }
}

/// A completion ring from index `base` on.
struct CqRing {
    memory: Arc<SimPinned>,
    log: u8,
    base: u32,
}

impl CqRing {
    fn entry(&self, index: u32) -> Option<CompletionEntry> {
        let pass = index.wrapping_sub(self.base);
        let place = pass as usize % (1 << self.log);
        let mut bytes = [0; 64];
        self.memory.read(place * 64, &mut bytes);
        let entry: CompletionEntry = bytemuck::cast(bytes);
        let owner = u32::from(entry.owner) & 1;
        (owner != pass >> self.log & 1).then_some(entry)
    }
}

/// A completion queue as its user sees it.
pub struct Cq {
    slot: Slot,
    rings: Vec<CqRing>,
    consumer: u32,
    sequence: u16,
}

impl Cq {
    pub fn new(slot: Slot, memory: &Arc<SimPinned>, log: u8) -> Self {
        let ring = CqRing {
            memory: Arc::clone(memory),
            log,
            base: 0,
        };
        Self {
            slot,
            rings: vec![ring],
            consumer: 0,
            sequence: 0,
        }
    }

    /// The device goes on in `memory` from index `base` on.
    pub fn moved(&mut self, memory: &Arc<SimPinned>, log: u8, base: u32) {
        self.rings.push(CqRing {
            memory: Arc::clone(memory),
            log,
            base,
        });
    }

    /// Takes the oldest completion.
    pub fn poll(&mut self) -> Option<CompletionEntry> {
        while self
            .rings
            .get(1)
            .is_some_and(|next| next.base == self.consumer)
        {
            self.rings.remove(0);
        }
        let entry = self.rings[0].entry(self.consumer)?;
        self.consumer = self.consumer.wrapping_add(1);
        self.slot.publish(self.value());
        Some(entry)
    }

    /// Asks for an event.
    pub fn arm(&mut self) {
        self.sequence += 1;
        self.slot.ring(self.value());
    }

    fn value(&self) -> u64 {
        doorbell::consumer(self.consumer, self.sequence, false)
    }
}

/// A ring of receive entries, of a queue pair or shared.
pub struct Receives {
    pub slot: Slot,
    pub memory: Arc<SimPinned>,
    pub log: u8,
    pub log_segments: u8,
    pub head: u32,
}

impl Receives {
    /// Posts one receive buffer.
    pub fn post(&mut self, sge: Sge) {
        let stride = SEGMENT << self.log_segments;
        let place = self.head as usize % (1 << self.log) * stride;
        let end = DataSegment {
            lkey: END_OF_LIST,
            ..DataSegment::default()
        };
        self.memory.write(place, bytemuck::bytes_of(&data(sge)));
        if self.log_segments > 0 {
            self.memory.write(place + SEGMENT, bytemuck::bytes_of(&end));
        }
        self.head = self.head.wrapping_add(1);
        self.slot.publish(doorbell::receive_queue(self.head));
    }
}

/// A send ring.
pub struct Sends {
    pub slot: Slot,
    pub memory: Arc<SimPinned>,
    /// Where the ring begins.
    pub offset: usize,
    pub log: u8,
    pub qpn: u32,
    pub head: u32,
}

impl Sends {
    /// Posts a SEND, or with `remote` an RDMA WRITE, of one block; of an XRC initiator to shared
    /// receive queue `srqn`.
    pub fn post(&mut self, sge: Sge, remote: Option<Remote>, srqn: Option<u32>) {
        let mut segments: Vec<[u8; SEGMENT]> = Vec::new();
        if let Some(srqn) = srqn {
            segments.push(bytemuck::cast(XrcSegment {
                remote_srqn: srqn,
                ..XrcSegment::default()
            }));
        }
        if let Some(remote) = remote {
            segments.push(bytemuck::cast(RemoteSegment {
                address: remote.address,
                rkey: remote.rkey,
                ..RemoteSegment::default()
            }));
        }
        segments.push(bytemuck::cast(data(sge)));
        let opcode = match remote {
            Some(_) => WqeOpcode::Write,
            None => WqeOpcode::Send,
        };
        let control = ControlSegment {
            opcode: opcode.raw(),
            flags: WqeFlags::SIGNALED.bits(),
            segments: 1 + segments.len() as u8,
            data_segments: 1,
            index: self.head,
            ..ControlSegment::default()
        };
        segments.insert(0, bytemuck::cast(control));
        let place = self.offset + self.head as usize % (1 << self.log) * BASIC_BLOCK;
        self.memory.write(place, segments.as_flattened());
        self.head = self.head.wrapping_add(1);
        let value = doorbell::send_queue(self.head, self.qpn);
        self.slot.ring(value);
    }
}

fn data(sge: Sge) -> DataSegment {
    DataSegment {
        address: sge.address,
        length: sge.length,
        lkey: sge.lkey,
    }
}
