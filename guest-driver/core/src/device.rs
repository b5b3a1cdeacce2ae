//! A function from probe to removal.
//!
//! [`Driver::probe`] identifies the function, resets it, sets up the admin queue and the event
//! queues and asks for its attributes. [`Driver::recover`] does the same again after a fatal error
//! with the same driver; objects of before are then stale: every operation on them fails, and they
//! only wait to be dropped. A *generation* counts these lives.
//!
//! How a life ends in a kernel, whether a function is to be removed, to be reset by the bus, has
//! failed or is gone:
//!
//! 1. [`Driver::set_lost`], and the platform wakes whoever waits in [`Platform::relax`]. From now on
//!    no call waits for the device or rings a doorbell.
//! 2. [`Driver::flush_lost`]: consumers of completion queues poll, and see all they have posted
//!    flushed. Whatever they do until they have destroyed their objects works as after a fatal error
//!    of each queue pair: going to ERROR, posting, polling, arming, destroying.
//! 3. Objects are destroyed and dropped; memory that the device may still access stays.
//! 4. [`Driver::remove`] resets the function and frees that memory; a new life begins with a probe.
//!
//! The function is reset before the last of its memory is freed, by [`Driver::remove`] or when the
//! driver and all objects have been dropped. If the reset cannot be confirmed, the memory that the
//! device knows is leaked instead.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vrnic_abi::admin::AdminOpcode;
use vrnic_abi::object::{DeviceAttributes, PortAttributes};
use vrnic_abi::registers::{self, Capabilities, DeviceState};
use vrnic_abi::{Register, VERSION_MAJOR, doorbell};

use crate::admin::AdminQueue;
use crate::error::Error;
use crate::event::{AsyncEvent, EventQueue, KEPT_EVENTS};
use crate::group::GidVlans;
use crate::memory::RegionMemory;
use crate::platform::{Level, Lock, Platform};
use crate::tables::{CqTable, Listeners, QpTables, Registry, SrqTable};

/// Nanoseconds between looks at a function that is being reset or enabled.
const RESET_NAP: u64 = 100_000;

/// How the driver uses a function.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Commands in flight, as a power of two; lowered to the function's limit.
    pub log_admin_entries: u8,
    /// Entries of each event queue, as a power of two; lowered to the function's limit.
    pub log_event_entries: u8,
    /// Event queues for completions; lowered to the number of vectors.
    pub completion_eqs: u16,
    /// Nanoseconds after which an unanswered command means that the device is lost.
    pub command_timeout: u64,
    /// Nanoseconds within which a reset must be done.
    pub reset_timeout: u64,
    /// Nanoseconds between looks at the registers while waiting for a command.
    pub check_period: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log_admin_entries: 6,
            log_event_entries: 10,
            completion_eqs: 1,
            command_timeout: 10_000_000_000,
            reset_timeout: 10_000_000_000,
            check_period: 100_000_000,
        }
    }
}

/// The state of the device as its registers tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Works; the heartbeat counter.
    Good(u32),
    /// In the error state, or not ready although it was enabled: [`Driver::recover`] helps.
    Failed(Error),
    /// Registers read all ones.
    Gone,
}

/// What all objects of a function share.
pub(crate) struct Shared<P: Platform> {
    pub(crate) platform: P,
    pub(crate) config: Config,
    pub(crate) attributes: DeviceAttributes,
    pub(crate) port: PortAttributes,
    pub(crate) admin: AdminQueue<P>,
    /// Asynchronous events first, then completion events.
    pub(crate) eqs: Vec<EventQueue<P>>,
    pub(crate) events: P::Lock<VecDeque<AsyncEvent>>,
    /// Who hears of events, by number of the object.
    pub(crate) cqs: Listeners<P, CqTable<P>>,
    pub(crate) qps: Listeners<P, QpTables<P>>,
    pub(crate) srqs: Listeners<P, SrqTable<P>>,
    /// Where the entries of the GID table are.
    pub(crate) gid_vlans: P::Lock<GidVlans>,
    quarantine: Registry<P, RegionMemory<P>>,
    quarantined: AtomicU32,
    generation: AtomicU32,
    /// Lives before this one are over: the device has forgotten all memory it was told of in them.
    forgotten: AtomicU32,
    /// The device may know the rings.
    enabled: AtomicBool,
}

