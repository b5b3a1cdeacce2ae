//! A NIC: the functions that one engine serves, and the port that they share.
//!
//! The engine hands in received frames ([`Nic::receive`]), register writes and resets as they
//! come, and calls [`Nic::step`] again and again while that reports [`Progress::Busy`]. When it
//! wants to sleep, it asks [`Nic::prepare_sleep`]; it sleeps until [`Nic::next_timeout`], a kick, a
//! frame or a message, and then calls [`Nic::wake`]. Every call does a bounded amount of work.
//!
//! Queue pairs that have something to do wait in a list of their function. Functions take turns
//! (`turns`), each of which lets one queue pair send a few PDUs, so that everybody's part of the
//! engine's time is that of its weight. Room on the link is shared in the same way as soon as somebody
//! has to wait for it. PDUs between two functions of the NIC take the direct path: they are handled
//! right after the turn that sent them, and their payload is copied once, from the sender's memory to
//! its destination. Frames of raw packet queues and packets to multicast groups go where the embedded
//! switch says (`switch`, `egress`, `ingress`). What a function may send, see and be called is its
//! [`Policy`]'s to say (`rules`); the driver of a physical function can change that of its virtual
//! ones (`administration`).
//!
//! What happens to one function's rings, memory or state never stops another function.

mod address;
mod administration;
mod admission;
mod egress;
mod enabling;
mod grain;
mod group;
mod ingress;
mod inspect;
mod local;
mod looped;
mod meter;
mod policy;
mod port;
mod ports;
mod quota;
mod review;
mod route;
mod rules;
mod scheduling;
mod shares;
mod stations;
mod switch;
mod turns;

use alloc::vec::Vec;

use vrnic_abi::counter::Counter;

use crate::frontend::env::{Arrived, Incoming, Origin};
use crate::frontend::{Context, Function, Identity, Remains};
use crate::host::{Host, Wire};
use crate::transport::{Kind, Path};
use crate::types::{Gid, Mac, Qpn, Time};
use crate::wire::{self, Received};

pub use address::{Addresses, Breach, Claim, Unusable};
pub use administration::{VfChange, VfRefusal, VfState, VfTraffic};
pub use group::Groups;
use local::LocalPdu;
use looped::Sender;
pub use policy::{
    DEFAULT_WEIGHT, LAST_VLAN, LinkMode, Policy, PolicyError, SpoofChecks, UNTRUSTED_ADDRESSES,
    UplinkPolicy, VlanMode, VlanSet, Vlans,
};
use port::{FunctionPort, Shared, Tally};
use ports::Sight;
use shares::Shares;
pub use stations::{
    AGEING, FIXED, LEARNED, LEARNED_OF_FUNCTION, PortName, Station, StationRefused,
};
use switch::Receivers;
pub use switch::{Sorting, Switch};

/// Timers of a function that are handled in one step.
const TIMERS: u32 = 16;
/// PDUs between functions that are handled at once: more than can be queued.
const LOCAL_PDUS: u32 = 1024;
/// How soon to look again, in nanoseconds, for what announces itself only by being there: room in
/// the port.
const ROOM_AFTER: u64 = 100_000;
/// The same for room in an event queue whose driver neither arms it nor frees it with a mark.
const EVENTS_AFTER: u64 = 10_000_000;

/// Properties of a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NicConfig {
    /// PDUs between functions of the NIC move without frames. Off, they become frames that are
    /// handed to [`Wire::looped`], so that they can be captured.
    pub direct: bool,
    /// The port has a link at the start.
    pub link_up: bool,
    /// Speed that the port reports, in Mbit/s.
    pub speed: u32,
}

impl Default for NicConfig {
    fn default() -> Self {
        Self {
            direct: true,
            link_up: true,
            speed: 100_000,
        }
    }
}

/// Properties of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionConfig {
    /// 0 is the physical function, n its nth virtual function.
    pub number: u16,
    /// Ethernet address, a unicast one.
    pub mac: Mac,
    /// Largest Ethernet payload in bytes, 576 to 9000, until the driver changes it.
    pub mtu: u32,
}

/// Names a function of a NIC for as long as that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionId(u16);

/// Whether a step found something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It did; there may be more.
    Busy,
    /// There was nothing.
    Idle,
}

/// Frames that nobody received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortDrops {
    /// Frames that are not RoCEv2 and that no filter wants.
    pub not_roce: u64,
    /// RoCEv2 packets to addresses that no function has and that no filter wants.
    pub not_ours: u64,
    /// Malformed ones that could not be assigned to a function.
    pub malformed: u64,
}

