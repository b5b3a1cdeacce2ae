//! Two functions: the owner of memory and keys, and a user who is on the other end of two
//! connections.

use bytemuck::bytes_of;
use vrnic_abi::admin::{
    AccessFlags, AdminOpcode, AllocMr, AllocMw, Buffer, CreateMr, ObjectReference, QpFlags, Status,
    WindowType,
};
use vrnic_abi::cqe::CompletionEntry;
use vrnic_abi::object::{MrAttributes, QpState};
use vrnic_abi::wqe::{BindSegment, FastRegisterSegment, RemoteSegment, WqeFlags, WqeOpcode};
use vrnic_firmware::host::Memory;
use vrnic_firmware::nic::NicConfig;

pub use crate::nic_bench::*;

/// Status of a work completion.
pub use vrnic_abi::cqe::CompletionStatus as Wc;

/// Memory of the owner that keys are about; around it nothing may ever change.
pub const PLACE: u64 = 64 << 10;
pub const PAGE: u64 = 4096;

pub const ALL: AccessFlags = AccessFlags::LOCAL_WRITE
    .union(AccessFlags::REMOTE_WRITE)
    .union(AccessFlags::REMOTE_READ)
    .union(AccessFlags::REMOTE_ATOMIC);

pub struct World {
    pub bench: Bench,
    pub user: Node,
    pub owner: Node,
    /// The connections: queue pairs of the user, and those of the owner, which are privileged.
    pub users: Vec<Qp>,
    pub owners: Vec<Qp>,
}

impl World {
    #[track_caller]
    pub fn new(direct: bool) -> Self {
        let mut bench = Bench::new(NicConfig {
            direct,
            ..NicConfig::default()
        });
        let mut user = Node::new(&mut bench, 1);
        let mut owner = Node::new(&mut bench, 2);
        let qps = |node: &mut Node, bench: &mut Bench, flags| -> Vec<Qp> {
            let (driver, cq) = (&mut node.driver, &node.cq);
            (0..2)
                .map(|_| driver.qp_with(bench, node.pd, cq, cq, flags))
                .collect()
        };
        let users = qps(&mut user, &mut bench, QpFlags::empty());
        let owners = qps(&mut owner, &mut bench, QpFlags::PRIVILEGED);
        let mut world = Self {
            bench,
            user,
            owner,
            users,
            owners,
        };
        for qp in 0..2 {
            world.connect(qp);
        }
        world
    }

    #[track_caller]
    fn connect(&mut self, qp: usize) {
        let (at_user, at_owner) = (self.users[qp].number, self.owners[qp].number);
        self.user
            .driver
            .connect(&mut self.bench, at_user, 2, at_owner);
        self.owner
            .driver
            .connect(&mut self.bench, at_owner, 1, at_user);
    }

    /// Resets a connection and sets it up again, after an error.
    #[track_caller]
    pub fn reconnect(&mut self, qp: usize) {
        self.settle();
        let sides = [
            (&mut self.user, &mut self.users[qp]),
            (&mut self.owner, &mut self.owners[qp]),
        ];
        for (node, qp) in sides {
            node.driver
                .set_state(&mut self.bench, qp.number, QpState::Reset);
            (qp.posted, qp.received) = (0, 0);
            while node.eq.poll(&node.driver.hw).is_some() {}
            node.eq.arm(&node.driver.hw);
            while node.poll().is_some() {}
        }
        self.connect(qp);
    }

    /// Runs until all is at rest, timers of lost connections included.
    #[track_caller]
    pub fn settle(&mut self) {
        self.bench.run();
    }

    pub fn hw(&self) -> &Hardware {
        &self.owner.driver.hw
    }

    /// DMA address of the owner's memory.
    pub fn place(&self) -> u64 {
        self.owner.memory + PLACE
    }

    #[track_caller]
    pub fn memory(&self) -> Vec<u8> {
        self.hw().bytes(self.place(), PLACE as usize)
    }

