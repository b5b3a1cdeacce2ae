//! Stations with raw packet queues, and frames with checksums of the tests' own.

use vrnic_abi::admin::{FilterType, QpFlags};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::{CompletionEntry, CompletionOpcode};
use vrnic_abi::wqe::{ControlSegment, WqeFlags, WqeOpcode};
use vrnic_firmware::host::Memory;
use vrnic_firmware::types::Mac;

use super::nic_bench::{Bench, Cq, Driver, Hardware, PATTERN, Qp, data, filter, mac};

/// Bytes of a receive buffer.
pub const ROOM: u32 = 2048;
/// Somebody on the other side of the wire.
pub const STRANGER: Mac = Mac([2, 0, 0, 0, 9, 9]);

/// A function with a raw packet queue pair that has buffers posted.
pub struct Station {
    pub driver: Driver,
    pub cq: Cq,
    pub pd: u32,
    pub key: u32,
    /// Memory to send from.
    pub memory: u64,
    pub queues: Vec<Queue>,
}

/// A raw packet queue pair and its 64 receive buffers.
pub struct Queue {
    pub qp: Qp,
    pub buffers: u64,
}

impl Station {
    /// Function `n` with one queue and no filters.
    #[track_caller]
    pub fn new(bench: &mut Bench, n: u8) -> Self {
        let mut driver = Driver::ready(bench, n);
        let eq = driver.eq(bench, 6, 3);
        let cq = driver.cq(bench, &eq, 10);
        let pd = driver.ok(bench, vrnic_abi::admin::AdminOpcode::AllocPd, &0u64) as u32;
        let memory = driver.memory(1 << 17, false);
        let key = driver.mr(bench, pd, memory, 1 << 17);
        let mut station = Self {
            driver,
            cq,
            pd,
            key,
            memory,
            queues: Vec::new(),
        };
        station.queue(bench, QpFlags::empty());
        station
    }

    /// As [`Self::new`], with a filter for its own address.
    #[track_caller]
    pub fn listening(bench: &mut Bench, n: u8) -> Self {
        let mut station = Self::new(bench, n);
        station.listen(bench, FilterType::Address, mac(n));
        station
    }

    /// Adds a queue, all its buffers posted; returns its index.
    #[track_caller]
    pub fn queue(&mut self, bench: &mut Bench, flags: QpFlags) -> usize {
        let mut qp = self.driver.raw_qp(bench, self.pd, &self.cq, flags);
        let length = 64 * u64::from(ROOM);
        let buffers = self.driver.memory(length, false);
        let key = self.driver.mr(bench, self.pd, buffers, length);
        for at in 0..64 {
            let address = buffers + at * u64::from(ROOM);
            qp.receive(&self.driver.hw, &[data(address, ROOM, key)]);
        }
        self.queues.push(Queue { qp, buffers });
        self.queues.len() - 1
    }

    /// Sets a filter without flags for the first queue.
    #[track_caller]
    pub fn listen(&mut self, bench: &mut Bench, filter_type: FilterType, mac: Mac) -> u32 {
        let qp = self.queues[0].qp.number;
        self.driver.filter(bench, &filter(qp, filter_type, mac))
    }

    pub fn hw(&self) -> &Hardware {
        &self.driver.hw
    }

    /// Posts a frame on the first queue.
    pub fn send(&mut self, frame: &[u8], flags: WqeFlags, vlan_tag: u16) {
        self.driver.hw.ram.write(self.memory, frame).unwrap();
        let control = ControlSegment {
            opcode: WqeOpcode::Send.raw(),
            flags: (flags | WqeFlags::SIGNALED).bits(),
            data_segments: 1,
            vlan_tag,
            ..ControlSegment::default()
        };
        let segment = data(self.memory, frame.len() as u32, self.key);
        let qp = &mut self.queues[0].qp;
        qp.post(&self.driver.hw, control, &[bytemuck::bytes_of(&segment)]);
    }

    /// Sends a frame from the first queue and waits until it has completed.
    #[track_caller]
    pub fn transmit(&mut self, bench: &mut Bench, frame: &[u8], flags: WqeFlags, vlan_tag: u16) {
        self.send(frame, flags, vlan_tag);
        bench.run();
        let entry = self.poll().expect("a completion");
        assert_eq!(entry.opcode, CompletionOpcode::Request.raw());
        assert_eq!(entry.status, 0);
    }

    pub fn poll(&mut self) -> Option<CompletionEntry> {
        self.cq.poll(&self.driver.hw)
    }

    /// The next frame received, the queue that has it, and its completion.
    #[track_caller]
    pub fn received(&mut self) -> Option<(usize, Vec<u8>, CompletionEntry)> {
        let entry = self.poll()?;
        assert_eq!(entry.opcode, CompletionOpcode::ReceiveFrame.raw());
        assert_eq!(entry.status, 0);
        let of = |queue: &Queue| queue.qp.number == entry.qpn;
        let at = self.queues.iter().position(of).expect("a queue of ours");
        let buffer = self.queues[at].buffers + u64::from(entry.wqe_index % 64) * u64::from(ROOM);
        let bytes = self.hw().bytes(buffer, ROOM as usize);
        let (frame, rest) = bytes.split_at(entry.byte_length as usize);
        assert!(rest.iter().all(|byte| *byte == PATTERN), "more was written");
        Some((at, frame.to_vec(), entry))
    }

