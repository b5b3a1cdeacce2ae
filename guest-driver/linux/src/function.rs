//! A PCI function from probe to removal.
//!
//! A [`Function`] lives from probe to removal. In between it is *attached* most of the time: its
//! BARs are mapped, its vectors requested, the driver core runs, and an Ethernet interface and an
//! RDMA device exist. A reset from outside, an error of the bus or a fatal error of the device
//! detaches it, which takes both devices away from their users as a removal would, and attaches it
//! again.
//!
//! A check of the registers every second finds a device that has failed without a word.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::c_int;
use core::ptr::{NonNull, null_mut};

use vrnic_driver::abi::eqe::EventType;
use vrnic_driver::abi::pci;
use vrnic_driver::{AsyncEvent, Config, Driver, Health, Level};

use crate::bindings;
use crate::interrupts::{Interrupts, Listener, Part, Vectors};
use crate::kernel::Errno;
use crate::kernel::errno::{ENODEV, ENOMEM};
use crate::kernel::lock::Mutex;
use crate::kernel::log;
use crate::kernel::work::Work;
use crate::net;
use crate::platform::{Bars, Kernel};
use crate::remains::Remains;
use crate::verbs;

/// Milliseconds between looks at the registers.
const HEALTH_PERIOD: u64 = 1000;
/// Times in a row that a function is brought up again before it is left alone.
const RECOVERIES: u32 = 5;

/// What the two devices of a function share.
pub(crate) struct Nic {
    /// The driver core.
    pub(crate) driver: Driver<Kernel>,
    /// The function.
    pub(crate) pdev: *mut bindings::pci_dev,
    /// Vectors and listeners.
    pub(crate) interrupts: Arc<Interrupts>,
    /// What the device may still use. After the driver: it is dropped when that was reset.
    pub(crate) remains: Remains,
}

// SAFETY: the PCI device outlives its driver.
unsafe impl Send for Nic {}
// SAFETY: as above.
unsafe impl Sync for Nic {}

impl Nic {
    /// The device that DMA memory belongs to.
    pub(crate) fn device(&self) -> *mut bindings::device {
        self.driver.platform().device()
    }

    /// Logs a line.
    pub(crate) fn log(&self, level: Level, text: core::fmt::Arguments<'_>) {
        self.driver.platform().print(level, text);
    }
}

/// A function whose memory decoding, bus mastering and BARs are ours.
struct Resources {
    pdev: *mut bindings::pci_dev,
    bars: Bars,
}

impl Resources {
    /// # Safety
    /// `pdev` is a PCI device that outlives the value, and nobody else uses it.
    unsafe fn acquire(pdev: *mut bindings::pci_dev) -> Result<Self, Errno> {
        // SAFETY: by the contract of this function.
        unsafe {
            Errno::check(bindings::pci_enable_device_mem(pdev))?;
            let bars = Self::map(pdev).inspect_err(|_| bindings::pci_disable_device(pdev))?;
            bindings::pci_set_master(pdev);
            let this = Self { pdev, bars };
            Errno::check(bindings::vrnic_set_dma_mask(pdev))?;
            Ok(this)
        }
    }

    /// # Safety
    /// As for [`Self::acquire`].
    unsafe fn map(pdev: *mut bindings::pci_dev) -> Result<Bars, Errno> {
        // SAFETY: as for the function. The lengths are 0, which means all of a BAR.
        unsafe {
            Errno::check(bindings::pci_request_regions(pdev, c"vrnic".as_ptr()))?;
            let registers = bindings::pci_iomap(pdev, i32::from(pci::BAR_REGISTERS), 0);
            let doorbells = bindings::pci_iomap(pdev, i32::from(pci::BAR_DOORBELLS), 0);
            match (
                NonNull::new(registers.cast()),
                NonNull::new(doorbells.cast()),
            ) {
                (Some(registers), Some(doorbells)) => Ok(Bars {
                    registers,
                    doorbells,
                }),
                _ => {
                    for bar in [registers, doorbells] {
                        if !bar.is_null() {
                            bindings::pci_iounmap(pdev, bar);
                        }
                    }
                    bindings::pci_release_regions(pdev);
                    Err(ENOMEM)
                }
            }
        }
    }
}

impl Drop for Resources {
    fn drop(&mut self) {
        // SAFETY: acquired above; the device no longer does DMA or is asked to.
        unsafe {
            bindings::pci_clear_master(self.pdev);
            bindings::pci_iounmap(self.pdev, self.bars.registers.as_ptr().cast());
            bindings::pci_iounmap(self.pdev, self.bars.doorbells.as_ptr().cast());
            bindings::pci_release_regions(self.pdev);
            bindings::pci_disable_device(self.pdev);
        }
    }
}

/// An attached function. Fields are dropped in the order in which they stand.
struct Attached {
    verbs: Option<verbs::Device>,
    net: Option<net::Interface>,
    nic: Arc<Nic>,
    vectors: Vectors,
    _resources: Resources,
}