impl<P: Platform> Shared<P> {
    /// Which life of the function this is.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Fails unless `generation` is the current one.
    pub(crate) fn check(&self, generation: u32) -> Result<(), Error> {
        if self.generation() == generation {
            Ok(())
        } else {
            Err(Error::Stale)
        }
    }

    /// What the function can do.
    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities::from_bits_truncate(self.attributes.capabilities)
    }

    /// What the function can do now, as some of it comes and goes.
    pub(crate) fn current_capabilities(&self) -> Capabilities {
        let low = self.read(&registers::CAPABILITIES);
        let high = self.read(&registers::CAPABILITIES_HIGH);
        Capabilities::from_bits_truncate(u64::from(low) | u64::from(high) << 32)
    }

    /// Fails if the function lacks `capability`, which is for `what`.
    pub(crate) fn require(
        &self,
        capability: Capabilities,
        what: &'static str,
    ) -> Result<(), Error> {
        if self.capabilities().contains(capability) {
            Ok(())
        } else {
            Err(Error::Unsupported(what))
        }
    }

    pub(crate) fn admin_vector(&self) -> u16 {
        0
    }

    /// Keeps memory that the device may still access until the next reset. Sleepable context.
    pub(crate) fn quarantine(&self, generation: u32, memory: RegionMemory<P>) {
        if self.forgotten.load(Ordering::Acquire) > generation {
            return;
        }
        let key = self.quarantined.fetch_add(1, Ordering::Relaxed);
        self.quarantine.insert(key, memory);
    }

    fn read(&self, register: &Register) -> u32 {
        self.platform.read_register(register.offset)
    }

    pub(crate) fn handle_interrupt(&self, vector: u16) {
        if vector == self.admin_vector() {
            self.admin.drain(&self.platform);
        }
        for eq in &self.eqs {
            if eq.vector() == vector {
                eq.drain(self);
            }
        }
    }

    pub(crate) fn completion_event(&self, cqn: u32) {
        let context = self.cqs.look(cqn, |cq| {
            if let Some(table) = &cq.table {
                table.notify();
            }
            cq.context
        });
        if let Some(context) = context {
            self.platform.completion_event(cqn, context);
        }
    }

    /// Tells the consumers of all completion queues that there are completions to poll.
    fn wake_consumers(&self) {
        let mut from = 0;
        loop {
            // Under the lock only as long as it takes to look, and without a reference to what only
            // sleepable context may free.
            let found = self.cqs.look_from(from, |cq| {
                let table = cq.table.as_ref()?;
                table.notify();
                Some(cq.context)
            });
            let Some((cqn, context)) = found else {
                return;
            };
            if let Some(context) = context {
                self.platform.completion_event(cqn, context);
            }
            from = cqn.wrapping_add(1);
        }
    }

    /// Gives the device up until it is reset, unless it was since life `generation`.
    pub(crate) fn fail(&self, generation: u32, why: &str) {
        self.platform.log(Level::Error, format_args!("{why}"));
        self.admin.set_lost_in(generation);
    }

    pub(crate) fn health(&self) -> Health {
        let status = self.read(&registers::DEVICE_STATUS);
        if status == u32::MAX && self.read(&registers::MAGIC) == u32::MAX {
            return Health::Gone;
        }
        let state = registers::device_status::STATE.get(status);
        if state == u32::from(DeviceState::Ready.raw()) {
            return Health::Good(self.read(&registers::HEARTBEAT));
        }
        let low = self.read(&registers::HEALTH_ADDRESS);
        let high = self.read(&registers::HEALTH_ADDRESS_HIGH);
        Health::Failed(Error::DeviceFailed {
            code: self.read(&registers::HEALTH_CODE),
            object: self.read(&registers::HEALTH_OBJECT),
            address: u64::from(low) | u64::from(high) << 32,
        })
    }

    /// What to tell whoever waited for a device that is lost.
    pub(crate) fn failure(&self) -> Error {
        match self.health() {
            Health::Failed(error) => error,
            _ => Error::DeviceLost,
        }
    }

    /// Fails if the registers say that the device has failed, as seen by whoever waits in life
    /// `generation`.
    pub(crate) fn check_registers(&self, generation: u32) -> Result<(), Error> {
        match self.health() {
            Health::Good(_) => Ok(()),
            Health::Failed(error) => {
                self.fail(generation, "the device has failed");
                Err(error)
            }
            Health::Gone => {
                self.fail(generation, "the device is gone");
                Err(Error::DeviceLost)
            }
        }
    }

    /// Ends this life of the function: nothing uses rings or doorbells any more, and once the
    /// reset is done neither does the device.
    fn reset(&self) -> Result<(), Error> {
        self.admin.set_lost();
        for eq in &self.eqs {
            eq.stop();
        }
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        let result = reset(&self.platform, self.config.reset_timeout);
        let result = result.or_else(|error| {
            if self.platform.reset_function() {
                reset(&self.platform, self.config.reset_timeout)
            } else {
                Err(error)
            }
        });
        let result = result.or_else(|error| {
            if self.platform.is_detached() {
                Ok(())
            } else {
                Err(error)
            }
        });
        if result.is_ok() {
            self.wake_consumers();
            self.forgotten.store(generation, Ordering::Release);
            self.cqs.clear();
            self.qps.clear();
            self.srqs.clear();
            self.events.with(VecDeque::clear);
            self.gid_vlans.with(GidVlans::clear);
            self.quarantine.clear();
            self.enabled.store(false, Ordering::Release);
        }
        result
    }

    /// Enables the reset function and waits until it is ready.
    fn enable(&self) -> Result<(), Error> {
        self.enabled.store(true, Ordering::Release);
        let generation = self.generation();
        self.admin
            .start(&self.platform, generation, self.admin_vector());
        let now = self.platform.now();
        let deadline = now.saturating_add(self.config.reset_timeout);
        loop {
            match self.health() {
                Health::Good(_) => return Ok(()),
                Health::Gone => return Err(Error::DeviceLost),
                Health::Failed(error) => {
                    let state = state_of(self.read(&registers::DEVICE_STATUS));
                    let now = self.platform.now();
                    if state == Some(DeviceState::Error) || now >= deadline {
                        self.admin.set_lost();
                        return Err(error);
                    }
                    self.platform.relax(None, deadline.min(now + RESET_NAP));
                }
            }
        }
    }

    /// Creates the event queues on the device.
    fn start_events(self: &Arc<Self>) -> Result<(), Error> {
        let generation = self.generation();
        for eq in &self.eqs {
            let command = eq.create_command();
            let answer = self.execute(generation, AdminOpcode::CreateEq, &command, None)?;
            let results = (answer.result0, answer.result1);
            eq.start(&self.platform, generation, results)?;
        }
        if let Some((opcode, body)) = self.async_eq_reference() {
            self.execute(generation, opcode, &body, None)?;
        }
        Ok(())
    }
}

