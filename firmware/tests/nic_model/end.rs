//! One end: a function with a queue pair of the service, and how its driver posts and polls.

use bytemuck::{bytes_of, cast_slice};
use vrnic_abi::admin::{
    AccessFlags, AdminOpcode, Buffer, CreateMr, CreateQp, CreateSrq, FilterType, QpType, SetFilter,
    SrqType,
};
use vrnic_abi::cqe::{CompletionEntry, CompletionFlags};
use vrnic_abi::object::AddressVector;
use vrnic_abi::wqe::{
    AtomicSegment, ControlSegment, DatagramSegment, FlushPlacement, FlushSegment, RemoteSegment,
    WqeFlags, WqeOpcode, XrcSegment,
};
use vrnic_firmware::host::Memory;

use crate::nic_bench::*;
use crate::operation::{
    COUNTER, Kind, LIBRARY, Operation, RECEIVE, RECEIVES, RESULT, SLOT, SOURCE, TARGET,
};
use crate::srq_bench::{QKEY, Srq, steps};

const ACCESS: AccessFlags = AccessFlags::REMOTE_WRITE
    .union(AccessFlags::REMOTE_READ)
    .union(AccessFlags::REMOTE_ATOMIC)
    .union(AccessFlags::FLUSH_GLOBAL);

/// A function with everything that the trial needs.
pub struct End {
    pub driver: Driver,
    pub cq: Cq,
    pub qp: Qp,
    pub memory: u64,
    pub key: u32,
    service: QpType,
    /// With XRC: the queue pair that takes the peer's requests, and the queue of its receives.
    target: Option<(u32, Srq)>,
}

impl End {
    #[track_caller]
    pub fn new(bench: &mut Bench, n: u8, service: QpType) -> Self {
        let mut driver = Driver::ready(bench, n);
        let eq = driver.eq(bench, 6, 3);
        let cq = driver.cq(bench, &eq, 8);
        let pd = driver.ok(bench, AdminOpcode::AllocPd, &0u64) as u32;
        let extended = service == QpType::XrcInitiator;
        let target = extended.then(|| target(&mut driver, bench, pd, &cq));
        let qp = queue_pair(&mut driver, bench, pd, &cq, service);
        if service == QpType::RawPacket {
            listen(&mut driver, bench, qp.number);
        }
        let memory = driver.memory(BUFFER, false);
        let key = region(&mut driver, bench, pd, memory);
        driver.hw.ram.write(memory + COUNTER, &[0; 8]).unwrap();
        Self {
            driver,
            cq,
            qp,
            memory,
            key,
            service,
            target,
        }
    }

    /// Takes the queue pairs to RTS, connected to those of the peer.
    #[track_caller]
    pub fn connect(&mut self, bench: &mut Bench, peer: &Peer) {
        let mut qps = vec![(self.service, self.qp.number, peer.takes)];
        if let Some((target, _)) = &self.target {
            qps.push((QpType::XrcTarget, *target, peer.qp));
        }
        for (service, qp, remote) in qps {
            for (mask, mut given) in steps(service, peer.n, remote) {
                given.access = ACCESS.bits();
                given.responder_resources = 16;
                given.initiator_depth = 16;
                self.driver.modify_ok(bench, qp, mask, &given);
            }
        }
    }

    /// Numbers of the queue pairs.
    pub fn queue_pairs(&self) -> impl Iterator<Item = u32> + use<> {
        let target = self.target.as_ref().map(|(qpn, _)| *qpn);
        [self.qp.number].into_iter().chain(target)
    }

    /// Receives ever posted.
    pub fn posted_receives(&self) -> u64 {
        match &self.target {
            Some((_, srq)) => srq.posted.into(),
            None => self.qp.received.into(),
        }
    }

