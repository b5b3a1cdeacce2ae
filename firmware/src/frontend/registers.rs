//! The register block of a function and its state machine.
//!
//! [`Registers::write`] takes what the guest wrote and says what is to be done about it; registers
//! that the guest reads are published through [`Host::set_register`] when they change. Read-write
//! registers are kept by the host as they are written; only their initial values come from here.

use vrnic_abi::registers::{self as abi, Capabilities, DeviceState, HealthCode};
use vrnic_abi::{VERSION_MAJOR, VERSION_MINOR, doorbell};

use crate::host::Host;
use crate::resource::{Quota, limits};

/// What this firmware can do with every function.
pub const CAPABILITIES: Capabilities = Capabilities::RC
    .union(Capabilities::UC)
    .union(Capabilities::UD)
    .union(Capabilities::GSI)
    .union(Capabilities::SRQ)
    .union(Capabilities::XRC)
    .union(Capabilities::RAW_PACKET)
    .union(Capabilities::SEGMENTATION)
    .union(Capabilities::MULTICAST)
    .union(Capabilities::ATOMIC_WRITE)
    .union(Capabilities::FLUSH)
    .union(Capabilities::ATOMICS)
    .union(Capabilities::MEMORY_WINDOWS)
    .union(Capabilities::FAST_REGISTRATION)
    .union(Capabilities::ECN)
    .union(Capabilities::RESERVED_LKEY)
    .union(Capabilities::CQ_RESIZE)
    .union(Capabilities::CQ_MODERATION);

/// Version of the firmware as in the register FIRMWARE_VERSION.
pub const FIRMWARE_VERSION: u32 = 0x0001_0000;

/// Why a function failed, and at what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Cause.
    pub code: HealthCode,
    /// Queue number or the like.
    pub object: u32,
    /// Address, or 0.
    pub address: u64,
}

/// Of a function that the operator has taken out of service.
pub const DISABLED: Fault = Fault {
    code: HealthCode::Disabled,
    object: 0,
    address: 0,
};

/// What a register write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Start the function.
    Enable,
    /// Reset the function.
    Reset,
    /// So many commands were ever submitted.
    Commands(u16),
    /// So many command completions were ever consumed.
    Consumed(u16),
}

/// The registers that have a memory.
#[derive(Clone, Debug)]
pub struct Registers {
    state: DeviceState,
    resets: u8,
    heartbeat: u32,
    /// Number of the function: 0 is the physical function.
    number: u16,
    /// The largest number of a virtual function of it.
    max_vf: u16,
    /// Address of the admin submission ring.
    pub submission: u64,
    /// Address of the admin completion ring.
    pub completion: u64,
    /// ADMIN_QUEUE as written.
    pub admin_queue: u32,
    /// What the health registers say.
    fault: Option<Fault>,
    /// The operator has taken the function out of service, which no reset changes.
    disabled: bool,
}

impl Registers {
    /// Initial values for function `number` after `resets` resets.
    #[must_use]
    pub const fn new(number: u16, resets: u8) -> Self {
        Self {
            state: DeviceState::Reset,
            resets,
            heartbeat: 0,
            number,
            max_vf: 0,
            submission: 0,
            completion: 0,
            admin_queue: 0,
            fault: None,
            disabled: false,
        }
    }

    /// State of the function.
    #[must_use]
    pub const fn state(&self) -> DeviceState {
        self.state
    }

    /// Number of resets, modulo 256.
    #[must_use]
    pub const fn resets(&self) -> u8 {
        self.resets
    }

    /// Why the function failed, in state ERROR.
    #[must_use]
    pub const fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The values after one more reset.
    #[must_use]
    pub const fn after_reset(&self) -> Self {
        Self {
            disabled: self.disabled,
            max_vf: self.max_vf,
            ..Self::new(self.number, self.resets.wrapping_add(1))
        }
    }

