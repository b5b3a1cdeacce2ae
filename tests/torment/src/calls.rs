//! Random commands. Most make sense, so that there are objects to be bad to; numbers in them are odd
//! now and then, handles may be anybody's, and some commands are not even whole.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::PoisonError;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::command::{self, Answer, Attribute, Bytes, Command, Way};
use crate::context::{Context, PAGE, Pool, Queue};
use crate::tally::{Call, Tally};

/// Objects of a kind that a context has before it makes room.
const MOST: usize = 48;
/// Bytes of the largest ring.
const RING: usize = 16 * PAGE;
/// Queue pair types that are tried: RC, UC, UD, XRC both ways, and those that are not ours to have.
const TYPES: [u8; 9] = [2, 2, 2, 3, 4, 9, 10, 1, 8];

/// Numbers of commands.
mod number {
    pub(super) const QUERY_DEVICE: u32 = 1;
    pub(super) const QUERY_PORT: u32 = 2;
    pub(super) const ALLOC_PD: u32 = 3;
    pub(super) const DEALLOC_PD: u32 = 4;
    pub(super) const CREATE_AH: u32 = 5;
    pub(super) const DESTROY_AH: u32 = 8;
    pub(super) const REG_MR: u32 = 9;
    pub(super) const REREG_MR: u32 = 11;
    pub(super) const DEREG_MR: u32 = 13;
    pub(super) const ALLOC_MW: u32 = 14;
    pub(super) const DEALLOC_MW: u32 = 16;
    pub(super) const CREATE_CHANNEL: u32 = 17;
    pub(super) const CREATE_CQ: u32 = 18;
    pub(super) const RESIZE_CQ: u32 = 19;
    pub(super) const DESTROY_CQ: u32 = 20;
    pub(super) const POLL_CQ: u32 = 21;
    pub(super) const NOTIFY_CQ: u32 = 23;
    pub(super) const CREATE_QP: u32 = 24;
    pub(super) const QUERY_QP: u32 = 25;
    pub(super) const MODIFY_QP: u32 = 26;
    pub(super) const DESTROY_QP: u32 = 27;
    pub(super) const POST_SEND: u32 = 28;
    pub(super) const ATTACH_MCAST: u32 = 30;
    pub(super) const DETACH_MCAST: u32 = 31;
    pub(super) const CREATE_SRQ: u32 = 32;
    pub(super) const MODIFY_SRQ: u32 = 33;
    pub(super) const QUERY_SRQ: u32 = 34;
    pub(super) const DESTROY_SRQ: u32 = 35;
    pub(super) const OPEN_XRCD: u32 = 37;
    pub(super) const CLOSE_XRCD: u32 = 38;
    pub(super) const CREATE_XSRQ: u32 = 39;
    pub(super) const OPEN_QP: u32 = 40;
    pub(super) const END: u32 = 52;
}

/// Bits that say what a modification of a queue pair is about.
mod mask {
    pub(super) const INIT: u32 = 0x31;
    pub(super) const ACCESS: u32 = 0x8;
    pub(super) const QKEY: u32 = 0x40;
    pub(super) const RTR: u32 = 0x1 | 0x80 | 0x100 | 0x10_0000 | 0x1000;
    pub(super) const RTR_RELIABLE: u32 = 0x2_0000 | 0x8000;
    pub(super) const RTS: u32 = 0x1 | 0x1_0000;
    pub(super) const RTS_RELIABLE: u32 = 0x200 | 0x400 | 0x800 | 0x2000;
}

/// One thread's way to call a context.
pub(crate) struct Caller<'a> {
    pub(crate) context: &'a Context,
    pub(crate) tally: &'a Tally,
    pub(crate) gid: [u8; 16],
    pub(crate) rng: SmallRng,
}

