//! Batches of operations, and what must have come of them.

use std::collections::VecDeque;

use vrnic_abi::admin::{AdminOpcode, QpType};
use vrnic_abi::cqe::{CompletionEntry, CompletionFlags, CompletionOpcode};
use vrnic_abi::object::{QpAttributes, QpState};
use vrnic_firmware::types::Time;

use crate::end::End;
use crate::nic_bench::{PATTERN, Random, mac};
use crate::nic_link::Link;
use crate::operation::{
    BATCH, COUNTER, Kind, LIBRARY, Operation, RECEIVE, RECEIVES, RESULT, SLOT, SOURCE, TARGET,
};

/// Ethertype for private use (IEEE 802, local experimental).
const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];
/// Bytes before the data of a datagram.
const ROUTE_HEADER: usize = 40;

/// Two ends and the model of both.
pub struct Trial {
    link: Link,
    ends: [End; 2],
    service: QpType,
    random: Random,
    /// The number of each end that the other's atomic operations are about.
    counters: [u64; 2],
    /// Receives that have completed at each end.
    received: [u64; 2],
    /// Messages that needed a receive, sent to each end.
    sent_to: [u64; 2],
    /// Operations carried out.
    pub done: u64,
}

/// What one end does in a batch.
struct Side {
    operations: Vec<Operation>,
    /// What atomic operations return, in order.
    originals: VecDeque<u64>,
    /// Index of the first basic block of each operation.
    blocks: Vec<u32>,
    sends: Vec<CompletionEntry>,
    receives: Vec<CompletionEntry>,
}

impl Trial {
    #[track_caller]
    pub fn new(mut link: Link, service: QpType, seed: u64) -> Self {
        let [x, y] = &mut link.nics;
        let mut a = End::new(x, 1, service);
        let mut b = End::new(y, 2, service);
        let (first, second) = (a.identity(), b.identity());
        a.connect(x, &second);
        b.connect(y, &first);
        y.now = x.now.max(y.now);
        x.now = y.now;
        Self {
            link,
            ends: [a, b],
            service,
            random: Random(seed),
            counters: [0; 2],
            received: [0; 2],
            sent_to: [0; 2],
            done: 0,
        }
    }

    fn reliable(&self) -> bool {
        matches!(self.service, QpType::Rc | QpType::XrcInitiator)
    }

    /// One batch, both ways at once.
    #[track_caller]
    pub fn batch(&mut self) {
        let sides = [self.plan(0), self.plan(1)];
        let mut sides = sides.map(Side::new);
        for (from, side) in sides.iter_mut().enumerate() {
            self.post(from, side);
        }
        let needed = [1, 0].map(|from: usize| needs(&sides[from].operations));
        if self.reliable() {
            // Some receives come only when the messages that need them have been there.
            for (to, needed) in needed.into_iter().enumerate() {
                let early = self.random.below(needed + 1);
                self.post_receives(to, early);
            }
            let soon = Time(self.link.now().0 + 100_000);
            self.drive(&mut sides, soon);
        }
        for (to, needed) in needed.into_iter().enumerate() {
            let missing = needed - (sides[to].receives.len() as u64).min(needed);
            self.post_receives(to, missing);
        }
        self.drive(&mut sides, Time(u64::MAX));
        for from in 0..2 {
            self.check_sends(from, &mut sides);
            self.check_receives(1 - from, &sides);
            self.check_memory(from, &sides);
        }
        self.done += sides.iter().map(|s| s.operations.len() as u64).sum::<u64>();
    }

    fn plan(&mut self, from: usize) -> Vec<Operation> {
        let count = 1 + self.random.below(BATCH);
        let counter = &mut self.counters[1 - from];
        let mut operations: Vec<_> = (0..count)
            .map(|_| Operation::random(self.service, &mut self.random, counter))
            .collect();
        if self.service == QpType::RawPacket {
            let (own, peer) = (&self.ends[from].driver, &self.ends[1 - from].driver);
            for operation in &mut operations {
                operation.data[..6].copy_from_slice(&mac(peer.n).0);
                operation.data[6..12].copy_from_slice(&mac(own.n).0);
                operation.data[12..14].copy_from_slice(&EXPERIMENTAL);
            }
        }
        // Its completion says that all are over.
        if let Some(last) = operations.last_mut() {
            last.signaled = true;
        }
        operations
    }

