//! A function: all its state, in one value that is plain data.
//!
//! [`crate::nic`] calls it with what it does not own: guest memory, the port, the time. After each
//! call of a queue pair, `after_call` brings scheduling and timers up to date and deals
//! with what the call left behind.

use alloc::collections::{BinaryHeap, VecDeque};
use alloc::vec::Vec;
use core::cmp::Reverse;

use vrnic_abi::counter::Counter;
use vrnic_abi::doorbell::{GROUPS, SLOTS_PER_GROUP};
use vrnic_abi::eqe::EventType;
use vrnic_abi::registers::DeviceState;

use super::admin::{AdminQueue, Administration, PendingCreate};
use super::completion::CompletionQueue;
use super::env::{Incoming, NoPort, Origin, Port, QpEnv};
use super::frame::ReceivedFrame;
use super::objects::Objects;
use super::queue_pairs::{GSI, QueuePair, QueuePairs};
use super::registers::{Action, Fault, Registers};
use super::remains::Remains;
use super::ring::Rung;
use crate::host::{Host, TraceEvent};
use crate::pdu::Pdu;
use crate::resource::{GROUPS_A_STEP, Owner, Quota, Resource, limits};
use crate::transport::{Modify, Poll, Qp};
use crate::types::{Mac, State, Time};

/// Longest time between two heartbeats while an answer is awaited, in nanoseconds.
const HEARTBEAT: u64 = 1_000_000_000;
/// Queue pairs that are looked at in one step for failed completion queues of theirs.
const SWEEP_A_STEP: u32 = 64;
/// Entries of queue pairs that are gone which are taken off a list in one turn.
const STALE_A_TURN: u32 = 16;

/// What identifies a function on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// 0 is the physical function, n its nth virtual function.
    pub number: u16,
    /// Ethernet address.
    pub mac: Mac,
    /// Largest Ethernet payload after a reset.
    pub mtu: u32,
}

/// What a timer belongs to, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TimerOf {
    /// A queue pair: its acknowledgement or its peer's receive requests are late.
    QueuePair(u32),
    /// A completion queue: its event is put off until then.
    CompletionQueue(u32),
}

/// A function.
#[derive(Clone, Debug)]
pub struct Function {
    /// Who it is.
    pub identity: Identity,
    /// What it may have.
    quota: Quota,
    /// Registers.
    pub registers: Registers,
    /// Largest Ethernet payload in bytes.
    pub mtu: u32,
    /// Everything but queue pairs.
    pub objects: Objects,
    /// Queue pairs.
    pub qps: QueuePairs,
    /// The admin queue, in state READY.
    pub(super) admin: Option<AdminQueue>,
    /// Commands that wait for their page lists.
    pub(super) creating: VecDeque<PendingCreate>,
    /// The command about a virtual function that the NIC has yet to carry out.
    pub(super) administration: Option<Administration>,
    /// Queue pairs that have something to do.
    ready: VecDeque<u32>,
    /// Queue pairs that are to fail because a completion queue of theirs has.
    doomed: VecDeque<u32>,
    /// The slot up to which queue pairs were looked at since a completion queue has failed.
    sweep: Option<u32>,
    /// Queue pairs for which the port had no room.
    blocked: VecDeque<u32>,
    timers: BinaryHeap<Reverse<(Time, TimerOf)>>,
    last_beat: Time,
    /// What is gone and not freed yet.
    pub(super) remains: Remains,
}

