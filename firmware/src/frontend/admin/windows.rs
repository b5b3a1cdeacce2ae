//! Memory windows (IBTA volume 1, 10.6.7): allocating and freeing them. Work requests bind them.
//!
//! A window belongs to a protection domain, which cannot go before it. Freeing one unbinds it.

use vrnic_abi::admin::{AllocMw, ObjectReference, Status, WindowType};

use super::command::{Refusal, Reply, argument, bad, no_such};
use crate::frontend::function::Function;
use crate::resource::{WindowKind, WindowList};

impl Function {
    pub(super) fn alloc_mw(&mut self, body: &AllocMw) -> Result<Reply, Refusal> {
        if self.objects.pds.get(body.pd).is_none() {
            return Err(no_such(argument!(AllocMw, pd)));
        }
        let kind = match WindowType::from_raw(body.window_type) {
            Some(WindowType::Type1) => WindowKind::Type1,
            Some(WindowType::Type2) => WindowKind::Type2,
            None => return Err(bad(argument!(AllocMw, window_type))),
        };
        let keys = &mut self.objects.keys;
        let key = keys
            .add_window(body.variant, body.pd, kind)
            .ok_or(Refusal::new(Status::NoResources, 0))?;
        self.use_pd(body.pd, true);
        Ok(Reply::number(key))
    }

    pub(super) fn free_mw(&mut self, key: u32) -> Result<Reply, Refusal> {
        let missing = no_such(argument!(ObjectReference, object));
        let window = self.objects.keys.window(key).ok_or(missing)?;
        let owner = window.binding.as_ref().and_then(|binding| binding.qp);
        let mut nobody = WindowList::default();
        let list = match owner.and_then(|qpn| self.qps.get_mut(qpn)) {
            Some(qp) => &mut qp.queues.windows,
            None => &mut nobody,
        };
        let freed = self.objects.keys.remove_window(key, list);
        let window = freed.map_err(|_| missing)?;
        self.use_pd(window.pd, false);
        Ok(Reply::default())
    }
}