/// A NIC.
#[derive(Debug)]
pub struct Nic<H> {
    speed: u32,
    hosts: Vec<Option<H>>,
    /// In the same order as `hosts`, and apart so that two hosts can be read while a function
    /// changes.
    functions: Vec<Option<Function>>,
    shared: Shared,
    /// What each function may use of the port and of the engine.
    shares: Shares,
    drops: PortDrops,
    /// What is left of functions that were removed, to be freed bit by bit.
    remains: Remains,
    /// Scratch: who a frame goes to.
    receivers: Receivers,
    now: Time,
}

impl<H: Host> Nic<H> {
    /// A NIC without functions.
    #[must_use]
    pub fn new(config: NicConfig) -> Self {
        Self {
            speed: config.speed,
            hosts: Vec::new(),
            functions: Vec::new(),
            shared: Shared {
                direct: config.direct,
                link_up: config.link_up,
                ..Shared::default()
            },
            shares: Shares::default(),
            drops: PortDrops::default(),
            remains: Remains::default(),
            receivers: Receivers::default(),
            now: Time::default(),
        }
    }

    /// Adds a function and publishes its registers; `None` if the NIC has 65536.
    pub fn add_function(&mut self, host: H, config: FunctionConfig) -> Option<FunctionId> {
        let vacant = self.hosts.iter().position(Option::is_none);
        let index = vacant.unwrap_or(self.hosts.len());
        let id = FunctionId(u16::try_from(index).ok()?);
        self.add_function_as(id, host, config).ok().map(|()| id)
    }

    /// Adds a function whose name was chosen before, and publishes its registers.
    ///
    /// # Errors
    /// If another one has that name; it stays, and the surroundings come back.
    pub fn add_function_as(
        &mut self,
        id: FunctionId,
        host: H,
        config: FunctionConfig,
    ) -> Result<(), H> {
        let index = usize::from(id.0);
        let end = self.hosts.len().max(index + 1);
        self.hosts.resize_with(end, || None);
        self.functions.resize_with(end, || None);
        let places = (self.hosts.get_mut(index), self.functions.get_mut(index));
        let (Some(room @ None), Some(place)) = places else {
            return Err(host);
        };
        let function = Function::new(Identity {
            number: config.number,
            mac: config.mac,
            mtu: config.mtu.clamp(576, 9000),
        });
        function.registers.publish(&host);
        function.set_asleep(&host, false);
        *room = Some(host);
        *place = Some(function);
        self.shared.addresses.switch.add_station(id.0, config.mac);
        self.shares.add(id.0);
        self.count_virtual_functions();
        // Its address is its own, whoever had it until now.
        self.review(None);
        Ok(())
    }

    /// Removes a function and returns its surroundings. Nothing of it is in flight afterwards, and
    /// nothing is left of its addresses, stations and rules; a function that is added later may get
    /// its name.
    pub fn remove_function(&mut self, id: FunctionId) -> Option<H> {
        self.forget(id.0);
        self.shared.looped.purge(id.0);
        self.shared.addresses.switch.remove_station(id.0);
        let function = self.functions.get_mut(usize::from(id.0))?.take();
        function.into_iter().for_each(|f| self.remains.add_life(f));
        // Its lists keep nobody off any more.
        self.review(None);
        self.count_virtual_functions();
        self.hosts.get_mut(usize::from(id.0))?.take()
    }

    /// A function's surroundings.
    #[must_use]
    pub fn host(&self, id: FunctionId) -> Option<&H> {
        self.hosts.get(usize::from(id.0))?.as_ref()
    }

    /// A function's surroundings. Before its memory map changes, call [`Self::settle`].
    pub fn host_mut(&mut self, id: FunctionId) -> Option<&mut H> {
        self.hosts.get_mut(usize::from(id.0))?.as_mut()
    }

    /// A function's state.
    #[must_use]
    pub fn function(&self, id: FunctionId) -> Option<&Function> {
        self.functions.get(usize::from(id.0))?.as_ref()
    }

    /// Frames that were received for no function.
    #[must_use]
    pub const fn drops(&self) -> PortDrops {
        self.drops
    }