impl<P: Platform> Drop for Shared<P> {
    fn drop(&mut self) {
        if !self.enabled.load(Ordering::Acquire) || self.reset().is_ok() {
            return;
        }
        let message = format_args!("reset failed: memory of the device is not freed");
        self.platform.log(Level::Error, message);
        self.admin.leak();
        core::mem::forget(core::mem::take(&mut self.eqs));
        self.quarantine.leak();
    }
}

fn state_of(status: u32) -> Option<DeviceState> {
    let state = registers::device_status::STATE.get(status);
    DeviceState::from_raw(state as u8)
}

/// Resets the function by register and waits until it has counted the reset.
fn reset<P: Platform>(platform: &P, timeout: u64) -> Result<(), Error> {
    use registers::device_status::RESET_COUNT;
    let read = || platform.read_register(registers::DEVICE_STATUS.offset);
    let before = read();
    if before == u32::MAX {
        return Err(Error::DeviceLost);
    }
    platform.write_register(registers::RESET.offset, registers::RESET_VALUE);
    let deadline = platform.now().saturating_add(timeout);
    loop {
        let status = read();
        if status == u32::MAX {
            return Err(Error::DeviceLost);
        }
        let counted = RESET_COUNT.get(status) != RESET_COUNT.get(before);
        if counted && state_of(status) == Some(DeviceState::Reset) {
            return Ok(());
        }
        let now = platform.now();
        if now >= deadline {
            return Err(Error::DeviceLost);
        }
        platform.relax(None, deadline.min(now + RESET_NAP));
    }
}