    pub fn store(&self, address: u64, bytes: &[u8]) {
        self.hw().ram.write(address, bytes).unwrap();
    }

    /// The one completion of a node that there must be; flushed ones of a broken queue pair aside.
    #[track_caller]
    fn ended(node: &mut Node) -> Wc {
        let first = node.poll().expect("the request completes");
        while let Some(CompletionEntry { status, .. }) = node.poll() {
            assert_eq!(Wc::from_raw(status), Some(Wc::Flushed));
        }
        Wc::from_raw(first.status).expect("a known status")
    }

    /// A request of the owner's queue pair `qp`.
    #[track_caller]
    pub fn local(&mut self, qp: usize, opcode: WqeOpcode, immediate: u32, rest: &[u8]) -> Wc {
        let hw = &self.owner.driver.hw;
        self.owners[qp].post(hw, control(opcode, immediate, 0), &[rest]);
        self.settle();
        Self::ended(&mut self.owner)
    }

    #[track_caller]
    pub fn register(&mut self, qp: usize, segment: &FastRegisterSegment) -> Wc {
        self.local(qp, WqeOpcode::FastRegister, 0, bytes_of(segment))
    }

    #[track_caller]
    pub fn bind(&mut self, qp: usize, segment: &BindSegment) -> Wc {
        self.local(qp, WqeOpcode::BindWindow, 0, bytes_of(segment))
    }

    #[track_caller]
    pub fn invalidate(&mut self, qp: usize, key: u32) -> Wc {
        self.local(qp, WqeOpcode::LocalInvalidate, key, &[])
    }

    /// The user's WRITE of `bytes` to the owner's memory.
    #[track_caller]
    pub fn write(&mut self, qp: usize, target: (u64, u32), bytes: &[u8]) -> Wc {
        let hw = &self.user.driver.hw;
        hw.ram.write(self.user.memory, bytes).unwrap();
        let list = [self.user.segment(0, bytes.len() as u32)];
        self.users[qp].rdma(hw, WqeOpcode::Write, target, &list);
        self.settle();
        Self::ended(&mut self.user)
    }

    /// The user's atomic operation, which adds or writes a number that is not zero.
    #[track_caller]
    pub fn atomic(&mut self, qp: usize, opcode: WqeOpcode, (address, rkey): (u64, u32)) -> Wc {
        let remote = RemoteSegment {
            address,
            rkey,
            reserved: 0,
        };
        let mut head = control(opcode, 0, 1);
        // The operands, or the number inline.
        let numbers = [!0u64; 2];
        let mut rest = [bytes_of(&remote), bytemuck::cast_slice(&numbers)].concat();
        if opcode == WqeOpcode::AtomicWrite {
            head.flags |= WqeFlags::INLINE.bits();
            (head.inline_length, head.data_segments) = (8, 0);
        } else {
            rest.extend_from_slice(bytes_of(&self.user.segment(0, 8)));
        }
        self.users[qp].post(&self.user.driver.hw, head, &[&rest]);
        self.settle();
        Self::ended(&mut self.user)
    }

    /// The user's READ of `length` bytes.
    #[track_caller]
    pub fn read(&mut self, qp: usize, source: (u64, u32), length: u32) -> (Wc, Vec<u8>) {
        let (hw, at) = (&self.user.driver.hw, self.user.memory);
        hw.ram.write(at, &vec![PATTERN; length as usize]).unwrap();
        let list = [self.user.segment(0, length)];
        self.users[qp].rdma(hw, WqeOpcode::Read, source, &list);
        self.settle();
        let status = Self::ended(&mut self.user);
        (status, self.user.hw().bytes(at, length as usize))
    }