    /// Takes a register write of the guest.
    pub fn write_register(&mut self, now: Time, id: FunctionId, offset: u32, value: u32) {
        self.now = now;
        let index = usize::from(id.0);
        let host = self.hosts.get(index).and_then(Option::as_ref);
        let function = self.functions.get_mut(index).and_then(Option::as_mut);
        let (Some(host), Some(function)) = (host, function) else {
            return;
        };
        if function.write_register(host, now, offset, value) {
            self.reset(id);
        }
    }

    /// Resets a function, whatever it is doing: function level reset, reset by its client, client
    /// gone. When this returns, none of its PDUs is queued, all its doorbell pages are clear, and nothing
    /// accesses its memory. The NIC's own memory for its objects is freed in the steps that follow.
    pub fn reset(&mut self, id: FunctionId) {
        self.forget(id.0);
        let index = usize::from(id.0);
        let host = self.hosts.get(index).and_then(Option::as_ref);
        let function = self.functions.get_mut(index).and_then(Option::as_mut);
        if let (Some(host), Some(function)) = (host, function) {
            function.reset(host);
        }
        self.adopt_address(id);
    }

    fn forget(&mut self, function: u16) {
        self.shared.local.purge(function);
        let state = self.functions.get(usize::from(function));
        // The tables of addresses are those of all functions, and this one may be reset all the time.
        if !state.is_some_and(|state| state.as_ref().is_none_or(Function::is_blank)) {
            self.shared.addresses.remove_all(function);
        }
    }

    /// Takes a received frame.
    pub fn receive<W: Wire>(&mut self, now: Time, frame: &[u8], wire: &mut W) {
        self.shared.addresses.switch.stations.set_time(now);
        self.take(now, frame, None, wire);
    }

    /// Takes a frame, `from` a function of this NIC or from the link.
    fn take<W: Wire>(&mut self, now: Time, frame: &[u8], from: Option<Sender>, wire: &mut W) {
        self.now = now;
        let received = match wire::parse(frame) {
            Ok(received) => received,
            Err(reason) => {
                self.receive_other(now, frame, reason, from, wire);
                return;
            }
        };
        let to = self.shared.addresses.owner(
            received.vlan,
            received.destination,
            received.destination_mac,
        );
        if from.is_none() && self.is_forged_packet(to, &received) {
            return;
        }
        let Some(to) = to else {
            self.receive_stray(now, frame, &received, from, wire);
            return;
        };
        self.mirror(to, frame, wire);
        self.hand_over(now, to, &received, Some(frame.len()), wire);
    }

    /// Hands a packet to the queue pair of function `to` that it names, which counts `length` bytes
    /// unless it has done so before.
    #[inline]
    fn hand_over<W: Wire>(
        &mut self,
        now: Time,
        to: u16,
        received: &Received<'_>,
        length: Option<usize>,
        wire: &mut W,
    ) {
        let index = usize::from(to);
        let host = self.hosts.get(index).and_then(Option::as_ref);
        let function = self.functions.get_mut(index).and_then(Option::as_mut);
        let (Some(host), Some(function)) = (host, function) else {
            return;
        };
        let mut untagged;
        let received = match self.shared.addresses.switch.ports.sight(to) {
            Sight::Whole => received,
            Sight::Untagged => {
                untagged = *received;
                (untagged.vlan, untagged.priority) = (0, 0);
                &untagged
            }
            Sight::Nothing => {
                function.count(Counter::RxNotAllowed, 1);
                return;
            }
        };
        if let Some(length) = length {
            function.count(Counter::PortRcvPackets, 1);
            function.count(Counter::PortRcvData, length as u64 / 4);
        }
        let from = Ends {
            vlan: received.vlan,
            source: received.source,
            destination: received.destination,
            pkey: received.pkey,
        };
        if let Err(reason) = admit(function, received.pdu.destination, &from) {
            function.count(reason, 1);
            return;
        }
        let mut port = FunctionPort::new(&mut self.shared, wire, to);
        let incoming = Incoming {
            payload: Arrived::Bytes(received.payload),
            origin: Origin::Packet(received),
        };
        function.receive(host, now, &mut port, &received.pdu, incoming);
        let tally = port.tally;
        add(function, tally);
        if function.has_senders() {
            self.shares.want(to, now, false);
        }
    }

    /// Does what there is to do: doorbells, commands, timers, queue pairs that have work.
    pub fn step<W: Wire>(&mut self, now: Time, wire: &mut W) -> Progress {
        self.now = now;
        self.shared.addresses.switch.stations.set_time(now);
        let mut busy = self.drain(now, wire);
        busy |= self.remains.step();
        for index in 0..self.functions.len() {
            busy |= self.serve(index, now);
        }
        busy |= self.give_turns(now, wire);
        if busy { Progress::Busy } else { Progress::Idle }
    }

