//! A PCI function from probe to removal.
//!
//! A [`Function`] lives from probe to removal. In between it is *attached* most of the time: its
//! BARs are mapped, its vectors requested, the driver core runs, and an Ethernet interface and an
//! RDMA device exist. A reset from outside, an error of the bus or a fatal error of the device
//! detaches it, which takes both devices away from their users as a removal would, and attaches it
//! again.
//!
//! Two work items look after it. The *watch* looks at the registers every second, from the driver's
//! first moment to its last, and gives a device up that has failed with or without a word. It takes
//! no lock, so that whoever waits for completions of a device that fails just then, as a removal
//! does, sees them flushed. The *recovery* then detaches and attaches; of a device that does not even
//! say who it is nothing is left to attach, until it is removed or reset by somebody else. One that the
//! operator has taken out of service is tried, in silence, until it is back.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::c_int;
use core::mem::offset_of;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use vrnic_driver::abi::eqe::EventType;
use vrnic_driver::abi::registers::HealthCode;
use vrnic_driver::{AsyncEvent, Config, Driver, Error, Health, Level};

use crate::bindings;
use crate::devlink::Devlink;
use crate::family::Family;
use crate::interrupts::{Interrupts, Listener, Part, Vectors};
use crate::kernel::Errno;
use crate::kernel::errno::{EINVAL, ENODEV};
use crate::kernel::lock::Mutex;
use crate::kernel::log;
use crate::kernel::work::Work;
use crate::net;
use crate::platform::Kernel;
use crate::remains::Remains;
use crate::resources::Resources;
use crate::sriov;
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

    /// Whether the device works, as far as its registers and the driver know.
    fn is_good(&self) -> bool {
        matches!(self.driver.health(), Health::Good(_)) && !self.driver.is_lost()
    }

    /// From now on nobody waits for the device: commands fail, and consumers see what they have
    /// posted flushed. Sleepable context.
    fn give_up(&self) {
        self.driver.set_lost();
        self.interrupts.signal().raise();
        self.interrupts.flush_lost(&self.driver);
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
    /// Who resets or removes it: leave it alone.
    suspended: [bool; 2],
}

impl State {
    fn is_suspended(&self) -> bool {
        self.suspended != [false; 2]
    }
}

/// By whom a function is suspended.
#[derive(Clone, Copy)]
pub(crate) enum By {
    /// The kernel.
    Kernel,
    /// The physical function, which is reset.
    Family,
}

/// A function that the driver is bound to. It stays where it is.
pub(crate) struct Function {
    pdev: *mut bindings::pci_dev,
    /// Its virtual functions; none for a virtual one.
    family: Arc<Family>,
    /// Those that it is one of, if it is a virtual one.
    joined: Option<Arc<Family>>,
    devlink: Devlink,
    state: Mutex<State>,
    /// What the watch looks at; null if there is nothing.
    watched: AtomicPtr<Nic>,
    watch: Work,
    recovery: Work,
    /// Recoveries since the device was last found in good health.
    recoveries: AtomicU32,
    /// The operator has taken the device out of service, when it was last tried to bring it up.
    out_of_service: AtomicBool,
}

// SAFETY: the PCI device outlives its driver.
unsafe impl Sync for Function {}

impl Listener for Function {
    fn event(&self, event: &AsyncEvent) {
        if event.event == EventType::DeviceFatal {
            self.watch.schedule(0);
        }
    }
}

impl Function {
    /// # Safety
    /// `pdev` is a PCI device that outlives the value.
    unsafe fn new(pdev: *mut bindings::pci_dev) -> Result<Box<Self>, Errno> {
        // SAFETY: by the contract of this function.
        let devlink = unsafe { Devlink::new(pdev)? };
        // SAFETY: it is a device. A physical function's driver does not go before the virtual ones
        // have gone.
        let physical = unsafe {
            bindings::vrnic_get_physical_drvdata(pdev)
                .cast::<Self>()
                .as_ref()
        };
        let function = Box::new(Self {
            pdev,
            family: Arc::new(Family::new()),
            joined: physical.map(|physical| Arc::clone(&physical.family)),
            devlink,
            state: Mutex::new(State::default()),
            watched: AtomicPtr::new(null_mut()),
            watch: Work::new(),
            recovery: Work::new(),
            recoveries: AtomicU32::new(0),
            out_of_service: AtomicBool::new(false),
        });
        // SAFETY: in their place, and nobody has them yet.
        unsafe {
            function.watch.init(watch);
            function.recovery.init(recover);
        }
        if let Some(joined) = &function.joined {
            // SAFETY: it is in a box, and `end` comes before that is dropped.
            unsafe { joined.join(&function) };
        }
        Ok(function)
    }

