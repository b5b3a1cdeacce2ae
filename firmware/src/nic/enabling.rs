//! Functions that the operator takes out of service and puts back.
//!
//! A function out of service has failed, with a cause of its own, and no driver can enable it again:
//! it can be reset, and fails with the same cause when it is to become READY. So a driver needs to
//! know nothing new, and the rest of the NIC treats the function as any that has failed: peers see
//! one that does not answer, nothing of it is processed, its rules and its address stay.
//!
//! The driver of a physical function can do the same with its virtual functions (`administration`), but
//! puts none back that the operator has taken out.
//!
//! It is in service again by a reset, which a driver that still looks notices as one by somebody else.
//!
//! Clause: the datasheet, section 2.3.

use super::{FunctionId, Nic};
use crate::frontend::registers::DISABLED;
use crate::host::Host;

impl<H: Host> Nic<H> {
    /// Whether the operator lets drivers use a function; `None` if there is none.
    #[must_use]
    pub fn is_enabled(&self, id: FunctionId) -> Option<bool> {
        Some(self.function(id)?.registers.is_allowed())
    }

    /// Puts a function into service, or takes it out: then none of its PDUs is queued when this
    /// returns, and nothing accesses its memory. It stays so whatever its driver or client does, resets
    /// included. Returns false if there is no such function.
    pub fn set_enabled(&mut self, id: FunctionId, enabled: bool) -> bool {
        let ports = &mut self.shared.addresses.switch.ports;
        ports.set_shut_by_pf(id.0, false);
        self.put_into_service(id, enabled)
    }

    /// The same for whoever it is that wants it.
    pub(super) fn put_into_service(&mut self, id: FunctionId, enabled: bool) -> bool {
        let index = usize::from(id.0);
        let host = self.hosts.get(index).and_then(Option::as_ref);
        let function = self.functions.get_mut(index).and_then(Option::as_mut);
        let (Some(host), Some(function)) = (host, function) else {
            return false;
        };
        if function.registers.is_allowed() == enabled {
            return true;
        }
        function.registers.allow(enabled);
        if !enabled {
            function.fail(host, self.now, DISABLED);
            self.shared.local.purge(id.0);
        } else if function.registers.fault() == Some(DISABLED) {
            self.reset(id);
        }
        true
    }
}