    fn post(&mut self, from: usize, side: &mut Side) {
        let peer = self.ends[1 - from].identity();
        let mut counter = self.ends[1 - from].bytes(COUNTER, 8);
        for (n, operation) in (0u64..).zip(&side.operations) {
            self.prepare(from, n, operation);
            side.blocks.push(self.ends[from].qp.posted);
            self.ends[from].post(n, operation, &peer);
            let original = u64::from_le_bytes(counter.as_slice().try_into().unwrap());
            let new = match operation.kind {
                Kind::FetchAdd(add) => original.wrapping_add(add),
                Kind::CompareSwap { compare, swap } if compare == original => swap,
                Kind::CompareSwap { .. } => original,
                _ => continue,
            };
            side.originals.push_back(original);
            counter = new.to_le_bytes().to_vec();
        }
    }

    /// Fills the slots of an operation.
    fn prepare(&self, from: usize, n: u64, operation: &Operation) {
        let (own, peer) = (&self.ends[from], &self.ends[1 - from]);
        match operation.kind {
            Kind::Read => {
                peer.write(LIBRARY + n * SLOT, &operation.data);
                own.fill(RESULT + n * SLOT, SLOT);
            }
            Kind::FetchAdd(_) | Kind::CompareSwap { .. } => own.fill(RESULT + n * SLOT, SLOT),
            _ => {
                own.write(SOURCE + n * SLOT, &operation.data);
                peer.fill(TARGET + n * SLOT, SLOT);
            }
        }
    }

    /// Makes sure that `count` receives are posted beyond those that have completed.
    fn post_receives(&mut self, to: usize, count: u64) {
        let end = &mut self.ends[to];
        while end.posted_receives() - self.received[to] < count.min(RECEIVES) {
            end.post_receive();
        }
    }

    /// Lets time pass until nothing moves any more, or it is `until`.
    #[track_caller]
    fn drive(&mut self, sides: &mut [Side; 2], until: Time) {
        for _ in 0..20_000 {
            self.link.settle();
            for (to, side) in sides.iter_mut().enumerate() {
                while let Some((send, entry)) = self.ends[to].poll() {
                    if send {
                        side.sends.push(entry);
                    } else {
                        self.received[to] += 1;
                        side.receives.push(entry);
                    }
                }
            }
            let over = self.link.in_flight() == 0 && sides.iter().all(Side::is_over);
            if over || self.link.now() >= until || !self.link.pass() {
                return;
            }
        }
        panic!("the batch does not end");
    }

    #[track_caller]
    fn check_sends(&mut self, from: usize, sides: &mut [Side; 2]) {
        let side = &mut sides[from];
        let mut entries = side.sends.iter();
        for (operation, block) in side.operations.iter().zip(&side.blocks) {
            if !operation.signaled {
                continue;
            }
            let entry = entries
                .next()
                .expect("a completion of each signaled request");
            assert_eq!(entry.status, 0, "{operation:?}");
            assert_eq!(entry.wqe_index, *block, "{operation:?}");
        }
        assert_eq!(entries.next().map(|entry| entry.status), None);
    }

    #[track_caller]
    fn check_receives(&mut self, to: usize, sides: &[Side; 2]) {
        let messages = sides[1 - to].operations.iter();
        let mut messages = messages.filter(|operation| operation.kind.takes_receive());
        self.sent_to[to] += needs(&sides[1 - to].operations);
        let mut last = None;
        for entry in &sides[to].receives {
            assert_eq!(entry.status, 0);
            if let Some(last) = last {
                assert_eq!(entry.wqe_index, last + 1u32, "receives complete in order");
            }
            last = Some(entry.wqe_index);
            if self.reliable() {
                let message = messages.next().expect("a message for each receive");
                assert!(self.arrived(to, entry, message), "{entry:?} {message:?}");
            } else {
                let all = &sides[1 - to].operations;
                assert!(
                    all.iter().any(|message| self.arrived(to, entry, message)),
                    "{entry:?} is of no message"
                );
            }
        }
        if self.reliable() {
            assert!(messages.next().is_none(), "a message was not received");
        }
    }