    /// Asks the driver while the function is attached. Sleepable context.
    #[cfg(kernel = "devlink")]
    pub(crate) fn ask<T>(
        &self,
        question: impl FnOnce(&Driver<Kernel>) -> Result<T, Error>,
    ) -> Result<T, Errno> {
        self.state.with(|state| {
            let attached = state.attached.as_ref().ok_or(ENODEV)?;
            Ok(question(&attached.nic.driver)?)
        })
    }

    /// The device's serial number, as PCI Express has it.
    #[cfg(kernel = "devlink")]
    pub(crate) fn serial_number(&self) -> u64 {
        // SAFETY: it is a device.
        unsafe { bindings::pci_get_dsn(self.pdev) }
    }

    fn log(&self, level: Level, text: core::fmt::Arguments<'_>) {
        // SAFETY: it is a device.
        unsafe { log::log(&raw const (*self.pdev).dev, level, text) };
    }

    /// Resources, vectors and driver. In a frame of its own, as the devices are registered in: what
    /// the kernel does then is deep enough.
    #[inline(never)]
    fn bring_up(&self) -> Result<Attached, Errno> {
        // SAFETY: the function is bound to this driver, and nobody else uses it.
        let resources = unsafe { Resources::acquire(self.pdev)? };
        // SAFETY: it is enabled.
        let vectors = unsafe { Vectors::request(self.pdev)? };
        let interrupts = Arc::clone(vectors.shared());
        // SAFETY: device and BARs outlive the driver, by the order of fields in `Attached`.
        let platform = unsafe {
            let device = &raw mut (*self.pdev).dev;
            Kernel::new(device, resources.bars(), Arc::clone(&interrupts))
        };
        let config = Config {
            completion_eqs: interrupts.count() - 1,
            ..Config::default()
        };
        let driver = Driver::probe(platform, config).map_err(|error| {
            let out = is_out_of_service(&error);
            // It is said once, and tried until the operator puts the device back.
            if !self.out_of_service.swap(out, Ordering::Relaxed) || !out {
                self.log(Level::Error, format_args!("{error}"));
            }
            Errno::from(error)
        })?;
        self.out_of_service.store(false, Ordering::Relaxed);
        // For a reset of its bus. Each time, as the kernel uses up what was saved when it resets the
        // function by itself.
        // SAFETY: it is a device, and answers.
        Errno::check(unsafe { bindings::pci_save_state(self.pdev) })?;
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
        let watched = Arc::as_ptr(&nic).cast_mut();
        self.watched.store(watched, Ordering::Release);
        self.watch.schedule(HEALTH_PERIOD);
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
        Ok(())
    }

    /// Takes both devices from their users and resets the function.
    fn detach(&self, state: &mut State) {
        if let Some(attached) = state.attached.take() {
            self.take_down(attached);
        }
    }

    /// Leaves the function to somebody else.
    pub(crate) fn suspend(&self, by: By) {
        self.state.with(|state| {
            state.suspended[by as usize] = true;
            self.detach(state);
        });
        self.recovery.cancel();
    }

    /// Takes it back, unless somebody else still has it.
    fn resume(&self, by: By) -> Result<(), Errno> {
        self.state.with(|state| {
            state.suspended[by as usize] = false;
            match state.is_suspended() {
                true => Ok(()),
                false => self.attach(state),
            }
        })
    }

    /// The same; what fails is in the log, and is tried again.
    pub(crate) fn resume_or_recover(&self, by: By) {
        if self.resume(by).is_err() {
            self.recovery.schedule(HEALTH_PERIOD);
        }
    }

    /// Takes the virtual functions back, after a reset of this physical one.
    fn restore_family(&self) {
        // SAFETY: the device's lock is held whenever somebody else resets it.
        if let Err(errno) = unsafe { sriov::restore(self.pdev) } {
            self.log(
                Level::Error,
                format_args!("cannot map virtual functions: error {}", errno.get()),
            );
        }
        self.family.resume();
    }

    /// Leaves it for good.
    fn end(&self) {
        if let Some(joined) = &self.joined {
            joined.leave(self);
        }
        self.suspend(By::Kernel);
    }

