//! One PCI function towards its vfio-user client: regions, interrupts, mappings, reset.
//!
//! Lives on the control thread. Configuration space, MSI-X table and the published registers are
//! answered here; what concerns queues goes to the engine as a message. Region accesses are always
//! answered at once (see [`crate::registers`] for why that matters).
//!
//! What a client asks of the engine is counted while it waits there. One that asks for more than the
//! engine keeps up with is answered with `EBUSY`.
//!
//! Resets: a function level reset, a vfio-user reset and the loss of the client all send
//! [`Message::Reset`] to the engine, which answers when nothing is in flight any more. A client
//! that comes later finds a function after power-on. A function that is dropped is removed from the
//! engine. A physical function resets the virtual ones that it disables; see [`crate::family`] for
//! which.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vrnic_abi::registers::{DEVICE_STATUS, DeviceState, HEALTH_CODE, HealthCode, device_status};
use vrnic_abi::{doorbell, pci as abi};
use vrnic_firmware::frontend::registers;
use vrnic_firmware::host::Host as _;
use vrnic_firmware::nic::{FunctionConfig, FunctionId};
use vrnic_firmware::resource::Quota;
use vrnic_vfio_user::device::RegionAccess;
use vrnic_vfio_user::wire::irq::{INFO_EVENTFD, INFO_NORESIZE};
use vrnic_vfio_user::{
    ClientHandle, Deferred, Device, DeviceInfo, DmaMap, DmaUnmap, Errno, IrqAction, IrqInfo,
    NegotiatedCaps, RegionInfo, RegionMmap, SetIrqs, SparseArea, device::IrqData,
};

use crate::doorbell::DoorbellPages;
use crate::engine::{EngineHandle, Message, Tickets};
use crate::family::{Family, Member, Process, Restart};
use crate::host::FunctionHost;
use crate::memory::{MemoryControl, memory};
use crate::pci::{self, Actions, ConfigSpace, Kind, Msix, PowerState, ResetKind};
use crate::registers::{Registers, WriteCombiner};

/// VFIO's index of the configuration space region.
const REGION_CONFIG: u32 = 7;
/// VFIO's number of regions of a PCI device.
const REGIONS: u32 = 9;
/// VFIO's index of the MSI-X interrupts.
const IRQ_MSIX: u32 = 2;
/// VFIO's index of the interrupt that reports errors of the device.
const IRQ_ERROR: u32 = 3;
/// VFIO's number of interrupt types of a PCI device.
const IRQS: u32 = 5;

const BAR_REGISTERS: u32 = abi::BAR_REGISTERS as u32;
const BAR_DOORBELLS: u32 = abi::BAR_DOORBELLS as u32;
const BAR_MSIX: u32 = abi::BAR_MSIX as u32;

/// Bytes of BAR2 that are memory; kick pages follow.
const DOORBELL_BYTES: u64 = (doorbell::PAGES * doorbell::PAGE_SIZE) as u64;

/// A function and what its client has told about itself.
pub struct Function {
    engine: EngineHandle,
    tickets: Tickets,
    id: FunctionId,
    name: String,
    family: Family,
    member: Member,
    /// Who connected last.
    peer: Option<Process>,
    restart: Restart,
    config: ConfigSpace,
    msix: Msix,
    registers: Arc<Registers>,
    combiner: WriteCombiner,
    doorbells: Arc<DoorbellPages>,
    doorbell_fd: Arc<OwnedFd>,
    map_doorbells: bool,
    memory: MemoryControl,
    attachment: Attachment,
}

/// Clients of a function: whether there is one, and how many there ever were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// There is one.
    pub attached: bool,
    /// How many there were, this one included.
    pub count: u64,
}

/// How a function is to look.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name on the engine, which no other function has.
    pub id: FunctionId,
    /// What log lines and captures call it.
    pub name: String,
    /// Physical or virtual.
    pub kind: Kind,
    /// The functions that belong together; a family of its own for one without virtual functions.
    pub family: Family,
    /// Identity towards the network and the bus.
    pub config: FunctionConfig,
    /// How much it may have.
    pub quota: Quota,
    /// Let clients map doorbell pages; if not, every doorbell is trapped.
    pub map_doorbells: bool,
}

