//! MSI-X vectors and their handlers.
//!
//! A handler does all of its work in interrupt context: it drains the queues that its vector
//! announces and tells the owners, who poll elsewhere. Vector 0 carries commands and asynchronous
//! events, the others completions; a function that has only one vector has it for all of them.
//!
//! Order of events: vectors are requested before the driver exists, as its first commands need
//! them; [`Interrupts::publish`] lets handlers reach it, [`Interrupts::retract`] ends that, and when
//! that returns no handler is using it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use vrnic_driver::{AsyncEvent, Driver};

use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::lock::Mutex;
use crate::kernel::wait::Signal;
use crate::platform::Kernel;

/// Completion vectors at most; more would not make a software device faster.
const MOST: u32 = 8;

/// Who hears of asynchronous events.
pub(crate) trait Listener: Sync {
    /// The device says that something happened. Interrupt context.
    fn event(&self, event: &AsyncEvent);

    /// The Ethernet interface has come up or gone down: by the administrator, or by its link.
    /// Sleepable context.
    fn interface_changed(&self) {}
}

/// Who listens, as long as the value is registered.
struct Seat(AtomicPtr<&'static dyn Listener>);

/// Part of the driver that listens.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    /// Recovery from fatal errors.
    Function,
    /// The Ethernet interface.
    Net,
    /// The RDMA device.
    Verbs,
}

/// What handlers share.
pub(crate) struct Interrupts {
    pdev: *mut bindings::pci_dev,
    count: u16,
    signal: Signal,
    driver: AtomicPtr<Driver<Kernel>>,
    listeners: [Seat; 3],
    /// Held by a task that does what handlers do.
    handling: Mutex<()>,
}

// SAFETY: the device outlives the value; everything else synchronizes itself.
unsafe impl Send for Interrupts {}
// SAFETY: as above.
unsafe impl Sync for Interrupts {}

impl Interrupts {
    /// The function.
    pub(crate) fn pdev(&self) -> *mut bindings::pci_dev {
        self.pdev
    }

    /// Number of vectors, at least 1.
    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    /// Raised by vector 0, and when the function is given up.
    pub(crate) fn signal(&self) -> &Signal {
        &self.signal
    }

    /// Tells all who listen. Interrupt context.
    pub(crate) fn tell(&self, event: &AsyncEvent) {
        // SAFETY: `ignore` waits for handlers.
        unsafe { self.each(|listener| listener.event(event)) };
    }

    /// Tells them about the Ethernet interface. Sleepable context.
    pub(crate) fn tell_interface(&self) {
        // SAFETY: `ignore` waits for whoever holds this.
        self.handling.with(|()| unsafe {
            self.each(|listener| listener.interface_changed());
        });
    }

    /// # Safety
    /// [`Self::ignore`] waits for the caller.
    unsafe fn each(&self, act: impl Fn(&dyn Listener)) {
        for seat in &self.listeners {
            let listener = seat.0.load(Ordering::Acquire);
            // SAFETY: not null means registered, and it stays so until the caller is done.
            if let Some(listener) = unsafe { listener.as_ref() } {
                act(*listener);
            }
        }
    }

    /// Registers a listener.
    ///
    /// # Safety
    /// It lives until [`Self::ignore`] was called.
    pub(crate) unsafe fn listen(&self, part: Part, listener: &dyn Listener) {
        // SAFETY: by the contract of this function it lives as long as anybody uses it.
        let listener: &'static dyn Listener = unsafe { core::mem::transmute(listener) };
        let seat = &self.listeners[part as usize].0;
        let old = seat.swap(Box::into_raw(Box::new(listener)), Ordering::AcqRel);
        debug_assert!(old.is_null());
    }

    /// Ends a registration; nobody uses the listener when it returns. Sleepable context.
    pub(crate) fn ignore(&self, part: Part) {
        let seat = &self.listeners[part as usize].0;
        let old = seat.swap(null_mut(), Ordering::AcqRel);
        if !old.is_null() {
            self.synchronize(0);
            // SAFETY: made by `listen`, and no handler has it any more.
            drop(unsafe { Box::from_raw(old) });
        }
    }

    /// Tells the consumers of a lost function, as its handlers would: see [`Driver::flush_lost`].
    /// Sleepable context.
    pub(crate) fn flush_lost(&self, driver: &Driver<Kernel>) {
        // Whom to tell is looked up before they are told. What was looked up must not be freed
        // meanwhile, so those who destroy wait for this, as they do for handlers.
        self.handling.with(|()| {
            // SAFETY: a task that may sleep until here. Consumers raise softirqs, as in a handler:
            // a task must see to it that they run.
            unsafe { bindings::vrnic_bh_disable() };
            driver.flush_lost();
            // SAFETY: disabled above.
            unsafe { bindings::vrnic_bh_enable() };
        });
    }

