//! One end: a function with a queue pair of the service, and how its driver posts and polls.

use bytemuck::{bytes_of, cast_slice};
use vrnic_abi::admin::{AccessFlags, AdminOpcode, Buffer, CreateMr, CreateQp, QpType};
use vrnic_abi::cqe::{CompletionEntry, CompletionFlags};
use vrnic_abi::object::{AddressVector, QpAttributes, QpMask, QpState};
use vrnic_abi::wqe::{
    AtomicSegment, ControlSegment, DatagramSegment, FlushPlacement, FlushSegment, RemoteSegment,
    WqeFlags, WqeOpcode,
};
use vrnic_firmware::host::Memory;

use crate::nic_bench::*;
use crate::operation::{
    COUNTER, Kind, LIBRARY, Operation, RECEIVE, RECEIVES, RESULT, SLOT, SOURCE, TARGET,
};

/// Queue key of the datagrams.
const QKEY: u32 = 0x1234;
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
    pd: u32,
}

impl End {
    #[track_caller]
    pub fn new(bench: &mut Bench, n: u8, service: QpType) -> Self {
        let mut driver = Driver::ready(bench, n);
        let eq = driver.eq(bench, 6, 3);
        let cq = driver.cq(bench, &eq, 8);
        let pd = driver.ok(bench, AdminOpcode::AllocPd, &0u64) as u32;
        let qp = queue_pair(&mut driver, bench, pd, &cq, service);
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
            pd,
        }
    }

    /// Takes the queue pair to RTS; connected to queue pair `remote` of function `peer`.
    #[track_caller]
    pub fn connect(&mut self, bench: &mut Bench, peer: u8, remote: u32) {
        let qp = self.qp.number;
        if self.service == QpType::Ud {
            for (state, mask) in [
                (
                    QpState::Init,
                    QpMask::PORT | QpMask::PKEY_INDEX | QpMask::QKEY,
                ),
                (QpState::Rtr, QpMask::empty()),
                (QpState::Rts, QpMask::SEND_PSN),
            ] {
                let given = QpAttributes {
                    state: state.raw(),
                    port: 1,
                    qkey: QKEY,
                    ..QpAttributes::default()
                };
                self.driver
                    .modify_ok(bench, qp, mask | QpMask::STATE, &given);
            }
            return;
        }
        let reliable = self.service == QpType::Rc;
        let (mask, mut given) = to_init();
        given.access = ACCESS.bits();
        self.driver.modify_ok(bench, qp, mask, &given);
        let (mut mask, mut given) = to_rtr(peer, remote);
        given.responder_resources = 16;
        if !reliable {
            mask -= QpMask::RESPONDER_RESOURCES | QpMask::MIN_RNR_TIMER;
        }
        self.driver.modify_ok(bench, qp, mask, &given);
        let (mut mask, mut given) = to_rts();
        given.initiator_depth = 16;
        if !reliable {
            mask = QpMask::STATE | QpMask::SEND_PSN;
        }
        self.driver.modify_ok(bench, qp, mask, &given);
    }

    /// Posts operation `n` of a batch. For datagrams, `peer` says where to.
    pub fn post(&mut self, n: u64, operation: &Operation, peer: &Peer) {
        let hw = self.driver.hw.clone();
        let length = operation.data.len() as u32;
        let mut segments = Vec::new();
        if self.service == QpType::Ud && operation.kind != Kind::Nop {
            segments.extend_from_slice(bytes_of(&peer.destination()));
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
        let slot = RECEIVE + u64::from(self.qp.received) % RECEIVES * SLOT;
        let piece = data(self.memory + slot, SLOT as u32 - 16, self.key);
        let hw = self.driver.hw.clone();
        self.fill(slot, SLOT);
        self.qp.receive(&hw, &[piece]);
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
        Peer {
            n: self.driver.n,
            qp: self.qp.number,
            memory: self.memory,
            key: self.key,
        }
    }

    #[allow(dead_code, reason = "for messages of failures")]
    pub fn pd(&self) -> u32 {
        self.pd
    }
}

/// What an end knows of the other.
#[derive(Clone, Copy)]
pub struct Peer {
    pub n: u8,
    pub qp: u32,
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
    let buffer = driver.scattered((64 << 6) + (64 << 6));
    let body = CreateQp {
        pd,
        send_cq: cq.number,
        receive_cq: cq.number,
        buffer,
        qp_type: service.raw(),
        log_send_blocks: 6,
        log_receive_entries: 6,
        log_receive_segments: 2,
        ..CreateQp::default()
    };
    let completion = driver.command(bench, AdminOpcode::CreateQp, &body);
    assert_eq!(completion.status, 0, "at {:#x}", completion.syndrome);
    let list = buffer.address;
    Qp {
        number: completion.result0 as u32,
        send_slot: completion.result1 as u32 & 0xffff,
        receive_slot: (completion.result1 >> 16) as u32,
        receive_page: driver.hw.read(list),
        send_page: driver.hw.read(list + 8),
        posted: 0,
        received: 0,
    }
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