impl Function {
    /// A function after power-on, served by `engine`.
    ///
    /// # Errors
    /// If the host refuses memory or descriptors.
    pub fn new(engine: EngineHandle, options: Options) -> io::Result<Self> {
        let description = match options.kind {
            Kind::Physical { vfs } => {
                let serial = serial_number(options.config.mac.0);
                pci::Function::physical(serial).with_vfs(vfs)
            }
            Kind::Virtual => pci::Function::virtual_function(),
        };
        let ids = pci::names::describe(&description.ids);
        log::debug!("{}: {ids}", options.name);
        let config = ConfigSpace::new(&description).map_err(io::Error::other)?;
        let msix = Msix::with_signaller(description.msix, options.family.signaller());
        let registers = Arc::new(Registers::default());
        let (doorbells, doorbell_fd) = DoorbellPages::new()?;
        let (doorbells, doorbell_fd) = (Arc::new(doorbells), Arc::new(doorbell_fd));
        let (memory, control) = memory();
        let host = FunctionHost::new(
            memory,
            Arc::clone(&doorbells),
            Arc::clone(&registers),
            msix.handle(),
        );
        let id = options.id;
        show_new(&host, &options);
        engine.add_function(id, host, options.config, options.quota);
        let restart = Restart {
            engine: engine.clone(),
            function: id,
            registers: Arc::clone(&registers),
            interrupts: msix.handle(),
        };
        let member = match options.kind {
            Kind::Physical { .. } => Member::Physical,
            Kind::Virtual => {
                let number = options.config.number.saturating_sub(1);
                options.family.add(number, restart.clone())
            }
        };
        Ok(Self {
            engine,
            tickets: Tickets::default(),
            id,
            name: options.name,
            family: options.family,
            member,
            peer: None,
            restart,
            config,
            msix,
            registers,
            combiner: WriteCombiner::default(),
            doorbells,
            doorbell_fd,
            map_doorbells: options.map_doorbells,
            memory: control,
            attachment: Attachment::default(),
        })
    }

    /// What log lines and captures call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name on the engine.
    #[must_use]
    pub const fn id(&self) -> FunctionId {
        self.id
    }

    /// Its clients.
    #[must_use]
    pub const fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Whether as many requests wait for the engine as should.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.tickets.are_out()
    }

    /// Resets the function as its own reset register does: the driver finds it in state RESET, and
    /// what a bus reset would clear (configuration space, MSI-X) stays. Calls `done` when nothing is in
    /// flight any more.
    pub fn reset_by_operator(&self, done: impl FnOnce() + Send + 'static) {
        log::info!("{}: reset by the operator", self.name);
        self.reset_engine(done);
    }

    /// The operator is about to put the function into service ([`vrnic_firmware::nic::Nic::set_enabled`]):
    /// if it was out, the engine will reset it, and what the driver has written is gone from here on.
    pub fn prepare_enabling(&self) {
        let status = device_status::STATE.get(self.registers.get(DEVICE_STATUS.offset));
        let failed = status == u32::from(DeviceState::Error.raw());
        let code = self.registers.get(HEALTH_CODE.offset);
        if failed && code == u32::from(HealthCode::Disabled.raw()) {
            self.registers.begin_reset();
        }
    }

    /// Resets everything but configuration space, and calls `done` then.
    fn reset_engine(&self, done: impl FnOnce() + Send + 'static) {
        self.restart.begin(self.tickets.take(), done);
    }

    fn memory_changed(&self) {
        if self.memory.announce() {
            self.apply_memory();
        }
    }

    fn apply_memory(&self) {
        let function = self.id;
        self.engine.send(Message::MemoryChanged { function });
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let read = if self.family.is_alone(self.member) {
            self.config.read_alone(offset, data)
        } else {
            self.config.read(offset, data)
        };
        read.map_err(|_| Errno::INVAL)
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let enabled = self.config.enabled_vfs();
        if enabled > 0 {
            // It may take them away, and the engine has work with each.
            self.admit()?;
        }
        let actions = self.config.write(offset, data).map_err(|_| Errno::INVAL)?;
        self.carry_out(actions, enabled);
        if actions.contains(Actions::FLR_REQUESTED) {
            self.admit()?;
            self.reset_engine(|| log::debug!("function level reset is done"));
            self.reset_bus(ResetKind::FunctionLevel);
        }
        Ok(())
    }

    /// Does what a change of configuration space asks for; before it, `enabled` virtual functions
    /// were enabled.
    fn carry_out(&mut self, actions: Actions, enabled: u16) {
        if actions.intersects(Actions::BUS_MASTER_CHANGED | Actions::POWER_STATE_CHANGED) {
            let awake = self.config.power_state() == PowerState::D0;
            self.memory
                .set_bus_master(awake && self.config.bus_master());
        }
        if actions.contains(Actions::MSIX_CHANGED) {
            self.msix.set_control(self.config.msix_control());
        }
        if actions.contains(Actions::VFS_CHANGED) {
            let now = self.config.enabled_vfs();
            // A guest can do this as often as it likes.
            log::debug!("{}: {now} virtual functions enabled", self.name);
            // All of those that were: NumVFs does not change under enabled ones.
            self.family.reset(enabled, &self.tickets);
        }
    }

    /// Follows a reset by the physical function.
    fn catch_up(&mut self) {
        if self.family.take_reset(self.member) {
            self.reset_bus(ResetKind::FunctionLevel);
        }
    }

    fn reset_bus(&mut self, kind: ResetKind) {
        let enabled = self.config.enabled_vfs();
        let actions = self.config.reset(kind);
        self.carry_out(actions, enabled);
        self.msix.reset();
        self.combiner = WriteCombiner::default();
    }

    /// Refuses what a client asks for while too much of that waits for the engine.
    fn admit(&self) -> Result<(), Errno> {
        if self.tickets.are_out() {
            return Err(Errno::BUSY);
        }
        Ok(())
    }

    fn write_registers(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.admit()?;
        let Self {
            combiner,
            tickets,
            registers,
            engine,
            id,
            ..
        } = self;
        combiner.write(registers, offset, data, |offset, value| {
            engine.send(Message::WriteRegister {
                function: *id,
                offset,
                value,
                ticket: tickets.take(),
            });
        });
        Ok(())
    }

    /// Lets a client that comes see how many vectors there are now.
    fn show_vectors(&mut self) {
        let vectors = self.msix.attach();
        if let Err(error) = self.config.set_vectors(vectors) {
            log::error!("{}: {vectors} vectors: {error}", self.name);
        }
    }

    /// Takes the doorbell pages away from whoever has mapped them.
    fn renew_doorbells(&mut self) {
        match self.doorbells.renew() {
            Ok(fd) => self.doorbell_fd = Arc::new(fd),
            Err(error) => log::error!(
                "{}: the former client keeps its doorbell pages: {error}",
                self.name
            ),
        }
    }

    fn write_doorbells(&self, offset: u64, data: &[u8]) {
        if offset < DOORBELL_BYTES {
            self.doorbells.write(offset, data);
        }
        // A store to a kick page says only that the engine is to look.
        self.engine.kick();
    }

    fn assign(&mut self, start: u32, fds: Vec<Option<OwnedFd>>) -> Result<(), Errno> {
        for (vector, fd) in (start..).zip(fds) {
            self.msix
                .set_eventfd(vector, fd)
                .map_err(|_| Errno::INVAL)?;
        }
        Ok(())
    }

    fn trigger(&self, vectors: impl Iterator<Item = u32>) {
        let handle = self.msix.handle();
        vectors.for_each(|vector| handle.raise(vector));
    }
}