    /// Waits until the handlers of `vector` that are running have returned, and whoever does the
    /// same in their place. Sleepable context.
    pub(crate) fn synchronize(&self, vector: u16) {
        self.handling.with(|()| ());
        // SAFETY: the vectors are allocated for as long as handlers can run.
        unsafe {
            let irq = bindings::pci_irq_vector(self.pdev, u32::from(vector));
            if let Ok(irq) = u32::try_from(irq) {
                bindings::synchronize_irq(irq);
            }
        }
    }

    /// Lets handlers use the driver, and makes up for those that came too early.
    ///
    /// # Safety
    /// `driver` lives until [`Self::retract`] has returned.
    pub(crate) unsafe fn publish(&self, driver: &Driver<Kernel>) {
        let driver = core::ptr::from_ref(driver).cast_mut();
        self.driver.store(driver, Ordering::SeqCst);
        for vector in 0..self.count {
            // SAFETY: as a handler would. No queue exists yet whose owner could be told twice.
            unsafe { (*driver).handle_interrupt(vector) };
        }
    }

    /// Keeps handlers from the driver. Sleepable context.
    pub(crate) fn retract(&self) {
        self.driver.store(null_mut(), Ordering::SeqCst);
        (0..self.count).for_each(|vector| self.synchronize(vector));
    }

    fn handle(&self, vector: u16) {
        let driver = self.driver.load(Ordering::SeqCst);
        // SAFETY: not null means published, and `retract` waits for this handler.
        if let Some(driver) = unsafe { driver.as_ref() } {
            driver.handle_interrupt(vector);
        }
        if vector == 0 {
            self.signal.raise();
        }
    }
}

/// One vector, as its handler gets it.
struct Vector {
    shared: Arc<Interrupts>,
    number: u16,
    irq: u32,
}

/// # Safety
/// The kernel calls it in interrupt context with the data of `vrnic_request_irq`, the [`Vector`],
/// which lives until `free_irq` has returned.
unsafe extern "C" fn handler(_irq: c_int, data: *mut c_void) -> bindings::irqreturn_t {
    // SAFETY: the data that the vector was requested with, which outlives the request.
    let vector = unsafe { &*data.cast::<Vector>() };
    vector.shared.handle(vector.number);
    bindings::IRQ_HANDLED
}

/// The vectors of a function, requested.
pub(crate) struct Vectors {
    pdev: *mut bindings::pci_dev,
    shared: Arc<Interrupts>,
    #[expect(clippy::vec_box, reason = "handlers have pointers to them")]
    vectors: Vec<Box<Vector>>,
}

// SAFETY: the kernel's functions are called in sleepable context, by one task at a time.
unsafe impl Send for Vectors {}

impl Vectors {
    /// Allocates and requests vectors: one for commands, and one for completions per processor, up
    /// to a limit, and to what the function has.
    ///
    /// # Safety
    /// `pdev` is enabled and outlives the value.
    pub(crate) unsafe fn request(pdev: *mut bindings::pci_dev) -> Result<Self, Errno> {
        // SAFETY: by the contract of this function.
        let count = unsafe {
            let most = 1 + bindings::vrnic_processors().clamp(1, MOST);
            let flags = bindings::PCI_IRQ_MSIX;
            let count = bindings::pci_alloc_irq_vectors_affinity(pdev, 1, most, flags, null_mut());
            Errno::check_value(count)?
        };
        let shared = Arc::new(Interrupts {
            pdev,
            count: count as u16,
            signal: Signal::new(),
            driver: AtomicPtr::new(null_mut()),
            listeners: [const { Seat(AtomicPtr::new(null_mut())) }; 3],
            handling: Mutex::new(()),
        });
        let mut vectors = Self {
            pdev,
            shared,
            vectors: Vec::with_capacity(count as usize),
        };
        for number in 0..count as u16 {
            // SAFETY: as above.
            unsafe { vectors.request_one(number)? };
        }
        Ok(vectors)
    }

    /// # Safety
    /// `number` is one of the vectors that were allocated.
    unsafe fn request_one(&mut self, number: u16) -> Result<(), Errno> {
        // SAFETY: by the contract of this function.
        let irq = unsafe { bindings::pci_irq_vector(self.pdev, u32::from(number)) };
        let irq = Errno::check_value(irq)?;
        let mut vector = Box::new(Vector {
            shared: Arc::clone(&self.shared),
            number,
            irq,
        });
        let data = core::ptr::from_mut(&mut *vector).cast();
        // SAFETY: the box stays where it is until the vector was freed.
        let result =
            unsafe { bindings::vrnic_request_irq(irq, Some(handler), c"vrnic".as_ptr(), data) };
        Errno::check(result)?;
        self.vectors.push(vector);
        Ok(())
    }

    /// What handlers share.
    pub(crate) fn shared(&self) -> &Arc<Interrupts> {
        &self.shared
    }
}

impl Drop for Vectors {
    fn drop(&mut self) {
        for vector in &mut self.vectors {
            let data = core::ptr::from_mut(&mut **vector).cast();
            // SAFETY: requested with this data; waits for its handler.
            unsafe { bindings::free_irq(vector.irq, data) };
        }
        // SAFETY: allocated by `request`, and freed above.
        unsafe { bindings::pci_free_irq_vectors(self.pdev) };
    }
}