    /// Everything of a function but its queue pairs' turns.
    fn serve(&mut self, index: usize, now: Time) -> bool {
        let host = self.hosts.get(index).and_then(Option::as_ref);
        let function = self.functions.get_mut(index).and_then(Option::as_mut);
        let (Some(host), Some(function)) = (host, function) else {
            return false;
        };
        let mut busy = function.free_remains();
        if !function.is_ready() {
            return busy;
        }
        function.beat(host, now);
        busy |= function.poll_doorbells(host, now);
        function.release_events(host, now);
        let owner = u16::try_from(index).unwrap_or(u16::MAX);
        let link_up = self.shared.sees_link(owner);
        let mut context = Context {
            host,
            now,
            addresses: &mut self.shared.addresses,
            owner,
            link_up,
            speed: self.speed,
        };
        busy |= function.step_admin(&mut context);
        busy |= function.fail_doomed(host, now);
        busy |= function.expire(host, now, TIMERS);
        for (wants, room) in [
            (function.has_senders(), false),
            (function.has_blocked(), true),
        ] {
            if wants {
                self.shares.want(owner, now, room);
            }
        }
        self.administer(index, now);
        busy
    }

    /// Handles PDUs and frames between functions of the NIC; returns whether there were any.
    fn drain<W: Wire>(&mut self, now: Time, wire: &mut W) -> bool {
        let mut any = false;
        for _ in 0..LOCAL_PDUS {
            if let Some(local) = self.shared.local.pop() {
                self.deliver(now, &local, wire);
                self.shared.local.recycle(local);
            } else if let Some((from, frame)) = self.shared.looped.pop() {
                self.take(now, &frame, Some(from), wire);
                self.shared.looped.recycle(frame);
            } else {
                break;
            }
            any = true;
        }
        any
    }

    fn deliver<W: Wire>(&mut self, now: Time, local: &LocalPdu, wire: &mut W) {
        let (from, to) = (usize::from(local.from), usize::from(local.to));
        let sender = self.hosts.get(from).and_then(Option::as_ref);
        let host = self.hosts.get(to).and_then(Option::as_ref);
        let function = self.functions.get_mut(to).and_then(Option::as_mut);
        let (Some(sender), Some(host), Some(function)) = (sender, host, function) else {
            return;
        };
        if self.shared.addresses.switch.ports.sight(local.to) == Sight::Nothing {
            function.count(Counter::RxNotAllowed, local.pdu.packets.into());
            return;
        }
        let ends = Ends {
            vlan: local.path.vlan,
            source: local.path.source,
            destination: local.path.destination,
            pkey: local.path.pkey,
        };
        if let Err(reason) = admit(function, local.pdu.destination, &ends) {
            function.count(reason, local.pdu.packets.into());
            return;
        }
        let incoming = Incoming {
            payload: if local.chunks.is_empty() {
                Arrived::Bytes(&local.bytes)
            } else {
                Arrived::Memory(sender.memory(), &local.chunks)
            },
            origin: Origin::Direct(&local.path, &local.pdu),
        };
        let mut port = FunctionPort::new(&mut self.shared, wire, local.to);
        function.receive(host, now, &mut port, &local.pdu, incoming);
        let tally = port.tally;
        add(function, tally);
        if function.has_senders() {
            self.shares.want(local.to, now, false);
        }
        if core::mem::take(&mut function.objects.unreadable) {
            if let Some(function) = self.functions.get_mut(from).and_then(Option::as_mut) {
                function.unreadable(sender, now, local.sender, &local.pdu);
            }
        }
    }

    /// Handles all PDUs that are on their way between functions, so that memory maps may change.
    pub fn settle<W: Wire>(&mut self, now: Time, wire: &mut W) {
        while !self.shared.local.is_empty() {
            self.drain(now, wire);
        }
    }