impl Drop for Function {
    /// The engine serves it no longer: its name is free for whatever is sent there from now on.
    fn drop(&mut self) {
        self.family.remove(self.member);
        let function = self.id;
        self.engine.send(Message::RemoveFunction { function });
    }
}

/// Lets the first client see what the engine, which may be busy when it comes, has yet to say.
fn show_new(host: &FunctionHost, options: &Options) {
    registers::Registers::new(options.config.number, 0).publish(host);
    let vectors = u16::try_from(options.quota.vectors).unwrap_or(u16::MAX);
    host.set_vectors(vectors);
}

/// An EUI-64 from an Ethernet address (IEEE guidelines for EUI-64).
fn serial_number([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_be_bytes([a, b, c, 0xff, 0xfe, d, e, f])
}

impl Device for Function {
    fn connected(&mut self, socket: BorrowedFd<'_>) {
        self.peer = Process::of_peer(socket);
    }

    fn attached(&mut self, client: ClientHandle, _caps: &NegotiatedCaps) {
        log::info!("{}: client attached", self.name);
        self.family.set_client(self.member, self.peer);
        self.attachment.attached = true;
        self.attachment.count += 1;
        self.show_vectors();
        self.memory.attach(client);
    }

    fn detached(&mut self) {
        log::info!("{}: client gone", self.name);
        self.attachment.attached = false;
        self.renew_doorbells();
        // First nothing may use the mappings, then they go, and the next client's wait for that.
        let reset = self.memory.detach();
        self.reset_engine(move || reset.store(true, Ordering::Release));
        // Whatever was announced before: the engine has to look again after the reset.
        self.apply_memory();
        self.reset_bus(ResetKind::PowerOn);
        self.msix.detach();
        // Last: what it had enabled is its own until here.
        self.family.set_client(self.member, None);
    }

    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            pci: true,
            resettable: true,
            num_regions: REGIONS,
            num_irqs: IRQS,
        }
    }

    fn region(&self, index: u32) -> RegionInfo {
        let access = self.region_access(index);
        let doorbells = RegionMmap {
            fd: Arc::clone(&self.doorbell_fd),
            offset: 0,
            areas: vec![SparseArea {
                offset: 0,
                size: DOORBELL_BYTES,
            }],
        };
        RegionInfo {
            size: access.size,
            readable: access.readable,
            writable: access.writable,
            mmap: (index == BAR_DOORBELLS && self.map_doorbells).then_some(doorbells),
        }
    }

    fn region_access(&self, index: u32) -> RegionAccess {
        let size = match index {
            BAR_REGISTERS => abi::BAR_REGISTERS_SIZE.into(),
            BAR_DOORBELLS => doorbell::BAR_SIZE.into(),
            BAR_MSIX => abi::BAR_MSIX_SIZE.into(),
            REGION_CONFIG => pci::CONFIG_SPACE_SIZE as u64,
            _ => 0,
        };
        RegionAccess {
            size,
            readable: size != 0,
            writable: size != 0,
        }
    }

    fn irq(&self, index: u32) -> IrqInfo {
        let (count, flags) = match index {
            IRQ_MSIX => (self.msix.vectors().into(), INFO_EVENTFD),
            IRQ_ERROR => (1, INFO_EVENTFD | INFO_NORESIZE),
            _ => (0, 0),
        };
        IrqInfo { count, flags }
    }

    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.catch_up();
        match region {
            BAR_REGISTERS => self.registers.read(offset, data),
            BAR_DOORBELLS => self.doorbells.read(offset, data),
            BAR_MSIX => self.msix.read(offset, data),
            REGION_CONFIG => self.read_config(offset, data)?,
            _ => return Err(Errno::INVAL),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.catch_up();
        match region {
            BAR_REGISTERS => self.write_registers(offset, data)?,
            BAR_DOORBELLS => self.write_doorbells(offset, data),
            BAR_MSIX => self.msix.write(offset, data),
            REGION_CONFIG => self.write_config(offset, data)?,
            _ => return Err(Errno::INVAL),
        }
        Ok(())
    }

    fn dma_map(&mut self, map: DmaMap) -> Result<(), Errno> {
        self.memory.map(map)?;
        self.memory_changed();
        Ok(())
    }

    fn dma_unmap(&mut self, unmap: DmaUnmap, reply: Deferred) {
        self.memory.unmap(unmap, reply);
        self.memory_changed();
    }

    fn set_irqs(&mut self, set: SetIrqs) -> Result<(), Errno> {
        self.catch_up();
        match set.index {
            IRQ_MSIX => {}
            // A client listens for errors of the device. There are none that concern more than the
            // function's own registers, so its eventfd is never written and need not be kept.
            IRQ_ERROR => return Ok(()),
            _ => return Err(Errno::INVAL),
        }
        let vectors = set.start..set.start.saturating_add(set.count);
        match (set.action, set.data) {
            (IrqAction::Trigger, IrqData::None) if set.count == 0 => self.msix.clear_eventfds(),
            (IrqAction::Trigger, IrqData::None) => self.trigger(vectors),
            (IrqAction::Trigger, IrqData::Bool(which)) => {
                let chosen = vectors.zip(which).filter(|(_, chosen)| *chosen);
                self.trigger(chosen.map(|(vector, _)| vector));
            }
            (IrqAction::Trigger, IrqData::Assign(fds)) => {
                self.assign(set.start, fds.into_iter().map(Some).collect())?;
            }
            (IrqAction::Trigger, IrqData::Deassign) => {
                self.assign(set.start, vectors.map(|_| None).collect())?;
            }
            (IrqAction::Mask | IrqAction::Unmask, data) => {
                self.mask(vectors, set.action == IrqAction::Mask, data)?;
            }
        }
        Ok(())
    }

    fn reset(&mut self, reply: Deferred) {
        if let Err(errno) = self.admit() {
            return reply.complete(Err(errno));
        }
        self.reset_bus(ResetKind::FunctionLevel);
        self.reset_engine(move || reply.complete(Ok(())));
    }
}

impl Function {
    fn mask(
        &mut self,
        vectors: std::ops::Range<u32>,
        masked: bool,
        data: IrqData,
    ) -> Result<(), Errno> {
        let chosen = match data {
            IrqData::None => vec![true; vectors.len()],
            IrqData::Bool(which) => which,
            // MSI-X vectors are masked by the table, never by an eventfd.
            IrqData::Assign(_) | IrqData::Deassign => return Err(Errno::INVAL),
        };
        for (vector, _) in vectors.zip(chosen).filter(|(_, chosen)| *chosen) {
            self.msix
                .set_masked(vector, masked)
                .map_err(|_| Errno::INVAL)?;
        }
        Ok(())
    }
}