    /// Whether a completion and the memory of its receive are what the message makes of them.
    fn arrived(&self, to: usize, entry: &CompletionEntry, message: &Operation) -> bool {
        let datagram = self.service == QpType::Ud;
        let header = if datagram { ROUTE_HEADER } else { 0 };
        let (opcode, immediate, placed) = match message.kind {
            Kind::Send { .. } if self.service == QpType::RawPacket => {
                (CompletionOpcode::ReceiveFrame, 0, true)
            }
            Kind::Send { immediate: None } => (CompletionOpcode::Receive, 0, true),
            Kind::Send {
                immediate: Some(data),
            } => (CompletionOpcode::ReceiveImmediate, data, true),
            Kind::Write {
                immediate: Some(data),
            } => (CompletionOpcode::ReceiveWriteImmediate, data, false),
            _ => return false,
        };
        let solicited = entry.flags & CompletionFlags::SOLICITED.bits() != 0;
        if (entry.opcode, entry.immediate, solicited)
            != (opcode.raw(), immediate, message.solicited)
            || entry.byte_length as usize != message.data.len() + header
        {
            return false;
        }
        let slot = RECEIVE + u64::from(entry.wqe_index) % RECEIVES * SLOT;
        let bytes = self.ends[to].bytes(slot, SLOT);
        // An unreliable connection may have used the buffer for a message that was lost later on.
        let used = self.service == QpType::Uc;
        if !placed {
            return used || bytes.iter().all(|byte| *byte == PATTERN);
        }
        let (head, rest) = bytes.split_at(header);
        let (data, rest) = rest.split_at(message.data.len());
        let clean = used || rest.iter().all(|byte| *byte == PATTERN);
        let from = &self.ends[1 - to];
        let named = !datagram || entry.source_qpn == from.qp.number && head[20] == 0x45;
        data == message.data && clean && named
    }

    #[track_caller]
    fn check_memory(&self, from: usize, sides: &[Side; 2]) {
        let (own, peer) = (&self.ends[from], &self.ends[1 - from]);
        let mut originals = sides[from].originals.iter();
        for (n, operation) in (0u64..).zip(&sides[from].operations) {
            let original;
            let (end, area, expected): (_, _, &[u8]) = match operation.kind {
                Kind::Write { .. } | Kind::AtomicWrite => (peer, TARGET, &operation.data),
                Kind::Read => (own, RESULT, &operation.data),
                Kind::FetchAdd(_) | Kind::CompareSwap { .. } => {
                    original = originals.next().expect("one for each").to_le_bytes();
                    (own, RESULT, &original)
                }
                _ => continue,
            };
            let bytes = end.bytes(area + n * SLOT, SLOT);
            let (data, rest) = bytes.split_at(expected.len());
            assert!(rest.iter().all(|byte| *byte == PATTERN), "{operation:?}");
            if self.reliable() {
                assert!(data == expected, "{operation:?} has {data:x?}");
            } else {
                let possible = |(got, sent): (&u8, &u8)| got == sent || *got == PATTERN;
                assert!(data.iter().zip(expected).all(possible), "{operation:?}");
            }
        }
    }

    /// Looks at the state of everything at the end.
    #[track_caller]
    pub fn finish(&mut self) {
        for to in 0..2 {
            let bench = &mut self.link.nics[to];
            let end = &mut self.ends[to];
            for number in end.queue_pairs() {
                let now: QpAttributes = end.driver.query(bench, AdminOpcode::QueryQp, number);
                assert_eq!(now.state, QpState::Rts.raw());
            }
            let counter = end.bytes(COUNTER, 8);
            assert_eq!(counter, self.counters[to].to_le_bytes());
            let (got, sent) = (self.received[to], self.sent_to[to]);
            println!("end {to}: {got} of {sent} messages received");
            if self.reliable() {
                assert_eq!(got, sent);
            } else {
                assert!(got > sent * 3 / 4 && got < sent * 5 / 4, "{got} of {sent}");
            }
        }
    }
}

/// Receives that operations take.
fn needs(operations: &[Operation]) -> u64 {
    let takes = |operation: &&Operation| operation.kind.takes_receive();
    operations.iter().filter(takes).count() as u64
}

impl Side {
    fn new(operations: Vec<Operation>) -> Self {
        Self {
            operations,
            originals: VecDeque::new(),
            blocks: Vec::new(),
            sends: Vec::new(),
            receives: Vec::new(),
        }
    }

    /// Whether all signaled requests have completed.
    fn is_over(&self) -> bool {
        let signaled = self.operations.iter().filter(|o| o.signaled).count();
        self.sends.len() >= signaled
    }
}