impl Function {
    /// A function after power-on.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let registers = Registers::new(identity.number, 0);
        Self::with(identity, registers, Quota::default())
    }

    fn with(identity: Identity, registers: Registers, quota: Quota) -> Self {
        let mut function = Self {
            identity,
            quota,
            registers,
            mtu: identity.mtu,
            objects: Objects::default(),
            qps: QueuePairs::default(),
            admin: None,
            creating: VecDeque::new(),
            administration: None,
            ready: VecDeque::new(),
            doomed: VecDeque::new(),
            sweep: None,
            blocked: VecDeque::new(),
            timers: BinaryHeap::new(),
            last_beat: Time::default(),
            remains: Remains::default(),
        };
        function.set_quota(quota);
        function
    }

    /// What it may have.
    #[must_use]
    pub const fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Changes what it may have, from the next command on. What it has stays.
    pub fn set_quota(&mut self, quota: Quota) {
        self.quota = quota;
        self.objects.set_quota(&quota, self.qps.len());
        self.qps.set_limit(quota.queue_pairs);
    }

    /// How much of a resource it has. This counts at most 64 event queues.
    #[must_use]
    pub fn in_use(&self, resource: Resource) -> u32 {
        let objects = &self.objects;
        match resource {
            Resource::QueuePairs => self.qps.table().len(),
            Resource::CompletionQueues => objects.cqs.len(),
            Resource::SharedReceiveQueues => objects.srqs.len(),
            Resource::EventQueues => objects.eqs.len(),
            Resource::ProtectionDomains => objects.pds.len(),
            Resource::XrcDomains => objects.xrcds.len(),
            Resource::Regions => objects.keys.regions(),
            Resource::Windows => objects.keys.windows(),
            Resource::AddressHandles => objects.handles.len(),
            Resource::Pages => objects.page_entries,
            Resource::DoorbellPages => u32::try_from(objects.doorbells.in_use().len()).unwrap_or(0),
            Resource::Vectors => self.vectors_in_use(),
        }
    }

    /// How many vectors the admin queue and the event queues raise.
    fn vectors_in_use(&self) -> u32 {
        let admin = self.admin.as_ref().and_then(AdminQueue::vector);
        let queues = self.objects.eqs.iter().map(|(_, eq)| eq.vector);
        let bits = queues.chain(admin).fold(0u64, |bits, vector| {
            bits | 1u64.checked_shl(vector.into()).unwrap_or(0)
        });
        bits.count_ones()
    }

    /// Whether commands and queues are processed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.registers.state() == DeviceState::Ready
    }

    /// Longest Ethernet frame that raw packet queues receive: the payload, the header, and two VLAN
    /// tags, as a neighbour that has the same MTU may send a tagged frame and have a tag inserted.
    #[must_use]
    pub fn longest_frame(&self) -> usize {
        const HEADERS: u32 = 14 + 2 * 4;
        self.mtu.saturating_add(HEADERS) as usize
    }

    /// Whether something can be done now that is no queue pair's turn.
    #[must_use]
    pub fn has_chores(&self) -> bool {
        !self.remains.is_empty()
            || self.is_ready()
                && (!self.doomed.is_empty()
                    || self.sweep.is_some()
                    || !self.creating.is_empty()
                    || self.admin.as_ref().is_some_and(AdminQueue::has_command))
    }

    /// Whether a queue pair waits for its turn.
    #[must_use]
    pub fn has_senders(&self) -> bool {
        self.is_ready() && !self.ready.is_empty()
    }

    /// Whether a queue pair waits for room in the port.
    #[must_use]
    pub fn has_blocked(&self) -> bool {
        self.is_ready() && !self.blocked.is_empty()
    }

    /// Whether an event waits for room in its queue.
    #[must_use]
    pub fn holds_events(&self) -> bool {
        self.is_ready() && self.objects.events_held
    }

    /// Resets everything: all objects are gone.
    pub fn reset<H: Host>(&mut self, host: &H) {
        host.clear_all_doorbells();
        let new = Self::with(self.identity, self.registers.after_reset(), self.quota);
        let old = core::mem::replace(self, new);
        self.remains.add_life(old);
        self.registers.publish(host);
    }

    /// Frees a little of what is gone; returns whether there was anything.
    pub fn free_remains(&mut self) -> bool {
        self.remains.step()
    }

    /// Takes a register write; returns true if the function is to be reset.
    #[must_use]
    pub fn write_register<H: Host>(
        &mut self,
        host: &H,
        now: Time,
        offset: u32,
        value: u32,
    ) -> bool {
        host.trace(&TraceEvent::RegisterWrite { offset, value });
        let action = self.registers.write(offset, value);
        match action {
            Action::None => {}
            Action::Reset => return true,
            Action::Enable => self.enable(host, now),
            Action::Commands(announced) => {
                let result = self.admin.as_mut().map(|admin| admin.announce(announced));
                if let Some(Err(fault)) = result {
                    self.fail(host, now, fault);
                }
            }
            Action::Consumed(consumed) => {
                if let Some(admin) = &mut self.admin {
                    admin.consume(host, consumed);
                }
            }
        }
        false
    }

    fn enable<H: Host>(&mut self, host: &H, now: Time) {
        match self.registers.admin_shape(&self.quota) {
            Ok((entries, vector)) => {
                let Registers {
                    submission,
                    completion,
                    ..
                } = self.registers;
                self.admin = Some(AdminQueue::new(submission, completion, entries, vector));
                self.registers.enter_ready(host);
            }
            Err(fault) => self.fail(host, now, fault),
        }
    }

    /// Enters the state ERROR. Nothing is processed from now on; the driver is told as far as that
    /// is possible.
    pub fn fail<H: Host>(&mut self, host: &H, now: Time, fault: Fault) {
        if self.registers.state() == DeviceState::Error {
            return;
        }
        self.registers.enter_error(host, fault);
        self.objects
            .asynchronous(host, now, EventType::DeviceFatal, 0);
        if let Some(admin) = self.admin.take() {
            admin.interrupt(host);
        }
        let eq = self.objects.async_eq.and_then(|n| self.objects.eqs.get(n));
        if let Some(eq) = eq {
            host.raise(eq.vector);
        }
        self.ready.clear();
        self.doomed.clear();
        self.sweep = None;
        self.blocked.clear();
        self.timers.clear();
        for mut pending in self.creating.drain(..) {
            self.remains.add_segments(pending.clear());
        }
        self.administration = None;
    }

    /// Shows the driver, now and then, that the function is served.
    pub fn beat<H: Host>(&mut self, host: &H, now: Time) {
        if now.0.saturating_sub(self.last_beat.0) >= HEARTBEAT / 10 {
            self.last_beat = now;
            self.registers.beat(host);
        }
    }

    /// Looks at all doorbell pages, as far as a step goes; returns whether anything was rung.
    pub fn poll_doorbells<H: Host>(&mut self, host: &H, now: Time) -> bool {
        let mut rung = false;
        let mut left = GROUPS_A_STEP;
        let mut at = 0;
        while let Some(page) = self.objects.doorbells.in_turn(at) {
            let marks = host.take_marks(page);
            if marks != 0 || self.objects.doorbells.keeps_marks(page) {
                rung = true;
                let marks = self.objects.doorbells.share(page, marks, left);
                left -= marks.count_ones();
                self.ring_groups(host, now, page, marks);
                if left == 0 {
                    // What later pages are marked with stays in them.
                    self.objects.doorbells.begin_after(at);
                    break;
                }
            }
            at += 1;
        }
        rung
    }

    /// Takes marks and keeps them for [`Self::poll_doorbells`]; returns whether there are any.
    pub fn peek_doorbells<H: Host>(&mut self, host: &H) -> bool {
        let mut found = false;
        let mut at = 0;
        while let Some(page) = self.objects.doorbells.in_use().get(at).copied() {
            let marks = host.take_marks(page);
            if marks != 0 {
                self.objects.doorbells.keep_marks(page, marks);
            }
            found |= self.objects.doorbells.keeps_marks(page);
            at += 1;
        }
        found
    }

    /// Publishes in all doorbell pages whether the engine sleeps.
    pub fn set_asleep<H: Host>(&self, host: &H, asleep: bool) {
        for page in self.objects.doorbells.in_use() {
            host.set_asleep(*page, asleep);
        }
    }

    fn ring_groups<H: Host>(&mut self, host: &H, now: Time, page: u32, marks: u64) {
        // Bit 0 is the summary's own, which no driver marks.
        let mut marks = marks & !1;
        while marks != 0 {
            let group = marks.trailing_zeros();
            marks &= marks - 1;
            if group >= GROUPS {
                continue;
            }
            let first = group * SLOTS_PER_GROUP;
            for slot in first..first + SLOTS_PER_GROUP {
                if let Some(owner) = self.objects.doorbells.owner(page, slot) {
                    self.ring_slot(host, now, (page, slot), owner);
                }
            }
        }
    }

    fn ring_slot<H: Host>(&mut self, host: &H, now: Time, at: (u32, u32), owner: Owner) {
        // A doorbell before this one may have failed the function.
        if !self.is_ready() {
            return;
        }
        let (page, slot) = at;
        let value = host.doorbell(page, slot);
        match owner {
            Owner::Send(qpn) => self.ring_send(host, now, qpn, value),
            Owner::Receive(qpn) => {
                // Looked at when a message arrives; after a failure, there will be none.
                if let Some(qp) = self.qps.get_mut(qpn) {
                    if qp.transport.state() == State::Error {
                        qp.transport.post_notify();
                        self.schedule(qpn);
                    }
                }
            }
            // Looked at when a message arrives.
            Owner::SharedReceive(_) => {}
            Owner::Completion(cqn) => self.objects.ring_cq(host, now, cqn, value),
            Owner::Event(eqn) => self.objects.ring_eq(host, eqn, value),
        }
        self.check_failures(host, now);
    }

    fn ring_send<H: Host>(&mut self, host: &H, now: Time, qpn: u32, value: u64) {
        let Some(qp) = self.qps.get_mut(qpn) else {
            return;
        };
        let Some(send) = &mut qp.queues.send else {
            return;
        };
        match send.ring(value, qpn) {
            Rung::Nothing => {}
            Rung::Work => {
                let (page, slot) = send.doorbell;
                host.trace(&TraceEvent::Doorbell { page, slot, value });
                qp.transport.post_notify();
                self.schedule(qpn);
            }
            Rung::Bad => self.objects.count(Counter::BadDoorbell, 1),
            Rung::Overrun => {
                self.objects.count(Counter::BadDoorbell, 1);
                if qp.transport.state() != State::Error {
                    self.fail_qp(host, now, qpn);
                    self.objects
                        .asynchronous(host, now, EventType::QpFatal, qpn);
                }
            }
        }
    }

    /// Notes that a queue pair has something to do.
    pub fn schedule(&mut self, qpn: u32) {
        if let Some(qp) = self.qps.get_mut(qpn) {
            if !core::mem::replace(&mut qp.scheduled, true) {
                self.ready.push_back(qpn);
            }
        }
    }

    /// A queue pair has been removed that may stand in lists. What it leaves there is passed over,
    /// and, before it becomes more than half of a list, taken out: that costs nothing on average.
    pub(super) fn unlist(&mut self, qp: &QueuePair) {
        let most = 2 * self.qps.len() as usize + 64;
        let qps = &self.qps;
        for waiting in [&mut self.ready, &mut self.blocked] {
            if qp.scheduled && waiting.len() > most {
                let stays = |qpn: &u32| qps.get(*qpn).is_some_and(|qp| qp.scheduled);
                waiting.retain(stays);
            }
        }
        if qp.doomed && self.doomed.len() > most {
            let stays = |qpn: &u32| qps.get(*qpn).is_some_and(|qp| qp.doomed);
            self.doomed.retain(stays);
        }
    }

    /// The queue pair that has waited longest for its turn or, with `again`, for room in the port.
    fn next_waiting(&mut self, again: bool) -> Option<u32> {
        let waiting = if again {
            &mut self.blocked
        } else {
            &mut self.ready
        };
        for _ in 0..STALE_A_TURN {
            let qpn = waiting.pop_front()?;
            if self.qps.get(qpn).is_some_and(|qp| qp.scheduled) {
                return Some(qpn);
            }
        }
        None
    }

    /// Polls the queue pair that has waited longest for its turn or, with `again`, for room in the
    /// port; `None` if there is none to be seen, or the function failed. One that had to wait for room
    /// goes on doing so while it has more to send.
    pub fn poll_next<H: Host, P: Port<H::Memory>>(
        &mut self,
        host: &H,
        now: Time,
        port: &mut P,
        budget: u32,
        again: bool,
    ) -> Option<Poll> {
        if !self.is_ready() {
            return None;
        }
        let qpn = self.next_waiting(again)?;
        let mut outcome = Poll::Idle;
        self.call(host, now, qpn, port, Incoming::none(), |qp, env| {
            outcome = qp.poll(env, budget);
        });
        let Some(qp) = self.qps.get_mut(qpn) else {
            return Some(Poll::Idle);
        };
        match outcome {
            Poll::Idle => qp.scheduled = false,
            Poll::Blocked if port.lacks_room() => self.blocked.push_back(qpn),
            Poll::More if again => self.blocked.push_back(qpn),
            Poll::More | Poll::Blocked => self.ready.push_back(qpn),
        }
        if outcome == Poll::Idle {
            self.after_call(host, now, qpn);
        } else {
            self.update_timer(qpn);
            self.check_failures(host, now);
        }
        Some(outcome)
    }

    /// Hands a PDU to its queue pair.
    pub fn receive<H: Host, P: Port<H::Memory>>(
        &mut self,
        host: &H,
        now: Time,
        port: &mut P,
        pdu: &Pdu,
        incoming: Incoming<'_, H::Memory>,
    ) {
        let qpn = pdu.destination.get();
        host.trace(&TraceEvent::PacketReceived(pdu));
        self.call(host, now, qpn, port, incoming, |qp, env| {
            qp.receive(env, pdu);
        });
        self.after_call(host, now, qpn);
    }

    /// Tells a queue pair that the payload of a PDU that it sent could not be read.
    pub fn unreadable<H: Host>(&mut self, host: &H, now: Time, qpn: u32, pdu: &Pdu) {
        // It may have failed since it sent the PDU, and writes nothing any more then.
        if !self.is_ready() {
            return;
        }
        let incoming = Incoming::none();
        self.call(host, now, qpn, &mut NoPort, incoming, |qp, env| {
            qp.unreadable(env, pdu);
        });
        self.after_call(host, now, qpn);
    }

    /// Hands an Ethernet frame to a raw packet queue pair.
    pub fn receive_frame<H: Host, P: Port<H::Memory>>(
        &mut self,
        host: &H,
        now: Time,
        port: &mut P,
        qpn: u32,
        frame: &ReceivedFrame<'_>,
    ) {
        let Some(qp) = self.qps.get(qpn) else {
            return;
        };
        let bytes = frame.bytes();
        host.trace(&TraceEvent::FrameReceived { qpn, frame: bytes });
        let copy = frame.copy(qp.queues.strip_vlan);
        let incoming = Incoming {
            payload: copy.payload(),
            origin: Origin::Frame(&copy),
        };
        self.call(host, now, qpn, port, incoming, |qp, env| {
            qp.receive_frame(env, copy.length());
        });
        self.after_call(host, now, qpn);
    }

    /// Handles up to `budget` expired timers; returns whether there were any.
    pub fn expire<H: Host>(&mut self, host: &H, now: Time, budget: u32) -> bool {
        let mut any = false;
        for _ in 0..budget {
            match self.timers.peek() {
                Some(Reverse((time, _))) if *time <= now => {}
                _ => break,
            }
            let Some(Reverse((time, of))) = self.timers.pop() else {
                break;
            };
            any |= match of {
                TimerOf::QueuePair(qpn) => self.expire_qp(host, now, qpn, time),
                TimerOf::CompletionQueue(cqn) => self.expire_cq(host, now, cqn, time),
            };
        }
        any
    }

    /// The timer of a queue pair that was set to `time` has expired; returns whether it was one.
    fn expire_qp<H: Host>(&mut self, host: &H, now: Time, qpn: u32, time: Time) -> bool {
        let Some(qp) = self.qps.get_mut(qpn) else {
            return false;
        };
        if qp.timer != Some(time) {
            return false;
        }
        qp.timer = None;
        let due = qp.transport.deadline().is_some_and(|at| at <= now);
        if due {
            let incoming = Incoming::none();
            self.call(host, now, qpn, &mut NoPort, incoming, |qp, env| {
                qp.expire(env);
            });
        }
        self.after_call(host, now, qpn);
        due
    }

    /// The same for a completion queue.
    fn expire_cq<H: Host>(&mut self, host: &H, now: Time, cqn: u32, time: Time) -> bool {
        let Some(cq) = self.objects.cqs.get_mut(cqn) else {
            return false;
        };
        if cq.timer != Some(time) {
            return false;
        }
        cq.timer = None;
        let due = cq.notifier().deadline().is_some_and(|at| at <= now);
        self.objects.expire_cq(host, now, cqn);
        self.update_cq_timer(cqn);
        self.check_failures(host, now);
        due
    }

    /// When [`Self::expire`] has something to do, or a heartbeat is due because something waits for
    /// its answer.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        let beat = Time(self.last_beat.0.saturating_add(HEARTBEAT));
        let next = self.timers.peek();
        next.map(|Reverse((time, _))| beat.min(*time))
    }

    /// Moves a queue pair to the error state.
    pub fn fail_qp<H: Host>(&mut self, host: &H, now: Time, qpn: u32) {
        let incoming = Incoming::none();
        self.call(host, now, qpn, &mut NoPort, incoming, |qp, env| {
            // Every state has this transition.
            let _ = qp.modify(env, &Modify::to(State::Error));
        });
        self.after_call(host, now, qpn);
    }

    /// Calls a queue pair with its surroundings.
    pub(super) fn call<H: Host, P: Port<H::Memory>>(
        &mut self,
        host: &H,
        now: Time,
        qpn: u32,
        port: &mut P,
        incoming: Incoming<'_, H::Memory>,
        f: impl FnOnce(&mut Qp, &mut QpEnv<'_, H, P>),
    ) {
        let send_limit = limits::send_blocks(self.qps.len());
        let Some(qp) = self.qps.get_mut(qpn) else {
            return;
        };
        let from = qp.transport.state();
        port.set_sender(qpn);
        let mut env = QpEnv {
            pd: qp.queues.pd,
            now,
            host,
            objects: &mut self.objects,
            queues: &mut qp.queues,
            port,
            incoming,
            send_limit,
            mtu: self.mtu,
        };
        f(&mut qp.transport, &mut env);
        let to = qp.transport.state();
        if from != to {
            host.trace(&TraceEvent::StateChange { qpn, from, to });
        }
        if core::mem::take(&mut self.objects.dropped) {
            self.doom(qpn);
        }
    }

    /// Brings scheduling and timers up to date after a queue pair was called, and deals with what
    /// failed on the way.
    pub(super) fn after_call<H: Host>(&mut self, host: &H, now: Time, qpn: u32) {
        if self.qps.get(qpn).is_some_and(|qp| qp.transport.has_work()) {
            self.schedule(qpn);
        }
        self.update_timer(qpn);
        self.check_failures(host, now);
    }

    /// Deals with what was noted in [`Objects`] on the way.
    pub(super) fn check_failures<H: Host>(&mut self, host: &H, now: Time) {
        while let Some(cqn) = self.objects.moderated_cqs.pop() {
            self.update_cq_timer(cqn);
        }
        if core::mem::take(&mut self.objects.cq_failed) {
            self.sweep = Some(0);
        }
        if self.objects.fault.is_some() {
            self.check_fault(host, now);
        }
    }

    fn update_timer(&mut self, qpn: u32) {
        let Some(qp) = self.qps.get_mut(qpn) else {
            return;
        };
        let Some(deadline) = qp.transport.deadline() else {
            return;
        };
        if qp.timer.is_some_and(|at| at <= deadline) {
            return;
        }
        qp.timer = Some(deadline);
        self.push_timer(deadline, TimerOf::QueuePair(qpn));
    }

    fn update_cq_timer(&mut self, cqn: u32) {
        let Some(cq) = self.objects.cqs.get_mut(cqn) else {
            return;
        };
        if let Some(deadline) = cq.notifier().deadline().filter(|_| cq.needs_timer()) {
            cq.timer = Some(deadline);
            self.push_timer(deadline, TimerOf::CompletionQueue(cqn));
        }
    }

    fn push_timer(&mut self, time: Time, of: TimerOf) {
        self.timers.push(Reverse((time, of)));
        let owners = self.qps.len() + self.objects.cqs.len();
        if self.timers.len() > 2 * (owners as usize) + 64 {
            self.drop_stale_timers();
        }
    }

    /// A timer that moves to an earlier time leaves its entry behind. At most one entry for each
    /// queue survives, so that this costs nothing on average.
    fn drop_stale_timers(&mut self) {
        let (qps, cqs) = (&self.qps, &self.objects.cqs);
        self.timers.retain(|Reverse((time, of))| {
            let current = match of {
                TimerOf::QueuePair(qpn) => qps.get(*qpn).and_then(|qp| qp.timer),
                TimerOf::CompletionQueue(cqn) => cqs.get(*cqn).and_then(|cq| cq.timer),
            };
            current == Some(*time)
        });
    }

    fn doom(&mut self, qpn: u32) {
        if let Some(qp) = self.qps.get_mut(qpn) {
            let failed = matches!(qp.transport.state(), State::Error | State::Reset);
            if !failed && !core::mem::replace(&mut qp.doomed, true) {
                self.doomed.push_back(qpn);
            }
        }
    }

    /// Queue pairs that complete into a failed queue fail too (IBTA volume 1, 10.8.6), in turn: there
    /// can be many, each with much to flush, which makes further queues fail. Those that have
    /// something to complete find out by themselves, the others are looked for among all. Returns
    /// whether there was anything to do.
    pub fn fail_doomed<H: Host>(&mut self, host: &H, now: Time) -> bool {
        let any = self.sweep.is_some() || !self.doomed.is_empty();
        self.sweep_failed_cqs();
        for _ in 0..STALE_A_TURN {
            let Some(qpn) = self.doomed.pop_front() else {
                break;
            };
            let Some(qp) = self.qps.get_mut(qpn).filter(|qp| qp.doomed) else {
                continue;
            };
            qp.doomed = false;
            // It may have been reset since.
            if !matches!(qp.transport.state(), State::Error | State::Reset) {
                self.fail_qp(host, now, qpn);
                break;
            }
        }
        any
    }

    /// Looks at some queue pairs whether a completion queue of theirs has failed.
    fn sweep_failed_cqs(&mut self) {
        let Some(start) = self.sweep else {
            return;
        };
        let end = start.saturating_add(SWEEP_A_STEP);
        let table = self.qps.table();
        self.sweep = (end < table.slots()).then_some(end);
        let has_failed = |cqn| {
            let cq = self.objects.cqs.get(cqn);
            cq.is_some_and(CompletionQueue::has_failed)
        };
        let gsi = self.qps.get(GSI).filter(|_| start == 0);
        let looked_at = gsi.map(|qp| (GSI, qp)).into_iter();
        let found: Vec<u32> = looked_at
            .chain(table.part(start..end))
            .filter(|(_, qp)| has_failed(qp.queues.send_cq) || has_failed(qp.queues.receive_cq))
            .map(|(qpn, _)| qpn)
            .collect();
        for qpn in found {
            self.doom(qpn);
        }
    }

    fn check_fault<H: Host>(&mut self, host: &H, now: Time) {
        if let Some(fault) = self.objects.fault.take() {
            self.fail(host, now, fault);
        }
    }

    /// Writes held events for which there is room by now.
    pub fn release_events<H: Host>(&mut self, host: &H, now: Time) {
        if self.is_ready() {
            self.objects.release_events(host);
            self.check_fault(host, now);
        }
    }

    /// Adds to a counter.
    #[inline]
    pub fn count(&mut self, counter: Counter, n: u64) {
        self.objects.count(counter, n);
    }

    /// Reports an asynchronous event.
    pub fn report<H: Host>(&mut self, host: &H, now: Time, event: EventType, object: u32) {
        self.objects.asynchronous(host, now, event, object);
        self.check_fault(host, now);
    }
}
