//! Asynchronous events (InfiniBand Architecture volume 1, 11.6.3).
//!
//! They arrive in interrupt context, from the registration of the device until just before it ends.
//! Those of the port and of the device go to all clients of the core. Those of objects go to
//! whoever has the object.

use vrnic_driver::AsyncEvent;
use vrnic_driver::abi::eqe::EventType;
use vrnic_driver::abi::object::PortState;

use super::device::{PORT, Shared};
use crate::bindings;
use crate::interrupts::Listener;

impl Listener for Shared {
    fn event(&self, event: &AsyncEvent) {
        match event.event {
            EventType::PortUp => self.dispatch(bindings::IB_EVENT_PORT_ACTIVE),
            EventType::PortDown => self.dispatch(bindings::IB_EVENT_PORT_ERR),
            EventType::GidChange => self.dispatch(bindings::IB_EVENT_GID_CHANGE),
            EventType::DeviceFatal => self.dispatch(bindings::IB_EVENT_DEVICE_FATAL),
            _ => {}
        }
    }
}

impl Shared {
    /// Tells all clients about the port or the device. Atomic context.
    fn dispatch(&self, event: bindings::ib_event_type) {
        let event = bindings::ib_event {
            device: self.ibdev.as_ptr(),
            element: bindings::ib_event__bindgen_ty_1 { port_num: PORT },
            event,
        };
        // SAFETY: the device is registered, and the core copies the event.
        unsafe { bindings::ib_dispatch_event(&raw const event) };
    }

    /// Tells all clients what state the port is in. Sleepable context.
    pub(super) fn tell_port_state(&self) {
        // A device that does not answer is about to be taken down.
        if let Ok(port) = self.nic.driver.query_port() {
            let active = port.state == PortState::Active.raw();
            self.dispatch(if active {
                bindings::IB_EVENT_PORT_ACTIVE
            } else {
                bindings::IB_EVENT_PORT_ERR
            });
        }
    }
}
