//! Asynchronous events (InfiniBand Architecture volume 1, 11.6.3).
//!
//! They arrive in interrupt context, from the registration of the device until just before it ends.
//! Those of the port and of the device go to all clients of the core. Those of objects go to
//! whoever has the object.

use vrnic_driver::AsyncEvent;
use vrnic_driver::abi::eqe::EventType;

use super::device::{PORT, Shared};
use crate::bindings;
use crate::interrupts::Listener;

impl Listener for Shared {
    fn event(&self, event: &AsyncEvent) {
        match event.event {
            // The Ethernet interface hears of these, too, and says what comes of it.
            EventType::PortUp | EventType::PortDown => {}
            EventType::GidChange => self.dispatch(bindings::IB_EVENT_GID_CHANGE),
            EventType::DeviceFatal => self.dispatch(bindings::IB_EVENT_DEVICE_FATAL),
            EventType::CqError => self.tell_cq(event.context),
            EventType::SrqLimit => {
                self.tell_srq(event.context, bindings::IB_EVENT_SRQ_LIMIT_REACHED)
            }
            EventType::SrqError => self.tell_srq(event.context, bindings::IB_EVENT_SRQ_ERR),
            _ => {
                if let Some(kind) = of_queue_pair(event.event) {
                    self.tell_qp(event.context, kind);
                }
            }
        }
    }

    fn interface_changed(&self) {
        self.tell_port_state();
    }
}

/// The kernel's name for an event of a queue pair.
const fn of_queue_pair(event: EventType) -> Option<bindings::ib_event_type> {
    Some(match event {
        EventType::CommunicationEstablished => bindings::IB_EVENT_COMM_EST,
        EventType::SendQueueDrained => bindings::IB_EVENT_SQ_DRAINED,
        EventType::PathMigrated => bindings::IB_EVENT_PATH_MIG,
        EventType::PathMigrationFailed => bindings::IB_EVENT_PATH_MIG_ERR,
        EventType::QpFatal => bindings::IB_EVENT_QP_FATAL,
        EventType::QpRequestError => bindings::IB_EVENT_QP_REQ_ERR,
        EventType::QpAccessError => bindings::IB_EVENT_QP_ACCESS_ERR,
        EventType::LastWqeReached => bindings::IB_EVENT_QP_LAST_WQE_REACHED,
        _ => return None,
    })
}

/// Contexts of objects are the addresses of the core's parts; those who destroy an object wait for
/// handlers before it is gone.
impl Shared {
    fn tell_qp(&self, context: u64, event: bindings::ib_event_type) {
        let qp = context as *mut bindings::ib_qp;
        // SAFETY: the context of a queue pair, or 0.
        unsafe {
            if let Some((handler, context)) = qp
                .as_ref()
                .and_then(|qp| Some((qp.event_handler?, qp.qp_context)))
            {
                let element = bindings::ib_event__bindgen_ty_1 { qp };
                handler(&mut self.event_of(event, element), context);
            }
        }
    }

    fn tell_cq(&self, context: u64) {
        // SAFETY: the context of a completion queue, or 0.
        unsafe {
            let Some(cq) = super::cq::of_context(context) else {
                return;
            };
            if let Some(handler) = (*cq).event_handler {
                let element = bindings::ib_event__bindgen_ty_1 { cq };
                let mut event = self.event_of(bindings::IB_EVENT_CQ_ERR, element);
                handler(&mut event, (*cq).cq_context);
            }
        }
    }

    fn tell_srq(&self, context: u64, event: bindings::ib_event_type) {
        let srq = context as *mut bindings::ib_srq;
        // SAFETY: the context of a shared receive queue, or 0.
        unsafe {
            if let Some((handler, context)) = srq
                .as_ref()
                .and_then(|srq| Some((srq.event_handler?, srq.srq_context)))
            {
                let element = bindings::ib_event__bindgen_ty_1 { srq };
                handler(&mut self.event_of(event, element), context);
            }
        }
    }

    fn event_of(
        &self,
        event: bindings::ib_event_type,
        element: bindings::ib_event__bindgen_ty_1,
    ) -> bindings::ib_event {
        bindings::ib_event {
            device: self.ibdev.as_ptr(),
            element,
            event,
        }
    }
}

impl Shared {
    /// Tells clients if the port is not in the state that they know. It is looked at where no other
    /// caller can come in between, so that what is said last is true. Sleepable context.
    pub(super) fn tell_port_state(&self) {
        self.told_up.with(|told| {
            let up = self.interface_is_up();
            if core::mem::replace(told, up) != up {
                self.dispatch(match up {
                    true => bindings::IB_EVENT_PORT_ACTIVE,
                    false => bindings::IB_EVENT_PORT_ERR,
                });
            }
        });
    }

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
}