    fn take_down(&self, mut attached: Attached) {
        if !attached.nic.is_good() {
            attached.nic.give_up();
        }
        drop(attached.verbs.take());
        drop(attached.net.take());
        let interrupts = Arc::clone(attached.vectors.shared());
        interrupts.ignore(Part::Function);
        self.watched.store(null_mut(), Ordering::Release);
        self.watch.cancel();
        interrupts.retract();
        // The devices are gone, and with them all objects of the driver, which resets the function
        // when it is dropped.
        debug_assert!(Arc::strong_count(&attached.nic) == 1);
        drop(attached);
    }

    /// Looks at the registers; a device that has failed is given up. The watch.
    fn look(&self) {
        // SAFETY: `take_down` waits for the watch before it drops what is watched.
        let Some(nic) = (unsafe { self.watched.load(Ordering::Acquire).as_ref() }) else {
            return;
        };
        if nic.is_good() {
            self.recoveries.store(0, Ordering::Relaxed);
            self.watch.schedule(HEALTH_PERIOD);
        } else {
            nic.give_up();
            self.recovery.schedule(0);
        }
    }

    /// Brings a function up again that has failed. The recovery.
    fn recover(&self) {
        // Whoever has the state is taking the function down, or has just brought it up.
        let again = self.state.try_with(|state| {
            let good = state.attached.as_ref().is_some_and(|at| at.nic.is_good());
            !state.is_suspended() && !good && self.start_over(state)
        });
        if again.unwrap_or(true) {
            self.recovery.schedule(HEALTH_PERIOD);
        }
    }

    /// True if it is worth trying again.
    fn start_over(&self, state: &mut State) -> bool {
        let waits = self.out_of_service.load(Ordering::Relaxed);
        if !waits && self.recoveries.fetch_add(1, Ordering::Relaxed) >= RECOVERIES {
            self.detach(state);
            self.log(Level::Error, format_args!("the device stays out of order"));
            return false;
        }
        // SAFETY: it is a device.
        if !unsafe { bindings::pci_device_is_present(self.pdev) } {
            self.detach(state);
            self.log(Level::Warning, format_args!("the device is gone"));
            return false;
        }
        if !waits {
            self.log(
                Level::Warning,
                format_args!("the device has failed: starting over"),
            );
        }
        self.detach(state);
        // Its failure is in the log.
        self.attach(state).is_err()
    }
}