/// What may be done to the function by one task at a time.
#[derive(Default)]
struct State {
    attached: Option<Attached>,
    /// Recoveries since the device was last found in good health.
    recoveries: u32,
    /// It is being reset or removed by somebody else: leave it alone.
    suspended: bool,
}

/// A function that the driver is bound to. It stays where it is.
struct Function {
    pdev: *mut bindings::pci_dev,
    state: Mutex<State>,
    health: Work,
}

// SAFETY: the PCI device outlives its driver.
unsafe impl Sync for Function {}

impl Listener for Function {
    fn event(&self, event: &AsyncEvent) {
        if event.event == EventType::DeviceFatal {
            self.health.schedule(0);
        }
    }
}

impl Function {
    /// # Safety
    /// `pdev` is a PCI device that outlives the value.
    unsafe fn new(pdev: *mut bindings::pci_dev) -> Box<Self> {
        let function = Box::new(Self {
            pdev,
            state: Mutex::new(State::default()),
            health: Work::new(),
        });
        // SAFETY: in its place, and nobody has it yet.
        unsafe { function.health.init(check_health) };
        function
    }

    fn log(&self, level: Level, text: core::fmt::Arguments<'_>) {
        // SAFETY: it is a device.
        unsafe { log::log(&raw const (*self.pdev).dev, level, text) };
    }

    fn bring_up(&self) -> Result<Attached, Errno> {
        // SAFETY: the function is bound to this driver, and nobody else uses it.
        let resources = unsafe { Resources::acquire(self.pdev)? };
        // SAFETY: it is enabled.
        let vectors = unsafe { Vectors::request(self.pdev)? };
        let interrupts = Arc::clone(vectors.shared());
        // SAFETY: device and BARs outlive the driver, by the order of fields in `Attached`.
        let platform = unsafe {
            let device = &raw mut (*self.pdev).dev;
            Kernel::new(device, resources.bars, Arc::clone(&interrupts))
        };
        let config = Config {
            completion_eqs: interrupts.count() - 1,
            ..Config::default()
        };
        let driver = Driver::probe(platform, config).map_err(|error| {
            self.log(Level::Error, format_args!("{error}"));
            Errno::from(error)
        })?;
        let nic = Arc::new(Nic {
            driver,
            pdev: self.pdev,
            interrupts,
            remains: Remains::new(self.pdev),
        });
        // SAFETY: both live until `take_down` has ended the use of them.
        unsafe {
            nic.interrupts.publish(&nic.driver);
            nic.interrupts.listen(Part::Function, self);
        }
        Ok(Attached {
            verbs: None,
            net: None,
            nic,
            vectors,
            _resources: resources,
        })
    }

    /// Brings the function and its two devices up.
    fn attach(&self, state: &mut State) -> Result<(), Errno> {
        if state.attached.is_some() {
            return Ok(());
        }
        let mut attached = self.bring_up()?;
        let devices = net::Interface::new(&attached.nic).and_then(|net| {
            let net = attached.net.insert(net);
            attached.verbs = Some(verbs::Device::new(&attached.nic, net)?);
            Ok(())
        });
        if let Err(errno) = devices {
            self.log(
                Level::Error,
                format_args!("cannot register devices: error {}", errno.get()),
            );
            self.take_down(attached);
            return Err(errno);
        }
        state.attached = Some(attached);
        self.health.schedule(HEALTH_PERIOD);
        Ok(())
    }

    /// Takes both devices from their users and resets the function.
    fn detach(&self, state: &mut State) {
        if let Some(attached) = state.attached.take() {
            self.take_down(attached);
        }
    }

    /// Leaves the function to somebody else.
    fn suspend(&self) {
        self.state.with(|state| {
            state.suspended = true;
            self.detach(state);
        });
        self.health.cancel();
    }

    /// Takes it back.
    fn resume(&self) -> Result<(), Errno> {
        self.state.with(|state| {
            state.suspended = false;
            self.attach(state)
        })
    }

    fn take_down(&self, mut attached: Attached) {
        let driver = &attached.nic.driver;
        if !matches!(driver.health(), Health::Good(_)) || driver.is_lost() {
            // Nobody waits for a device that does not answer: commands fail, and consumers see what
            // they have posted flushed.
            driver.set_lost();
            attached.nic.interrupts.signal().raise();
            attached.nic.interrupts.flush_lost(driver);
        }
        drop(attached.verbs.take());
        drop(attached.net.take());
        let interrupts = Arc::clone(attached.vectors.shared());
        interrupts.ignore(Part::Function);
        interrupts.retract();
        // The devices are gone, and with them all objects of the driver, which resets the function
        // when it is dropped.
        debug_assert!(Arc::strong_count(&attached.nic) == 1);
        drop(attached);
    }