    /// Posts operation `n` of a batch. For datagrams, `peer` says where to.
    pub fn post(&mut self, n: u64, operation: &Operation, peer: &Peer) {
        let hw = self.driver.hw.clone();
        let length = operation.data.len() as u32;
        let mut segments = Vec::new();
        match self.service {
            _ if operation.kind == Kind::Nop => {}
            QpType::Ud => segments.extend_from_slice(bytes_of(&peer.destination())),
            QpType::XrcInitiator => segments.extend_from_slice(bytes_of(&XrcSegment {
                remote_srqn: peer.srq,
                ..XrcSegment::default()
            })),
            _ => {}
        }
        let remote = |offset: u64| RemoteSegment {
            address: peer.memory + offset,
            rkey: peer.key,
            reserved: 0,
        };
        let mut control = ControlSegment {
            flags: flags(operation).bits(),
            ..ControlSegment::default()
        };
        let local = match operation.kind {
            Kind::Nop | Kind::Flush | Kind::AtomicWrite => None,
            Kind::FetchAdd(_) | Kind::CompareSwap { .. } => Some((RESULT + n * SLOT, 8)),
            Kind::Read => Some((RESULT + n * SLOT, length)),
            Kind::Send { .. } | Kind::Write { .. } => Some((SOURCE + n * SLOT, length)),
        };
        let target = TARGET + n * SLOT;
        control.opcode = match operation.kind {
            Kind::Nop => WqeOpcode::Nop,
            Kind::Send { immediate: None } => WqeOpcode::Send,
            Kind::Send {
                immediate: Some(data),
            } => {
                control.immediate = data;
                WqeOpcode::SendImmediate
            }
            Kind::Write { immediate } => {
                control.immediate = immediate.unwrap_or(0);
                segments.extend_from_slice(bytes_of(&remote(target)));
                match immediate {
                    Some(_) => WqeOpcode::WriteImmediate,
                    None => WqeOpcode::Write,
                }
            }
            Kind::Read => {
                segments.extend_from_slice(bytes_of(&remote(LIBRARY + n * SLOT)));
                WqeOpcode::Read
            }
            Kind::FetchAdd(add) => {
                segments.extend_from_slice(bytes_of(&remote(COUNTER)));
                segments.extend_from_slice(bytes_of(&operands(add, 0)));
                WqeOpcode::FetchAdd
            }
            Kind::CompareSwap { compare, swap } => {
                segments.extend_from_slice(bytes_of(&remote(COUNTER)));
                segments.extend_from_slice(bytes_of(&operands(swap, compare)));
                WqeOpcode::CompareSwap
            }
            Kind::AtomicWrite => {
                segments.extend_from_slice(bytes_of(&remote(target)));
                WqeOpcode::AtomicWrite
            }
            Kind::Flush => {
                segments.extend_from_slice(bytes_of(&remote(target)));
                segments.extend_from_slice(bytes_of(&FlushSegment {
                    length: 64,
                    placement: FlushPlacement::GLOBAL.bits(),
                    ..FlushSegment::default()
                }));
                WqeOpcode::Flush
            }
        }
        .raw();
        if operation.inline || operation.kind == Kind::AtomicWrite {
            control.inline_length = operation.data.len() as u16;
            segments.extend_from_slice(&operation.data);
            segments.resize(segments.len().next_multiple_of(16), 0);
        } else if let Some((offset, length)) = local {
            control.data_segments = 1;
            let piece = data(self.memory + offset, length, self.key);
            segments.extend_from_slice(cast_slice(&[piece]));
        }
        self.qp.post(&hw, control, &[&segments]);
    }

    /// Posts the next receive.
    pub fn post_receive(&mut self) {
        let slot = RECEIVE + self.posted_receives() % RECEIVES * SLOT;
        let piece = data(self.memory + slot, SLOT as u32 - 16, self.key);
        let hw = self.driver.hw.clone();
        self.fill(slot, SLOT);
        match &mut self.target {
            Some((_, srq)) => srq.post(&hw, &[piece]),
            None => self.qp.receive(&hw, &[piece]),
        }
    }

    /// Fills a part of memory with the pattern.
    pub fn fill(&self, offset: u64, length: u64) {
        let pattern = vec![PATTERN; length as usize];
        self.driver
            .hw
            .ram
            .write(self.memory + offset, &pattern)
            .unwrap();
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.driver
            .hw
            .ram
            .write(self.memory + offset, bytes)
            .unwrap();
    }

    pub fn bytes(&self, offset: u64, length: u64) -> Vec<u8> {
        self.driver.hw.bytes(self.memory + offset, length as usize)
    }

    /// The next completion, and whether it is one of the send queue.
    pub fn poll(&mut self) -> Option<(bool, CompletionEntry)> {
        let entry = self.cq.poll(&self.driver.hw)?;
        let send = entry.flags & CompletionFlags::SEND_QUEUE.bits() != 0;
        Some((send, entry))
    }

    /// Who this end is to the other.
    pub fn identity(&self) -> Peer {
        let target = self.target.as_ref();
        Peer {
            n: self.driver.n,
            qp: self.qp.number,
            takes: target.map_or(self.qp.number, |(qpn, _)| *qpn),
            srq: target.map_or(0, |(_, srq)| srq.number),
            memory: self.memory,
            key: self.key,
        }
    }
}