    /// Posts as many buffers again as were used, in the same places, with the pattern.
    pub fn repost(&mut self, queues: &[usize]) {
        for queue in queues {
            let queue = &mut self.queues[*queue];
            let at = u64::from(queue.qp.received % 64) * u64::from(ROOM);
            let hw = &self.driver.hw;
            let blank = [PATTERN; ROOM as usize];
            hw.ram.write(queue.buffers + at, &blank).unwrap();
            queue.qp.received += 1;
            let value = vrnic_abi::doorbell::receive_queue(queue.qp.received);
            hw.store_slot(0, queue.qp.receive_slot, value);
        }
    }

    pub fn counter(&self, bench: &Bench, counter: Counter) -> u64 {
        let function = bench.nic.function(self.driver.id).unwrap();
        function.objects.counters[usize::from(counter.raw())]
    }
}

/// Hands a frame to the NIC as if it came from the wire.
pub fn arrive(bench: &mut Bench, frame: &[u8]) {
    bench.nic.receive(bench.now, frame, &mut bench.wire);
}

/// An Ethernet frame with any payload.
pub fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &ethertype.to_be_bytes(), payload].concat()
}

/// The same frame with a VLAN tag.
pub fn tagged(frame: &[u8], control: u16) -> Vec<u8> {
    let tag = [0x8100u16.to_be_bytes(), control.to_be_bytes()].concat();
    [&frame[..12], &tag, &frame[12..]].concat()
}

/// The same frame with zeros up to the shortest length of Ethernet.
pub fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The internet checksum of some bytes, as RFC 1071 tells it.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What a packet is made of.
#[derive(Clone, Copy)]
pub struct Packet<'a> {
    pub v6: bool,
    pub tcp: bool,
    pub flow: u8,
    pub data: &'a [u8],
}

impl Packet<'_> {
    /// Addresses, in the order in which they stand.
    pub fn addresses(&self) -> Vec<u8> {
        if self.v6 {
            let mut addresses = [0xfd; 32];
            addresses[15] = self.flow;
            addresses.to_vec()
        } else {
            vec![10, 1, 0, self.flow, 10, 1, 0, 200]
        }
    }

    pub fn ports(&self) -> [u16; 2] {
        [1000 + u16::from(self.flow) * 7, 80]
    }

    /// Where the checksum of the segment stands in the frame.
    pub fn checksum_at(&self) -> usize {
        14 + if self.v6 { 40 } else { 20 } + if self.tcp { 16 } else { 6 }
    }

    /// The segment with this checksum, or the right one.
    fn segment(&self, wanted: Option<u16>) -> Vec<u8> {
        let [source, destination] = self.ports().map(u16::to_be_bytes);
        let head = [source, destination].concat();
        let protocol = if self.tcp { 6u8 } else { 17 };
        let mut segment = if self.tcp {
            [
                &head[..],
                &[1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x18, 1, 0, 0, 0, 0, 0],
                self.data,
            ]
            .concat()
        } else {
            let length = (8 + self.data.len() as u16).to_be_bytes();
            [&head[..], &length, &[0, 0], self.data].concat()
        };
        let length = (segment.len() as u32).to_be_bytes();
        let addresses = self.addresses();
        let parts: [&[u8]; 4] = [&addresses, &length, &[0, 0, 0, protocol], &segment];
        let right = match checksum(&parts) {
            0 if !self.tcp => 0xffff,
            right => right,
        };
        let at = if self.tcp { 16 } else { 6 };
        segment[at..at + 2].copy_from_slice(&wanted.unwrap_or(right).to_be_bytes());
        segment
    }

    /// A frame with these checksums, or the right ones.
    pub fn frame(
        &self,
        to: Mac,
        from: Mac,
        network: Option<u16>,
        transport: Option<u16>,
    ) -> Vec<u8> {
        let segment = self.segment(transport);
        let addresses = self.addresses();
        let protocol = if self.tcp { 6u8 } else { 17 };
        if self.v6 {
            let length = (segment.len() as u16).to_be_bytes();
            let head: [&[u8]; 3] = [&[0x60, 0, 0, 0], &length, &[protocol, 64]];
            let packet = [head.concat(), addresses, segment].concat();
            return ethernet(to, from, 0x86dd, &packet);
        }
        let length = (20 + segment.len() as u16).to_be_bytes();
        let head: [&[u8]; 4] = [&[0x45, 0], &length, &[0, 1, 0x40, 0, 64, protocol], &[0, 0]];
        let mut header = [&head.concat()[..], &addresses].concat();
        let right = checksum(&[&header]);
        header[10..12].copy_from_slice(&network.unwrap_or(right).to_be_bytes());
        ethernet(to, from, 0x0800, &[header, segment].concat())
    }
}