    /// Looks at the registers; a function that has failed is brought up again.
    fn check(&self) {
        let again = self.state.with(|state| {
            if state.suspended {
                return false;
            }
            let failed = match &state.attached {
                // Attaching has failed before.
                None => true,
                Some(attached) => {
                    let health = attached.nic.driver.health();
                    let good = matches!(health, Health::Good(_));
                    !good || attached.nic.driver.is_lost()
                }
            };
            if !failed {
                state.recoveries = 0;
                return true;
            }
            self.recover(state)
        });
        if again {
            self.health.schedule(HEALTH_PERIOD);
        }
    }

    /// True if it is worth looking again.
    fn recover(&self, state: &mut State) -> bool {
        state.recoveries += 1;
        if state.recoveries > RECOVERIES {
            self.detach(state);
            self.log(Level::Error, format_args!("the device stays out of order"));
            return false;
        }
        self.log(
            Level::Warning,
            format_args!("the device has failed: starting over"),
        );
        self.detach(state);
        // Its failure is in the log, and it is tried again.
        let _ = self.attach(state);
        true
    }
}

/// The function that is bound to a PCI device; `None` if there is none.
///
/// # Safety
/// `pdev` is a PCI device of this driver, and not being removed meanwhile.
unsafe fn function<'a>(pdev: *mut bindings::pci_dev) -> Option<&'a Function> {
    // SAFETY: what `vrnic_probe` has stored.
    unsafe {
        bindings::vrnic_get_drvdata(pdev)
            .cast::<Function>()
            .as_ref()
    }
}

unsafe extern "C" fn check_health(work: *mut bindings::work_struct) {
    let offset = core::mem::offset_of!(Function, health);
    // SAFETY: the work is part of a function, which cancels it before it is dropped.
    let function = unsafe { &*Work::from_raw(work).byte_sub(offset).cast::<Function>() };
    function.check();
}

/// The driver's `probe`.
#[unsafe(no_mangle)]
unsafe extern "C" fn vrnic_probe(
    pdev: *mut bindings::pci_dev,
    _id: *const bindings::pci_device_id,
) -> c_int {
    // SAFETY: the kernel's PCI device, until it calls `vrnic_remove`.
    let function = unsafe { Function::new(pdev) };
    let result = function.resume();
    match result {
        Ok(()) => {
            let function = Box::into_raw(function);
            // SAFETY: as above.
            unsafe { bindings::vrnic_set_drvdata(pdev, function.cast()) };
        }
        Err(_) => function.health.cancel(),
    }
    Errno::of(result)
}

/// The driver's `remove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn vrnic_remove(pdev: *mut bindings::pci_dev) {
    // SAFETY: what `vrnic_probe` has stored, and nobody else removes it.
    let function = unsafe {
        let function = bindings::vrnic_get_drvdata(pdev).cast::<Function>();
        bindings::vrnic_set_drvdata(pdev, null_mut());
        if function.is_null() {
            return;
        }
        Box::from_raw(function)
    };
    function.suspend();
}

/// The driver's `shutdown`: the device must be silent when the next kernel starts.
#[unsafe(no_mangle)]
unsafe extern "C" fn vrnic_shutdown(pdev: *mut bindings::pci_dev) {
    // SAFETY: the same as for a removal, which does not come any more.
    unsafe { vrnic_remove(pdev) };
}

/// Before a reset of the function by somebody else.
#[unsafe(no_mangle)]
unsafe extern "C" fn vrnic_reset_prepare(pdev: *mut bindings::pci_dev) {
    // SAFETY: the kernel holds the device's lock, so that it is not removed.
    if let Some(function) = unsafe { function(pdev) } {
        function.suspend();
    }
}

/// After it.
#[unsafe(no_mangle)]
unsafe extern "C" fn vrnic_reset_done(pdev: *mut bindings::pci_dev) {
    // SAFETY: as above.
    if let Some(function) = unsafe { function(pdev) } {
        // What fails is in the log.
        let _ = function.resume();
    }
}

/// An error on the bus.
#[unsafe(no_mangle)]
unsafe extern "C" fn vrnic_error_detected(
    pdev: *mut bindings::pci_dev,
    state: bindings::pci_channel_state_t,
) -> bindings::pci_ers_result_t {
    // SAFETY: as above.
    unsafe { vrnic_reset_prepare(pdev) };
    if state == bindings::VRNIC_IO_PERM_FAILURE {
        bindings::PCI_ERS_RESULT_DISCONNECT
    } else {
        bindings::PCI_ERS_RESULT_NEED_RESET
    }
}

/// After the bus was reset.
#[unsafe(no_mangle)]
unsafe extern "C" fn vrnic_slot_reset(pdev: *mut bindings::pci_dev) -> bindings::pci_ers_result_t {
    // SAFETY: as above.
    let result = match unsafe { function(pdev) } {
        Some(function) => function.resume(),
        None => Err(ENODEV),
    };
    match result {
        Ok(()) => bindings::PCI_ERS_RESULT_RECOVERED,
        Err(_) => bindings::PCI_ERS_RESULT_DISCONNECT,
    }
}