    /// Whether the operator lets a driver enable the function.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        !self.disabled
    }

    /// The operator puts the function into service, or takes it out; that alone changes no state.
    pub const fn allow(&mut self, allowed: bool) {
        self.disabled = !allowed;
    }

    /// The largest number of a virtual function, 0 if there is none.
    #[must_use]
    pub const fn max_vf(&self) -> u16 {
        self.max_vf
    }

    /// Notes which virtual functions there are. Their physical function can administer them.
    pub fn set_max_vf<H: Host>(&mut self, host: &H, max_vf: u16) {
        if core::mem::replace(&mut self.max_vf, max_vf) != max_vf {
            let [low, high] = halves(self.capabilities().bits());
            host.set_register(abi::CAPABILITIES.offset, low);
            host.set_register(abi::CAPABILITIES_HIGH.offset, high);
        }
    }

    /// What the function can do.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        if self.max_vf == 0 {
            CAPABILITIES
        } else {
            CAPABILITIES.union(Capabilities::SRIOV)
        }
    }

    /// Publishes every register that can be read; the state comes last, as drivers wait for it.
    pub fn publish<H: Host>(&self, host: &H) {
        let version = abi::interface_version::MAJOR.put(VERSION_MAJOR.into())
            | abi::interface_version::MINOR.put(VERSION_MINOR.into());
        let [low, high] = halves(self.capabilities().bits());
        let limits = abi::limits::DOORBELL_PAGES.put(doorbell::PAGES)
            | abi::limits::ADMIN_QUEUE_LOG_MAX.put(*limits::LOG_ADMIN_ENTRIES.end());
        let function = abi::function::NUMBER.put(self.number.into())
            | abi::function::VIRTUAL.put((self.number != 0).into());
        let constants = [
            (abi::MAGIC, abi::MAGIC_VALUE),
            (abi::INTERFACE_VERSION, version),
            (abi::FIRMWARE_VERSION, FIRMWARE_VERSION),
            (abi::CAPABILITIES, low),
            (abi::CAPABILITIES_HIGH, high),
            (abi::LIMITS, limits),
            (abi::FUNCTION, function),
        ];
        // The guest reads meanwhile: no register may show what it never holds.
        for register in abi::ALL {
            let constant = constants.iter().find(|(r, _)| r.offset == register.offset);
            if register.offset != abi::DEVICE_STATUS.offset {
                host.set_register(register.offset, constant.map_or(0, |(_, value)| *value));
            }
        }
        self.publish_state(host);
    }

    /// Enters READY.
    pub fn enter_ready<H: Host>(&mut self, host: &H) {
        self.state = DeviceState::Ready;
        self.publish_state(host);
    }

    /// Enters ERROR, unless the function is there already.
    pub fn enter_error<H: Host>(&mut self, host: &H, fault: Fault) {
        if self.state == DeviceState::Error {
            return;
        }
        self.state = DeviceState::Error;
        self.fault = Some(fault);
        let [low, high] = halves(fault.address);
        host.set_register(abi::HEALTH_OBJECT.offset, fault.object);
        host.set_register(abi::HEALTH_ADDRESS.offset, low);
        host.set_register(abi::HEALTH_ADDRESS_HIGH.offset, high);
        host.set_register(abi::HEALTH_CODE.offset, fault.code.raw().into());
        self.publish_state(host);
    }

    /// Shows that the function is served.
    pub fn beat<H: Host>(&mut self, host: &H) {
        self.heartbeat = self.heartbeat.wrapping_add(1);
        host.set_register(abi::HEARTBEAT.offset, self.heartbeat);
    }

    /// Takes what the guest wrote. Writes to what is not writable are ignored.
    pub fn write(&mut self, offset: u32, value: u32) -> Action {
        match offset {
            o if o == abi::DEVICE_CONTROL.offset => return self.control(value),
            o if o == abi::RESET.offset && value == abi::RESET_VALUE => return Action::Reset,
            o if o == abi::ADMIN_SUBMISSION_BASE.offset => set_low(&mut self.submission, value),
            o if o == abi::ADMIN_SUBMISSION_BASE_HIGH.offset => {
                set_high(&mut self.submission, value);
            }
            o if o == abi::ADMIN_COMPLETION_BASE.offset => set_low(&mut self.completion, value),
            o if o == abi::ADMIN_COMPLETION_BASE_HIGH.offset => {
                set_high(&mut self.completion, value);
            }
            o if o == abi::ADMIN_QUEUE.offset => self.admin_queue = value,
            o if o == abi::ADMIN_DOORBELL.offset => return Action::Commands(low_half(value)),
            o if o == abi::ADMIN_COMPLETION_DOORBELL.offset => {
                return Action::Consumed(low_half(value));
            }
            _ => {}
        }
        Action::None
    }

    fn control(&self, value: u32) -> Action {
        if self.state == DeviceState::Reset && abi::device_control::ENABLE.get(value) == 1 {
            Action::Enable
        } else {
            Action::None
        }
    }

    /// Entries of the admin queue and its vector if it has one, as the driver wrote them.
    ///
    /// # Errors
    /// The fault that the function has if they are not acceptable to one with this `quota`, or it is
    /// out of service.
    pub fn admin_shape(&self, quota: &Quota) -> Result<(u32, Option<u16>), Fault> {
        if self.disabled {
            return Err(DISABLED);
        }
        let log = abi::admin_queue::LOG_ENTRIES.get(self.admin_queue);
        let vector = low_half(abi::admin_queue::VECTOR.get(self.admin_queue));
        let interrupts = abi::admin_queue::INTERRUPT.get(self.admin_queue) == 1;
        let fault = |address| Fault {
            code: HealthCode::BadAdminQueue,
            object: 0,
            address,
        };
        if !limits::LOG_ADMIN_ENTRIES.contains(&log) {
            return Err(fault(0));
        }
        if interrupts && !quota.has_vector(vector) {
            return Err(fault(0));
        }
        for base in [self.submission, self.completion] {
            if base % 4096 != 0 || base.checked_add(64 << log).is_none() {
                return Err(fault(base));
            }
        }
        Ok((1 << log, interrupts.then_some(vector)))
    }

    fn publish_state<H: Host>(&self, host: &H) {
        let status = abi::device_status::STATE.put(u32::from(self.state.raw()))
            | abi::device_status::RESET_COUNT.put(u32::from(self.resets));
        host.set_register(abi::DEVICE_STATUS.offset, status);
    }
}

/// The low and the high half of a number.
const fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

const fn low_half(value: u32) -> u16 {
    value as u16
}

fn set_low(target: &mut u64, value: u32) {
    *target = *target & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(target: &mut u64, value: u32) {
    *target = *target & u64::from(u32::MAX) | u64::from(value) << 32;
}
