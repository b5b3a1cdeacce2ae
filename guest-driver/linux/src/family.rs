//! A physical function's driver and those of its virtual functions that are this driver, too.
//!
//! Who resets a physical function resets its virtual ones, of which the kernel tells their drivers
//! nothing. Here the physical one's driver does: they are detached before, as it is, and attached
//! afterwards, which is in order for their users, and no failure of theirs.
//!
//! A virtual function is a member from before it is first attached until before it is removed. Locks
//! are taken in this order: the family's, then a function's own.
//!
//! Clause: PCI Express Base 6.0, section 9.2.2.2 (FLR of a physical function).

use alloc::vec::Vec;
use core::ptr::NonNull;

use crate::function::{By, Function};
use crate::kernel::lock::Mutex;

/// The virtual functions of one physical function that have joined.
pub(crate) struct Family(Mutex<State>);

#[derive(Default)]
struct State {
    /// The physical function is being reset.
    suspended: bool,
    members: Vec<Member>,
}

/// A function that stays where it is until it leaves.
struct Member(NonNull<Function>);

// SAFETY: functions are used by any task.
unsafe impl Send for Member {}

impl Member {
    fn get(&self) -> &Function {
        // SAFETY: it leaves before it is gone.
        unsafe { self.0.as_ref() }
    }
}

impl Family {
    /// Nobody has joined.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State::default()))
    }

    /// Makes a function a member. Sleepable context.
    ///
    /// # Safety
    /// It stays where it is until it leaves.
    pub(crate) unsafe fn join(&self, function: &Function) {
        self.0.with(|state| {
            if state.suspended {
                function.suspend(By::Family);
            }
            state.members.push(Member(NonNull::from(function)));
        });
    }

    /// Nobody here uses the function any more when this returns. Sleepable context.
    pub(crate) fn leave(&self, function: &Function) {
        let function = NonNull::from(function);
        self.0
            .with(|state| state.members.retain(|member| member.0 != function));
    }

    /// Detaches all members until [`Self::resume`]. Sleepable context.
    pub(crate) fn suspend(&self) {
        self.0.with(|state| {
            state.suspended = true;
            for member in &state.members {
                member.get().suspend(By::Family);
            }
        });
    }

    /// Attaches them again. Sleepable context.
    pub(crate) fn resume(&self) {
        self.0.with(|state| {
            state.suspended = false;
            for member in &state.members {
                member.get().resume_or_recover(By::Family);
            }
        });
    }
}