    /// When [`Self::step`] has something to do at the latest, as things stand.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        if !self.remains.is_empty() {
            return Some(self.now);
        }
        let functions = self.functions.iter().enumerate();
        let functions = functions.filter_map(|(index, function)| Some((index, function.as_ref()?)));
        let ready = functions.filter(|(_, function)| function.is_ready());
        ready
            .filter_map(|(index, function)| {
                if self.has_work(index, function) {
                    return Some(self.now);
                }
                let after = |nanos| Time(self.now.0.saturating_add(nanos));
                let held = self.shares.held_until(index, self.now);
                let sends = match held {
                    Some(until) if function.has_senders() || function.has_blocked() => Some(until),
                    Some(_) => None,
                    None => function.has_blocked().then(|| after(ROOM_AFTER)),
                };
                let events = function.holds_events().then(|| after(EVENTS_AFTER));
                let all = [function.next_timeout(), sends, events];
                all.into_iter().flatten().min()
            })
            .min()
    }

    /// Whether something can be done now for a function.
    fn has_work(&self, index: usize, function: &Function) -> bool {
        function.has_chores()
            || function.has_senders() && self.shares.held_until(index, self.now).is_none()
    }

    /// Announces in all doorbell pages that the engine is going to sleep, and looks at all of them
    /// once more. If this returns true the engine may sleep: from here on every store that needs it
    /// is followed by a kick. If not, there is work, and the pages say that the engine is awake.
    pub fn prepare_sleep(&mut self) -> bool {
        let in_flight = !self.shared.local.is_empty() || !self.shared.looped.is_empty();
        let mut functions = self.functions.iter().enumerate();
        let busy = functions.any(|(index, function)| {
            let function = function.as_ref();
            function.is_some_and(|function| self.has_work(index, function))
        });
        if in_flight || busy || !self.remains.is_empty() {
            return false;
        }
        self.publish_asleep(true);
        let mut found = false;
        for (host, function) in self.hosts.iter().zip(&mut self.functions) {
            if let (Some(host), Some(function)) = (host, function) {
                // Between the store of the state and the loads of the marks, for each host: their
                // pages are different memory.
                host.barrier();
                // Nobody would look at what a function that is not ready is marked with.
                found |= function.is_ready() && function.peek_doorbells(host);
            }
        }
        if found {
            self.wake();
        }
        !found
    }

    /// Announces in all doorbell pages that the engine is awake.
    pub fn wake(&mut self) {
        self.publish_asleep(false);
    }

    fn publish_asleep(&self, asleep: bool) {
        for (host, function) in self.hosts.iter().zip(&self.functions) {
            if let (Some(host), Some(function)) = (host, function) {
                function.set_asleep(host, asleep);
            }
        }
    }
}

/// Where a PDU comes from and goes to.
struct Ends {
    vlan: u16,
    source: Gid,
    destination: Gid,
    pkey: u16,
}

/// Checks that a PDU may reach queue pair `qpn` (IBTA volume 1, 9.6.1.2 and 9.6.1.5).
#[inline]
fn admit(function: &Function, qpn: Qpn, from: &Ends) -> Result<(), Counter> {
    if !function.is_ready() {
        return Err(Counter::RxNoQp);
    }
    let qp = function.qps.get(qpn.get()).ok_or(Counter::RxNoQp)?;
    if !qp.transport.receives() {
        return Err(Counter::RxBadState);
    }
    if qp.transport.kind().is_connected() {
        let path: &Path = qp.transport.path();
        let ends = (path.destination, path.source, path.vlan);
        if ends != (from.source, from.destination, from.vlan) {
            return Err(Counter::RxWrongSource);
        }
    }
    if !pkeys_match(qp.transport.pkey(), from.pkey) {
        // Raw packet queue pairs are in no partition.
        if qp.transport.kind() == Kind::Raw {
            return Err(Counter::RxWrongService);
        }
        return Err(Counter::RxBadPkey);
    }
    Ok(())
}

/// Whether members with these keys may talk: same partition, not both limited members (IBTA
/// volume 1, 10.9.3).
const fn pkeys_match(a: u16, b: u16) -> bool {
    const FULL: u16 = 0x8000;
    (a | FULL) == (b | FULL) && (a | b) & FULL != 0
}

/// Adds what was sent to a function's counters.
fn add(function: &mut Function, tally: Tally) {
    if tally.packets > 0 {
        function.count(Counter::PortXmitPackets, tally.packets);
        function.count(Counter::PortXmitData, tally.data);
    }
    if tally.discards | tally.multicast != 0 {
        function.count(Counter::PortXmitDiscards, tally.discards);
        function.count(Counter::MulticastXmitPackets, tally.multicast);
    }
    if tally.forged != [0; 3] {
        for (breach, count) in Breach::ALL.iter().zip(tally.forged) {
            function.count(breach.counter(), count);
        }
    }
    if tally.local_bytes > 0 {
        function.count(Counter::LocalBytes, tally.local_bytes);
    }
}