/// Whether the operator has taken the device out of service (datasheet, HEALTH_CODE).
fn is_out_of_service(error: &Error) -> bool {
    let disabled = u32::from(HealthCode::Disabled.raw());
    matches!(error, Error::DeviceFailed { code, .. } if *code == disabled)
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

/// The function that a work item is part of.
///
/// # Safety
/// The item stands at `offset` in a function, which cancels it before it is dropped.
unsafe fn owner<'a>(work: *mut bindings::work_struct, offset: usize) -> &'a Function {
    // SAFETY: by the contract of this function.
    unsafe { &*Work::from_raw(work).byte_sub(offset).cast::<Function>() }
}

/// # Safety
/// A work queue runs it, in process context, on the item `watch` of a function, which cancels it
/// before it is dropped.
unsafe extern "C" fn watch(work: *mut bindings::work_struct) {
    // SAFETY: initialized with this function.
    unsafe { owner(work, offset_of!(Function, watch)) }.look();
}

/// # Safety
/// As for [`watch`], on the item `recovery`.
unsafe extern "C" fn recover(work: *mut bindings::work_struct) {
    // SAFETY: initialized with this function.
    unsafe { owner(work, offset_of!(Function, recovery)) }.recover();
}

/// The driver's `probe`.
///
/// # Safety
/// The PCI core binds a device of `vrnic_ids`: `pdev` is enabled by nobody else, and its lock is
/// held.
#[unsafe(no_mangle)]
unsafe extern "C" fn vrnic_probe(
    pdev: *mut bindings::pci_dev,
    _id: *const bindings::pci_device_id,
) -> c_int {
    // SAFETY: the kernel's PCI device, until it calls `vrnic_remove`.
    let function = match unsafe { Function::new(pdev) } {
        Ok(function) => function,
        Err(errno) => return errno.get(),
    };
    let result = function.resume(By::Kernel);
    match result {
        Ok(()) => {
            let function = Box::into_raw(function);
            // SAFETY: as above.
            unsafe {
                bindings::vrnic_set_drvdata(pdev, function.cast());
                (*function).devlink.register(&*function);
            }
        }
        Err(_) => function.end(),
    }
    Errno::of(result)
}

/// The driver's `remove`.
///
/// # Safety
/// The PCI core unbinds the device, with its lock held, after a `vrnic_probe` that succeeded.
#[unsafe(no_mangle)]
unsafe extern "C" fn vrnic_remove(pdev: *mut bindings::pci_dev) {
    // SAFETY: by the contract of this function. Virtual functions go first, if there are any; then
    // nobody else has what `vrnic_probe` has stored.
    let function = unsafe {
        if let Some(function) = function(pdev) {
            function.devlink.unregister();
            // Without any, it does not fail.
            let _ = function.devlink.set_ports(pdev, 0);
        }
        sriov::disable(pdev);
        let function = bindings::vrnic_get_drvdata(pdev).cast::<Function>();
        bindings::vrnic_set_drvdata(pdev, null_mut());
        Box::from_raw(function)
    };
    function.end();
}

/// The driver's `shutdown`: the device must be silent when the next kernel starts. So must virtual
/// functions, which are shut down as devices of their own.
///
/// # Safety
/// The PCI core shuts the device down, with its lock held.
#[unsafe(no_mangle)]
unsafe extern "C" fn vrnic_shutdown(pdev: *mut bindings::pci_dev) {
    // SAFETY: the kernel holds the device's lock, so that it is not removed.
    if let Some(function) = unsafe { function(pdev) } {
        function.suspend(By::Kernel);
    }
}

/// Before a reset of the function by somebody else.
///
/// # Safety
/// The PCI core calls it for a device of this driver, with its lock held, so that it is not removed
/// meanwhile.
#[unsafe(no_mangle)]
unsafe extern "C" fn vrnic_reset_prepare(pdev: *mut bindings::pci_dev) {
    // SAFETY: the kernel holds the device's lock, so that it is not removed.
    if let Some(function) = unsafe { function(pdev) } {
        function.family.suspend();
        function.suspend(By::Kernel);
    }
}

/// After it.
///
/// # Safety
/// As for [`vrnic_reset_prepare`], after which it comes.
#[unsafe(no_mangle)]
unsafe extern "C" fn vrnic_reset_done(pdev: *mut bindings::pci_dev) {
    // SAFETY: as above.
    if let Some(function) = unsafe { function(pdev) } {
        function.restore_family();
        function.resume_or_recover(By::Kernel);
    }
}

/// An error on the bus.
///
/// # Safety
/// Called by the recovery from PCI errors for a device of this driver, with its lock held.
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

/// After the bus was reset. Unlike with other resets, configuration space is the driver's to restore
/// (Documentation/PCI/pci-error-recovery.rst, step 4), with SR-IOV, before virtual functions.
///
/// # Safety
/// As for [`vrnic_error_detected`], after which it comes.
#[unsafe(no_mangle)]
unsafe extern "C" fn vrnic_slot_reset(pdev: *mut bindings::pci_dev) -> bindings::pci_ers_result_t {
    // SAFETY: as above. What was saved when the function was brought up last.
    unsafe { bindings::pci_restore_state(pdev) };
    // SAFETY: as above.
    let result = match unsafe { function(pdev) } {
        Some(function) => {
            function.restore_family();
            function.resume(By::Kernel)
        }
        None => Err(ENODEV),
    };
    match result {
        Ok(()) => bindings::PCI_ERS_RESULT_RECOVERED,
        Err(_) => bindings::PCI_ERS_RESULT_DISCONNECT,
    }
}

/// What an administrator writes to `sriov_numvfs`: so many virtual functions, if there are none, or
/// none.
///
/// # Safety
/// The PCI core calls it for a device of this driver, with its lock held.
#[unsafe(no_mangle)]
unsafe extern "C" fn vrnic_sriov_configure(pdev: *mut bindings::pci_dev, count: c_int) -> c_int {
    // SAFETY: the kernel holds the device's lock, so that it is not removed.
    let function = unsafe { function(pdev) };
    let result = u16::try_from(count).map_err(|_| EINVAL).and_then(|count| {
        let function = function.ok_or(ENODEV)?;
        // SAFETY: as above.
        unsafe {
            function.devlink.set_ports(pdev, count)?;
            sriov::configure(pdev, count).inspect_err(|_| {
                // Without any, it does not fail.
                let _ = function.devlink.set_ports(pdev, 0);
            })
        }
    });
    match Errno::of(result) {
        0 => count,
        errno => errno,
    }
}