/// What an end knows of the other.
#[derive(Clone, Copy)]
pub struct Peer {
    pub n: u8,
    /// The queue pair that sends.
    pub qp: u32,
    /// The queue pair that takes requests.
    pub takes: u32,
    pub srq: u32,
    pub memory: u64,
    pub key: u32,
}

impl Peer {
    fn destination(&self) -> DatagramSegment {
        DatagramSegment {
            remote_qpn: self.qp,
            qkey: QKEY,
            vector: AddressVector {
                gid: gid(self.n).0,
                mac: mac(self.n).0,
                ..AddressVector::default()
            },
            ..DatagramSegment::default()
        }
    }
}

fn operands(swap_or_add: u64, compare: u64) -> AtomicSegment {
    AtomicSegment {
        swap_or_add,
        compare,
    }
}

fn flags(operation: &Operation) -> WqeFlags {
    let mut flags = WqeFlags::empty();
    flags.set(WqeFlags::SIGNALED, operation.signaled);
    flags.set(WqeFlags::SOLICITED, operation.solicited);
    flags.set(WqeFlags::FENCE, operation.fence);
    let inline = operation.inline || operation.kind == Kind::AtomicWrite;
    flags.set(WqeFlags::INLINE, inline);
    flags
}

#[track_caller]
fn queue_pair(driver: &mut Driver, bench: &mut Bench, pd: u32, cq: &Cq, service: QpType) -> Qp {
    let extended = service == QpType::XrcInitiator;
    let buffer = driver.scattered((64 << 6) + (64 << 6));
    let mut body = CreateQp {
        pd,
        send_cq: cq.number,
        buffer,
        qp_type: service.raw(),
        log_send_blocks: 6,
        ..CreateQp::default()
    };
    if !extended {
        body.receive_cq = cq.number;
        body.log_receive_entries = 6;
        body.log_receive_segments = 2;
    }
    let completion = driver.command(bench, AdminOpcode::CreateQp, &body);
    assert_eq!(completion.status, 0, "at {:#x}", completion.syndrome);
    let list = buffer.address;
    let send_at = list + if extended { 0 } else { 8 };
    Qp {
        number: completion.result0 as u32,
        send_slot: completion.result1 as u32 & 0xffff,
        receive_slot: (completion.result1 >> 16) as u32,
        receive_page: driver.hw.read(list),
        send_page: driver.hw.read(send_at),
        posted: 0,
        received: 0,
    }
}

/// An XRC target with the queue that it receives from.
#[track_caller]
fn target(driver: &mut Driver, bench: &mut Bench, pd: u32, cq: &Cq) -> (u32, Srq) {
    let xrcd = driver.ok(bench, AdminOpcode::AllocXrcd, &0u64) as u32;
    let body = CreateSrq {
        pd,
        log_entries: 6,
        log_segments: 1,
        srq_type: SrqType::Xrc.raw(),
        xrcd,
        cq: cq.number,
        ..CreateSrq::default()
    };
    let srq = Srq::create(driver, bench, body);
    let body = CreateQp {
        pd,
        qp_type: QpType::XrcTarget.raw(),
        xrcd,
        ..CreateQp::default()
    };
    let qpn = driver.ok(bench, AdminOpcode::CreateQp, &body) as u32;
    (qpn, srq)
}

/// Directs frames to the function's address to a raw packet queue pair.
#[track_caller]
fn listen(driver: &mut Driver, bench: &mut Bench, qp: u32) {
    let body = SetFilter {
        qp,
        filter_type: FilterType::Address.raw(),
        mac: mac(driver.n).0,
        ..SetFilter::default()
    };
    driver.ok(bench, AdminOpcode::SetFilter, &body);
}

#[track_caller]
fn region(driver: &mut Driver, bench: &mut Bench, pd: u32, memory: u64) -> u32 {
    let body = CreateMr {
        pd,
        access: (ACCESS | AccessFlags::LOCAL_WRITE).bits(),
        start: memory,
        length: BUFFER,
        buffer: Buffer {
            address: memory,
            pages: (BUFFER / 4096) as u32,
            page_shift: 12,
            ..Buffer::default()
        },
        variant: 0x11,
        ..CreateMr::default()
    };
    driver.ok(bench, AdminOpcode::CreateMr, &body) as u32
}
