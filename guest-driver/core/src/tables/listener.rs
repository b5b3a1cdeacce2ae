//! Whom event handlers tell of an object's events.
//!
//! A listener is in the registry of its kind from creation to the end of its object. It is taken out
//! by identity, not by number alone: the device may have given the number to another object by
//! then, whose creator is faster than the destroyer.

use alloc::sync::Arc;

use crate::device::Shared;
use crate::memory::Handle;
use crate::platform::Platform;
use crate::tables::Registry;

/// Objects of one kind as event handlers find them.
pub(crate) type Listeners<P, T> = Registry<P, Arc<Listener<T>>>;

/// An object as event handlers find it by its number.
pub(crate) struct Listener<T> {
    /// What the owner of the object wants to find in events.
    pub(crate) context: u64,
    /// What the driver keeps about it; nothing if the rings are a user's.
    pub(crate) table: Option<Arc<T>>,
}

/// Hears of an object's events as long as it lives.
pub(crate) struct Listening<P: Platform, T> {
    handle: Handle<P>,
    listeners: fn(&Shared<P>) -> &Listeners<P, T>,
    listener: Arc<Listener<T>>,
}

impl<P: Platform, T> Listening<P, T> {
    /// Lets the events of the object of `handle` be heard. Sleepable context.
    pub(crate) fn new(
        handle: &Handle<P>,
        listeners: fn(&Shared<P>) -> &Listeners<P, T>,
        context: u64,
        table: Option<&Arc<T>>,
    ) -> Self {
        let table = table.map(Arc::clone);
        let listener = Arc::new(Listener { context, table });
        listeners(&handle.shared).insert(handle.number, Arc::clone(&listener));
        let listening = Self {
            handle: handle.clone(),
            listeners,
            listener,
        };
        if handle.check().is_err() {
            // A reset has cleared the registry just before: the number may be another's by now.
            listening.end();
        }
        listening
    }

    fn end(&self) {
        let listeners = (self.listeners)(&self.handle.shared);
        listeners.remove_same(self.handle.number, &self.listener);
    }
}

impl<P: Platform, T> Drop for Listening<P, T> {
    fn drop(&mut self) {
        self.end();
    }
}
