//! Quotas of functions, while the NIC runs.
//!
//! A quota belongs to the function for as long as that exists, and stays when it is reset. It holds
//! from the next command on: less than a function has takes nothing from it, and refuses more with
//! NoResources until enough is gone; more works at once, also for a driver that was told less when it
//! asked. The number of MSI-X vectors is part of how the function looks to the bus, and whoever uses
//! the function has seen it: it changes only while nobody does.

use super::{FunctionId, Nic};
use crate::frontend::Function;
use crate::host::Host;
use crate::resource::{Quota, QuotaError};

impl<H: Host> Nic<H> {
    /// What a function may have.
    #[must_use]
    pub fn quota(&self, id: FunctionId) -> Option<&Quota> {
        self.function(id).map(Function::quota)
    }

    /// Changes what a function may have, from its next command on. What it has stays.
    ///
    /// # Errors
    /// Why not; nothing changes then.
    pub fn set_quota(&mut self, id: FunctionId, quota: Quota) -> Result<(), QuotaError> {
        quota.validate()?;
        let index = usize::from(id.0);
        let host = self.hosts.get(index).and_then(Option::as_ref);
        let function = self.functions.get_mut(index).and_then(Option::as_mut);
        let (Some(host), Some(function)) = (host, function) else {
            return Err(QuotaError::Function);
        };
        if quota.vectors != function.quota().vectors {
            let vectors = u16::try_from(quota.vectors).unwrap_or(u16::MAX);
            if function.is_ready() || !host.set_vectors(vectors) {
                return Err(QuotaError::InUse);
            }
        }
        function.set_quota(quota);
        Ok(())
    }
}