/// Checks that the registers are those of a function this driver knows.
fn identify<P: Platform>(platform: &P) -> Result<(), Error> {
    use registers::interface_version::{MAJOR, MINOR};
    let magic = platform.read_register(registers::MAGIC.offset);
    if magic == u32::MAX {
        return Err(Error::DeviceLost);
    }
    if magic != registers::MAGIC_VALUE {
        return Err(Error::NotVrnic(magic));
    }
    let version = platform.read_register(registers::INTERFACE_VERSION.offset);
    if MAJOR.get(version) != u32::from(VERSION_MAJOR) {
        let (major, minor) = (MAJOR.get(version) as u16, MINOR.get(version) as u16);
        return Err(Error::UnsupportedVersion(major, minor));
    }
    Ok(())
}

/// The driver of one function.
pub struct Driver<P: Platform> {
    pub(crate) shared: Arc<Shared<P>>,
}

impl<P: Platform> Driver<P> {
    /// Brings the function up. Sleepable context.
    pub fn probe(platform: P, config: Config) -> Result<Self, Error> {
        identify(&platform)?;
        reset(&platform, config.reset_timeout)?;
        let mut shared = allocate(platform, config)?;
        shared.enable()?;
        describe(&mut shared)?;
        shared.start_events()?;
        shared
            .platform
            .log(Level::Info, format_args!("function is up"));
        Ok(Self { shared })
    }

    /// Resets the function and brings it up again, in any state it or the driver may be in.
    /// Objects of before are stale. Sleepable context, one at a time.
    pub fn recover(&self) -> Result<(), Error> {
        let message = format_args!("resetting the function");
        self.shared.platform.log(Level::Warning, message);
        self.shared.reset()?;
        self.shared.enable()?;
        self.shared.start_events()
    }

    /// Resets the function and ends its use: objects that still exist are stale. Sleepable
    /// context. Dropping the driver does the same, but later, after its last object.
    pub fn remove(self) -> Result<(), Error> {
        self.shared.reset()
    }

    /// Drains what `vector` announces: admin completions and event queues. Atomic context, never
    /// blocks; spurious calls do no harm.
    pub fn handle_interrupt(&self, vector: u16) {
        self.shared.handle_interrupt(vector);
    }

    /// The oldest asynchronous event that was not polled yet; the driver keeps 256.
    #[must_use]
    pub fn poll_event(&self) -> Option<AsyncEvent> {
        self.shared.events.with(VecDeque::pop_front)
    }