    /// The user's SEND that invalidates a key of the owner: both completions.
    #[track_caller]
    pub fn send_invalidate(&mut self, qp: usize, key: u32) -> (Wc, CompletionEntry) {
        let list = [self.owner.segment(0, 8)];
        self.owners[qp].receive(&self.owner.driver.hw, &list);
        let list = [self.user.segment(0, 8)];
        self.users[qp].send(&self.user.driver.hw, WqeOpcode::SendInvalidate, key, &list);
        self.settle();
        let received = self.owner.poll().expect("the receive completes");
        (Self::ended(&mut self.user), received)
    }

    /// A region of CreateMr over all of the place, whose pages are in order.
    #[track_caller]
    pub fn region(&mut self, pd: u32, access: AccessFlags) -> u32 {
        let body = CreateMr {
            pd,
            access: access.bits(),
            start: self.place(),
            length: PLACE,
            buffer: Buffer {
                address: self.place(),
                pages: (PLACE / PAGE) as u32,
                page_shift: 12,
                ..Buffer::default()
            },
            variant: 1,
            ..CreateMr::default()
        };
        let driver = &mut self.owner.driver;
        driver.ok(&mut self.bench, AdminOpcode::CreateMr, &body) as u32
    }

    #[track_caller]
    pub fn fast_region(&mut self, pd: u32, max_pages: u32) -> u32 {
        let body = AllocMr {
            pd,
            max_pages,
            variant: 1,
            ..AllocMr::default()
        };
        let driver = &mut self.owner.driver;
        driver.ok(&mut self.bench, AdminOpcode::AllocMr, &body) as u32
    }

    #[track_caller]
    pub fn window(&mut self, pd: u32, kind: WindowType) -> u32 {
        let body = AllocMw {
            pd,
            window_type: kind.raw(),
            variant: 1,
            ..AllocMw::default()
        };
        let driver = &mut self.owner.driver;
        driver.ok(&mut self.bench, AdminOpcode::AllocMw, &body) as u32
    }

    #[track_caller]
    pub fn pd(&mut self) -> u32 {
        let driver = &mut self.owner.driver;
        driver.ok(&mut self.bench, AdminOpcode::AllocPd, &0u64) as u32
    }

    /// Ends an object; whether that worked, and how not.
    #[track_caller]
    pub fn destroy(&mut self, opcode: AdminOpcode, object: u32) -> Status {
        let body = ObjectReference {
            object,
            reserved: 0,
        };
        let driver = &mut self.owner.driver;
        let completion = driver.command(&mut self.bench, opcode, &body);
        Status::from_raw(completion.status).expect("a known status")
    }

    #[track_caller]
    pub fn query(&mut self, key: u32) -> MrAttributes {
        let driver = &mut self.owner.driver;
        driver.query(&mut self.bench, AdminOpcode::QueryMr, key)
    }

    /// A page list in the owner's memory.
    #[track_caller]
    pub fn list(&mut self, pages: &[u64]) -> u64 {
        let at = self.owner.memory;
        self.store(at, bytemuck::cast_slice(pages));
        at
    }

    /// A registration of pages of the place under `key`, from 16 bytes into the first one on.
    #[track_caller]
    pub fn registration(&mut self, key: u32, pages: &[u64]) -> FastRegisterSegment {
        let pages: Vec<u64> = pages.iter().map(|n| self.place() + n * PAGE).collect();
        FastRegisterSegment {
            key,
            access: ALL.bits(),
            start: 0x7000_0010,
            length: pages.len() as u64 * PAGE - 32,
            list: self.list(&pages),
            pages: pages.len() as u32,
            page_shift: 12,
            ..FastRegisterSegment::default()
        }
    }

    /// A binding of 256 bytes, one page into the place.
    pub fn binding(&self, window: u32, key: u32, region: u32) -> BindSegment {
        BindSegment {
            window,
            key,
            region,
            access: (AccessFlags::REMOTE_WRITE | AccessFlags::REMOTE_READ).bits(),
            start: self.place() + PAGE,
            length: 256,
            ..BindSegment::default()
        }
    }
}

/// The key with other bits 7:0.
pub const fn variant(key: u32, variant: u8) -> u32 {
    key & !0xff | variant as u32
}