impl Caller<'_> {
    /// Does one thing.
    pub(crate) fn call(&mut self) {
        match self.rng.random_range(0..100) {
            0..6 => self.alloc_pd(),
            6..14 => self.reg_mr(),
            14..18 => self.rereg_mr(),
            18..22 => self.alloc_mw(),
            22..30 => self.create_cq(),
            30..36 => self.resize_cq(),
            36..42 => self.create_srq(),
            42..45 => self.xrc(),
            45..57 => self.create_qp(),
            57..67 => self.connect(),
            67..72 => self.modify_qp(),
            72..78 => self.queries(),
            78..82 => self.datagrams(),
            82..87 => self.mutated(),
            87..91 => self.ioctl(),
            91..93 => self.create_channel(),
            _ => self.destroy(),
        }
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.rng.random_ratio(1, one_in)
    }

    /// The value, or once in a while another one.
    fn odd(&mut self, value: u32) -> u32 {
        if !self.chance(24) {
            return value;
        }
        let odd = [
            0,
            1,
            0x7fff_ffff,
            0x8000_0000,
            u32::MAX,
            self.rng.random(),
            value ^ 1,
        ];
        odd[self.rng.random_range(0..odd.len())]
    }

    fn odd_u64(&mut self, value: u64) -> u64 {
        if !self.chance(24) {
            return value;
        }
        let odd = [
            0,
            1,
            1 << 47,
            1 << 63,
            !0xfff,
            u64::MAX,
            self.rng.random(),
            value ^ 0x800,
        ];
        odd[self.rng.random_range(0..odd.len())]
    }

    fn odd_u8(&mut self, value: u8) -> u8 {
        if self.chance(24) {
            self.rng.random()
        } else {
            value
        }
    }

    /// A handle out of a pool, or any small number.
    fn handle(&mut self, pool: &Pool) -> u32 {
        if self.chance(12) {
            return self.rng.random_range(0..256);
        }
        pool.pick(self.rng.random_range(0..MOST))
    }

    fn send(&mut self, call: Call, command: &Command) -> Option<Answer> {
        let way = if self.rng.random() {
            Way::Write
        } else {
            Way::Ioctl
        };
        let result = command.send(self.context.fd(), way);
        self.tally.note(call, result).ok()
    }

    /// Makes an object, for which another one goes if there are many.
    fn make(&mut self, call: Call, command: &Command, pool: &Pool) -> Option<Answer> {
        if pool.len() >= MOST {
            self.destroy();
        }
        let answer = self.send(call, command)?;
        pool.add(answer.u32(0));
        Some(answer)
    }

    /// Offset of a place for a ring.
    fn ring(&mut self) -> usize {
        let pages = (self.context.memory.length() - RING) / PAGE;
        self.rng.random_range(0..pages) * PAGE
    }

    /// The driver's request for a queue in a ring.
    fn own(&mut self, ring: usize, logs: [u8; 3]) -> Bytes {
        let address = self.odd_u64(self.context.memory.address() + ring as u64);
        let bytes = Bytes::default().u64(address);
        let bytes = logs
            .into_iter()
            .fold(bytes, |bytes, log| bytes.u8(self.odd_u8(log)));
        let bytes = bytes.bytes(&[0; 5]).u64(0);
        if !self.chance(32) {
            return bytes;
        }
        // Of another length.
        let length = self.rng.random_range(0..64) * 4;
        let mut bytes = bytes;
        bytes.0.resize(length, 0xa5);
        bytes
    }

    fn alloc_pd(&mut self) {
        let room = if self.chance(16) { 0 } else { 8 };
        let command =
            Command::new(number::ALLOC_PD, Bytes::default(), 4).with(Bytes::default(), room);
        self.make(Call::AllocPd, &command, &self.context.pds);
    }

    fn region(&mut self) -> (u64, u64) {
        let length = self.context.memory.length() as u64;
        let start = self.rng.random_range(0..length);
        let size = self.rng.random_range(0..=length - start);
        let start = self.context.memory.address() + start;
        (self.odd_u64(start), self.odd_u64(size))
    }

    fn reg_mr(&mut self) {
        let (start, length) = self.region();
        let address = self.odd_u64(start);
        let access = self.rng.random_range(0..64) | 1;
        let body = Bytes::default().u64(start).u64(length).u64(address);
        let body = body
            .u32(self.handle(&self.context.pds))
            .u32(self.odd(access));
        let command = Command::new(number::REG_MR, body, 12);
        if let Some(answer) = self.make(Call::RegMr, &command, &self.context.mrs) {
            self.context.keys.add(answer.u32(4));
        }
    }

    fn rereg_mr(&mut self) {
        let (start, length) = self.region();
        let flags = self.rng.random_range(0..8);
        let body = Bytes::default()
            .u32(self.handle(&self.context.mrs))
            .u32(self.odd(flags));
        let body = body.u64(start).u64(length).u64(self.odd_u64(start));
        let access = self.rng.random_range(0..16) | 1;
        let body = body
            .u32(self.handle(&self.context.pds))
            .u32(self.odd(access));
        self.send(Call::ReregMr, &Command::new(number::REREG_MR, body, 8));
    }

    fn alloc_mw(&mut self) {
        let kind = self.rng.random_range(1..3);
        let body = Bytes::default().u32(self.handle(&self.context.pds));
        let body = body.u8(self.odd_u8(kind)).bytes(&[0; 3]);
        let command = Command::new(number::ALLOC_MW, body, 8);
        if let Some(answer) = self.make(Call::AllocMw, &command, &self.context.mws) {
            self.context.keys.add(answer.u32(4));
        }
    }

    /// Notes a queue whose slot is on a page of the driver's answer.
    fn found(&self, answer: &Answer, (slot, page): (usize, usize), qpn: Option<u32>, ring: usize) {
        let index = answer.own_u32(page);
        let (doorbell, kick) = (answer.own_u64(page + 8), answer.own_u64(page + 16));
        self.context.map_page(index, doorbell, kick, self.tally);
        let slot = answer.own_u32(slot);
        self.context.add_queue(Queue {
            page: index as usize,
            slot,
            qpn,
            ring,
        });
    }

    fn create_cq(&mut self) {
        let (ring, log) = (self.ring(), self.rng.random_range(2..9));
        let channel = self.channel();
        let body = Bytes::default()
            .u64(0)
            .u32(self.odd(1 << log))
            .u32(self.odd(0));
        let body = body.u32(channel as u32).u32(0);
        let room = if self.chance(16) { 0 } else { 32 };
        let command =
            Command::new(number::CREATE_CQ, body, 8).with(self.own(ring, [log, 0, 0]), room);
        if let Some(answer) = self.make(Call::CreateCq, &command, &self.context.cqs) {
            self.found(&answer, (4, 8), None, ring);
        }
    }

    /// The file of a completion channel, or none.
    fn channel(&mut self) -> RawFd {
        use std::os::fd::AsRawFd;
        let channels = self
            .context
            .channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let index = self.rng.random_range(0..8);
        channels.get(index).map_or(-1, AsRawFd::as_raw_fd)
    }

    fn create_channel(&mut self) {
        let command = Command::new(number::CREATE_CHANNEL, Bytes::default(), 4);
        let Some(answer) = self.send(Call::CreateChannel, &command) else {
            return;
        };
        // SAFETY: the kernel has just opened it for us.
        let channel = unsafe { OwnedFd::from_raw_fd(answer.u32(0) as RawFd) };
        let mut channels = self
            .context
            .channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if channels.len() >= 4 {
            channels.remove(0);
        }
        channels.push(channel);
    }

    fn resize_cq(&mut self) {
        let (ring, log) = (self.ring(), self.rng.random_range(2..9));
        let body = Bytes::default()
            .u32(self.handle(&self.context.cqs))
            .u32(self.odd(1 << log));
        let command = Command::new(number::RESIZE_CQ, body, 8).with(self.own(ring, [log, 0, 0]), 8);
        self.send(Call::ResizeCq, &command);
    }

    fn create_srq(&mut self) {
        let (ring, log) = (self.ring(), self.rng.random_range(0..8));
        let body = Bytes::default().u64(0).u32(self.handle(&self.context.pds));
        let body = body
            .u32(self.odd(1 << log))
            .u32(self.odd(2))
            .u32(self.odd(0));
        let room = if self.chance(16) { 0 } else { 32 };
        let command =
            Command::new(number::CREATE_SRQ, body, 16).with(self.own(ring, [log, 1, 0]), room);
        if let Some(answer) = self.make(Call::CreateSrq, &command, &self.context.srqs) {
            self.found(&answer, (4, 8), None, ring);
        }
    }

    /// A domain, or a shared receive queue in one.
    fn xrc(&mut self) {
        if self.context.xrcds.len() < 2 || self.chance(4) {
            let body = Bytes::default()
                .u32(self.odd(u32::MAX))
                .u32(libc::O_CREAT as u32);
            let command = Command::new(number::OPEN_XRCD, body, 4);
            self.make(Call::OpenXrcd, &command, &self.context.xrcds);
            return;
        }
        let (ring, log) = (self.ring(), self.rng.random_range(0..8));
        let body = Bytes::default()
            .u64(0)
            .u32(self.odd(1))
            .u32(self.handle(&self.context.pds));
        let body = body.u32(self.odd(1 << log)).u32(self.odd(2)).u32(0).u32(0);
        let body = body
            .u32(self.handle(&self.context.xrcds))
            .u32(self.handle(&self.context.cqs));
        let command =
            Command::new(number::CREATE_XSRQ, body, 16).with(self.own(ring, [log, 1, 0]), 32);
        if let Some(answer) = self.make(Call::CreateXsrq, &command, &self.context.srqs) {
            self.found(&answer, (4, 8), None, ring);
        }
    }

    fn create_qp(&mut self) {
        let kind = TYPES[self.rng.random_range(0..TYPES.len())];
        let shared = self.rng.random_ratio(1, 4);
        let (ring, send, receive) = (
            self.ring(),
            self.rng.random_range(0..8),
            self.rng.random_range(0..6),
        );
        // An XRC target has a domain where others have a protection domain.
        let pd = if kind == 10 {
            &self.context.xrcds
        } else {
            &self.context.pds
        };
        let body = Bytes::default().u64(0).u32(self.handle(pd));
        let body = body
            .u32(self.handle(&self.context.cqs))
            .u32(self.handle(&self.context.cqs));
        let body = body
            .u32(self.handle(&self.context.srqs))
            .u32(self.odd(16))
            .u32(self.odd(16));
        let body = body.u32(self.odd(2)).u32(self.odd(2)).u32(self.odd(64));
        let body = body
            .u8(self.rng.random_range(0..2))
            .u8(self.odd_u8(kind))
            .u8(u8::from(shared))
            .u8(0);
        let room = if self.chance(16) { 0 } else { 40 };
        let own = self.own(ring, [send, receive, 1]);
        let command = Command::new(number::CREATE_QP, body, 32).with(own, room);
        if let Some(answer) = self.make(Call::CreateQp, &command, &self.context.qps) {
            let number = answer.u32(4);
            self.context.qpns.add(number);
            self.found(&answer, (4, 16), Some(number), ring);
            self.found(&answer, (8, 16), None, ring);
            self.connect_to(answer.u32(0), kind, number);
        }
    }

    /// One modification, with the path and everything else at sensible values.
    fn modification(&mut self, qp: u32, mask: u32, state: u8, peer: u32) -> bool {
        let path = |bytes: Bytes| {
            let bytes = bytes.bytes(&self.gid).u32(0).u16(0).u16(0);
            bytes.bytes(&[0, 64, 0, 0, 0, 0, 1, 1])
        };
        let body = path(path(Bytes::default()));
        let body = body
            .u32(qp)
            .u32(mask)
            .u32(0x1111)
            .u32(0)
            .u32(0)
            .u32(self.odd(peer))
            .u32(self.odd(15));
        let mtu = self.rng.random_range(1..6);
        let body = body
            .u16(0)
            .u16(0)
            .u8(state)
            .u8(0)
            .u8(self.odd_u8(mtu))
            .u8(0)
            .u8(0);
        let body = body
            .u8(self.odd_u8(4))
            .u8(self.odd_u8(4))
            .u8(1)
            .u8(1)
            .u8(self.odd_u8(8))
            .u8(3)
            .u8(3);
        let body = body.u8(1).u8(8).u16(0);
        let call = if state == 3 {
            Call::Connect
        } else {
            Call::ModifyQp
        };
        self.send(call, &Command::new(number::MODIFY_QP, body, 0))
            .is_some()
    }

    /// Brings a queue pair to RTS, connected to another one or to itself.
    fn connect_to(&mut self, qp: u32, kind: u8, number: u32) {
        let pick = self.rng.random_range(0..MOST);
        let peer = if self.rng.random() {
            number
        } else {
            self.context.qpns.pick(pick)
        };
        let (datagram, reliable) = (kind == 4, matches!(kind, 2 | 9 | 10));
        let mut init = mask::INIT;
        init |= if datagram { mask::QKEY } else { mask::ACCESS };
        let (mut rtr, mut rts) = (mask::RTR, mask::RTS);
        if reliable {
            rtr |= mask::RTR_RELIABLE;
            rts |= mask::RTS_RELIABLE;
        }
        if datagram {
            rtr = 1;
        }
        for (mask, state) in [(init, 1), (rtr, 2), (rts, 3)] {
            if !self.modification(qp, mask, state, peer) {
                return;
            }
        }
    }

    fn connect(&mut self) {
        let (qp, kind) = (self.handle(&self.context.qps), self.rng.random_range(2..5));
        if self.rng.random() {
            // From the beginning.
            self.modification(qp, 1, 0, 0);
        }
        let number = self.handle(&self.context.qpns);
        self.connect_to(qp, kind, number);
    }

    fn modify_qp(&mut self) {
        let qp = self.handle(&self.context.qps);
        let (state, peer) = (self.rng.random_range(0..8), self.handle(&self.context.qpns));
        let mask = if self.rng.random() {
            1
        } else {
            self.rng.random()
        };
        self.modification(qp, mask, state, peer);
    }

    fn queries(&mut self) {
        let (cqs, qps, srqs) = (&self.context.cqs, &self.context.qps, &self.context.srqs);
        let body = Bytes::default();
        let (call, command) = match self.rng.random_range(0..9) {
            0 => (
                Call::QueryDevice,
                Command::new(number::QUERY_DEVICE, body, 256),
            ),
            1 => {
                let body = body.u8(self.odd_u8(1)).bytes(&[0; 7]);
                (Call::QueryPort, Command::new(number::QUERY_PORT, body, 64))
            }
            2 => {
                let body = body.u32(self.handle(qps)).u32(self.rng.random());
                (Call::QueryQp, Command::new(number::QUERY_QP, body, 128))
            }
            3 => {
                let body = body.u32(self.handle(srqs)).u32(0);
                (Call::QuerySrq, Command::new(number::QUERY_SRQ, body, 16))
            }
            4 => {
                let body = body
                    .u32(self.handle(srqs))
                    .u32(self.odd(2))
                    .u32(0)
                    .u32(self.odd(1));
                (Call::ModifySrq, Command::new(number::MODIFY_SRQ, body, 0))
            }
            5 => {
                let body = body.u32(self.handle(cqs)).u32(0);
                (Call::NotifyCq, Command::new(number::NOTIFY_CQ, body, 0))
            }
            6 => {
                let body = body.u32(self.handle(cqs)).u32(2);
                (Call::PollCq, Command::new(number::POLL_CQ, body, 128))
            }
            7 => {
                let body = body.u64(0).u32(self.handle(&self.context.xrcds));
                let body = body
                    .u32(self.handle(&self.context.qpns))
                    .u8(10)
                    .bytes(&[0; 7]);
                (
                    Call::OpenQp,
                    Command::new(number::OPEN_QP, body, 32).with(Bytes::default(), 40),
                )
            }
            _ => {
                // One request without data segments.
                let body = body
                    .u32(self.handle(qps))
                    .u32(1)
                    .u32(0)
                    .u32(64)
                    .bytes(&[0; 64]);
                (Call::PostSend, Command::new(number::POST_SEND, body, 4))
            }
        };
        self.send(call, &command);
    }

    fn datagrams(&mut self) {
        let qp = self.handle(&self.context.qps);
        if self.rng.random() {
            let body = Bytes::default()
                .u64(0)
                .u32(self.handle(&self.context.pds))
                .u32(0);
            let body = body.bytes(&self.gid).u32(0).u8(0).u8(64).u8(0).u8(0);
            let body = body
                .u16(0)
                .u8(0)
                .u8(0)
                .u8(0)
                .u8(self.odd_u8(1))
                .u8(self.odd_u8(1))
                .u8(0);
            let command = Command::new(number::CREATE_AH, body, 4).with(Bytes::default(), 48);
            self.make(Call::CreateAh, &command, &self.context.ahs);
            return;
        }
        let mut group = [0; 16];
        (group[0], group[1], group[15]) = (0xff, 0x0e, self.rng.random_range(0..4));
        group[0] = self.odd_u8(group[0]);
        let body = Bytes::default().bytes(&group).u32(qp).u16(0).u16(0);
        let (call, number) = match self.rng.random() {
            true => (Call::AttachMcast, number::ATTACH_MCAST),
            false => (Call::DetachMcast, number::DETACH_MCAST),
        };
        self.send(call, &Command::new(number, body, 0));
    }

    fn destroy(&mut self) {
        let context = self.context;
        let (call, number, pool, answer) = match self.rng.random_range(0..11) {
            0 => (Call::DeallocPd, number::DEALLOC_PD, &context.pds, 0),
            1 | 2 => (Call::DeregMr, number::DEREG_MR, &context.mrs, 0),
            3 => (Call::DeallocMw, number::DEALLOC_MW, &context.mws, 0),
            4 | 5 => (Call::DestroyCq, number::DESTROY_CQ, &context.cqs, 8),
            6 => (Call::DestroySrq, number::DESTROY_SRQ, &context.srqs, 4),
            7 => (Call::DestroyAh, number::DESTROY_AH, &context.ahs, 0),
            8 => (Call::CloseXrcd, number::CLOSE_XRCD, &context.xrcds, 0),
            _ => (Call::DestroyQp, number::DESTROY_QP, &context.qps, 4),
        };
        let handle = self.handle(pool);
        let body = Bytes::default().u32(handle);
        let body = if answer > 0 { body.u32(0) } else { body };
        if self
            .send(call, &Command::new(number, body, answer))
            .is_some()
        {
            pool.forget(handle);
        }
    }

    /// Where a mutated command may have its answer written: to memory that is scribbled on anyway,
    /// or nowhere.
    fn place(&mut self) -> u64 {
        let own = self.context.memory.address() + self.rng.random_range(0..0x1000) * 8;
        let places = [own, own, own, 0, 1 << 63, own ^ 3];
        places[self.rng.random_range(0..places.len())]
    }

    /// A command whose numbers are anything, of any length.
    fn mutated(&mut self) {
        let length = self.rng.random_range(2..40) * 4;
        let mut bytes = vec![0; length];
        let place = self.place();
        for word in bytes.chunks_exact_mut(4).skip(4) {
            let value: u32 = match self.rng.random_range(0..4) {
                0 => self.rng.random(),
                1 => self.rng.random_range(0..64),
                _ => 0,
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
        let extended = if self.chance(4) { 1 << 31 } else { 0 };
        let number = self.rng.random_range(0..number::END) | extended;
        let words = match extended {
            0 => (length / 4) as u16,
            _ => (length / 8) as u16,
        };
        let head = Bytes::default()
            .u32(self.odd(number))
            .u16(words)
            .u16(self.rng.random_range(0..64));
        let head = head.u64(place);
        for (to, from) in bytes.iter_mut().zip(&head.0) {
            *to = *from;
        }
        let written = command::write(self.context.fd(), &bytes);
        let _ = self.tally.note(Call::Mutated, written);
    }

    /// A request of the new interface with any attributes.
    fn ioctl(&mut self) {
        let count = self.rng.random_range(0..7);
        let mut attributes = Vec::new();
        for _ in 0..count {
            let id = match self.chance(4) {
                true => 0x1000 + self.rng.random_range(0..4),
                false => self.rng.random_range(0..16),
            };
            let length = self.rng.random_range(0..80);
            let data = match self.rng.random_range(0..4) {
                0 => self.rng.random_range(0..64),
                _ => self.place(),
            };
            let flags = self.rng.random_range(0..2);
            attributes.push(Attribute {
                id,
                length,
                flags,
                data,
            });
        }
        let (object, method) = (self.rng.random_range(0..18), self.rng.random_range(0..8));
        let method = if self.chance(8) {
            method | 0x1000
        } else {
            method
        };
        let mut request = command::request(object, method, &attributes);
        let result = command::ioctl(self.context.fd(), &mut request);
        let _ = self.tally.note(Call::Ioctl, result);
    }
}