    /// Looks at the registers. A driver that sees the heartbeat stand still for seconds while
    /// work is outstanding has lost the device, too.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// Whether commands fail until [`Self::recover`], because one was not answered or the device
    /// reported a fatal error.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.shared.admin.is_lost()
    }

    /// Gives the function up: every command in flight and every further one fails at once. Any
    /// context. It wakes nobody: whoever waits in [`Platform::relax`] is the platform's to wake.
    pub fn set_lost(&self) {
        self.shared.admin.set_lost();
    }

    /// Once the function is lost, tells the consumers of all completion queues, by
    /// [`Platform::completion_event`], so that they poll what completes as flushed; from then on
    /// whoever posts tells them. Does nothing as long as the function is not lost. Any context.
    pub fn flush_lost(&self) {
        if self.is_lost() {
            self.shared.wake_consumers();
        }
    }

    /// The platform that the driver was given.
    #[must_use]
    pub fn platform(&self) -> &P {
        &self.shared.platform
    }

    /// Limits and identity, as they were at probe.
    #[must_use]
    pub fn attributes(&self) -> &DeviceAttributes {
        &self.shared.attributes
    }

    /// What the function can do.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        self.shared.capabilities()
    }

    pub(crate) fn require(
        &self,
        capability: Capabilities,
        what: &'static str,
    ) -> Result<(), Error> {
        self.shared.require(capability, what)
    }

    /// Number of event queues that completion queues can be spread over.
    #[must_use]
    pub fn completion_vectors(&self) -> u16 {
        self.shared.eqs.len().saturating_sub(1) as u16
    }

    /// Number of doorbell pages, the kernel's included.
    #[must_use]
    pub fn doorbell_pages(&self) -> u32 {
        let limits = self.shared.read(&registers::LIMITS);
        registers::limits::DOORBELL_PAGES
            .get(limits)
            .min(doorbell::PAGES)
    }
}

/// What objects of a function share, which knows nothing of the function yet.
///
/// A frame of its own, as the following: a kernel's stack is small, and bringing a function up is
/// deep enough.
#[inline(never)]
fn allocate<P: Platform>(platform: P, config: Config) -> Result<Arc<Shared<P>>, Error> {
    let limits = platform.read_register(registers::LIMITS.offset);
    let log_max = registers::limits::ADMIN_QUEUE_LOG_MAX.get(limits) as u8;
    let log_entries = config.log_admin_entries.min(log_max).clamp(1, 15);
    let admin = AdminQueue::new(&platform, log_entries)?;
    Ok(Arc::new(Shared {
        platform,
        config,
        attributes: DeviceAttributes::default(),
        port: PortAttributes::default(),
        admin,
        eqs: Vec::new(),
        events: P::Lock::new(VecDeque::with_capacity(KEPT_EVENTS)),
        cqs: Registry::new(),
        qps: Registry::new(),
        srqs: Registry::new(),
        gid_vlans: P::Lock::new(GidVlans::default()),
        quarantine: Registry::new(),
        quarantined: AtomicU32::new(0),
        generation: AtomicU32::new(1),
        forgotten: AtomicU32::new(1),
        enabled: AtomicBool::new(false),
    }))
}

/// Fills in what the enabled function says about itself.
#[inline(never)]
fn describe<P: Platform>(shared: &mut Arc<Shared<P>>) -> Result<(), Error> {
    let attributes = shared.query_device()?;
    let port = shared.query_port()?;
    let eqs = create_eqs(shared, &attributes)?;
    // Nothing else refers to the function yet, so this cannot fail.
    let inner = Arc::get_mut(shared).ok_or(Error::Stale)?;
    inner.attributes = attributes;
    inner.port = port;
    inner.gid_vlans = P::Lock::new(GidVlans::new(port.gid_entries));
    inner.eqs = eqs;
    Ok(())
}

/// Memory of the event queues: one for asynchronous events, the rest for completions.
fn create_eqs<P: Platform>(
    shared: &Shared<P>,
    attributes: &DeviceAttributes,
) -> Result<Vec<EventQueue<P>>, Error> {
    let log = shared.config.log_event_entries;
    let log = log.min(attributes.log_max_eq_entries).max(4);
    // More than the device serves would be refused.
    let most = attributes.vectors.clamp(1, u16::MAX.into()) as u16;
    let vectors = shared.platform.vectors().clamp(1, most);
    let limit = attributes.max_eq.saturating_sub(1).min(u32::from(u16::MAX)) as u16;
    let wanted = shared.config.completion_eqs.min(limit).max(1);
    let wanted = wanted.min(vectors.saturating_sub(1).max(1));
    let mut eqs = Vec::with_capacity(usize::from(wanted) + 1);
    for index in 0..=wanted {
        eqs.push(EventQueue::new(&shared.platform, log, index % vectors)?);
    }
    Ok(eqs)
}
