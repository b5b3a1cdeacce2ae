//! A table from numbers to values that grows only in sleepable context.
//!
//! Its memory is allocated and freed without the lock, so that interrupt handlers and pollers, which
//! take the lock to look a number up, never wait for an allocation.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::platform::{Lock, Platform};

/// A sorted table from numbers to values. Its memory is only allocated and freed without the lock.
pub(crate) struct Registry<P: Platform, T> {
    entries: P::Lock<Vec<(u32, T)>>,
}

impl<P: Platform, T: Clone> Registry<P, T> {
    pub(crate) fn new() -> Self {
        Self {
            entries: P::Lock::new(Vec::new()),
        }
    }

    /// Adds or replaces an entry. Sleepable context.
    pub(crate) fn insert(&self, key: u32, value: T) {
        let mut value = Some(value);
        let mut spare: Vec<(u32, T)> = Vec::new();
        loop {
            let (old, wanted) = self.entries.with(|entries| {
                if entries.len() == entries.capacity() && spare.capacity() > entries.capacity() {
                    spare.append(entries);
                    core::mem::swap(entries, &mut spare);
                }
                put(entries, key, &mut value)
            });
            drop(old);
            match wanted {
                None => return,
                Some(capacity) => spare = Vec::with_capacity(capacity),
            }
        }
    }

    pub(crate) fn get(&self, key: u32) -> Option<T> {
        self.entries.with(|entries| {
            let index = find(entries, key).ok()?;
            entries.get(index).map(|entry| entry.1.clone())
        })
    }

    /// What `look` makes of the value, under the lock. For interrupt handlers, which must not get
    /// hold of the last reference to a value whose memory only sleepable context may free.
    pub(crate) fn look<R>(&self, key: u32, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.entries.with(|entries| {
            let index = find(entries, key).ok()?;
            entries.get(index).map(|entry| look(&entry.1))
        })
    }

    /// The same for the first entry from `key` on, with its key.
    pub(crate) fn look_from<R>(&self, key: u32, look: impl FnOnce(&T) -> R) -> Option<(u32, R)> {
        self.entries.with(|entries| {
            let index = find(entries, key).unwrap_or_else(|index| index);
            entries.get(index).map(|entry| (entry.0, look(&entry.1)))
        })
    }

    pub(crate) fn remove(&self, key: u32) -> Option<T> {
        self.entries.with(|entries| {
            let index = find(entries, key).ok()?;
            Some(entries.remove(index).1)
        })
    }

    /// Removes all entries. Sleepable context.
    pub(crate) fn clear(&self) {
        drop(self.entries.with(core::mem::take));
    }

    /// Keeps the entries whose value `keep` accepts; returns whether there are any. Atomic context,
    /// so it is for values that own no memory of the device's.
    pub(crate) fn retain(&self, keep: impl Fn(&T) -> bool) -> bool {
        self.entries.with(|entries| {
            entries.retain(|entry| keep(&entry.1));
            !entries.is_empty()
        })
    }

    /// Removes all entries without dropping them.
    pub(crate) fn leak(&self) {
        core::mem::forget(self.entries.with(core::mem::take));
    }
}

impl<P: Platform, T> Registry<P, Arc<T>> {
    /// Removes the entry if its value is `value` itself.
    pub(crate) fn remove_same(&self, key: u32, value: &Arc<T>) {
        let removed = self.entries.with(|entries| {
            let index = find(entries, key).ok()?;
            let found = entries.get(index)?;
            Arc::ptr_eq(&found.1, value).then(|| entries.remove(index))
        });
        drop(removed);
    }
}

fn find<T>(entries: &[(u32, T)], key: u32) -> Result<usize, usize> {
    entries.binary_search_by_key(&key, |entry| entry.0)
}

/// Puts `value` in place if there is room. Returns what it replaced, or the capacity it wants.
fn put<T>(
    entries: &mut Vec<(u32, T)>,
    key: u32,
    value: &mut Option<T>,
) -> (Option<T>, Option<usize>) {
    match find(entries, key) {
        Ok(index) => {
            let place = entries.get_mut(index).map(|entry| &mut entry.1);
            let old = match (place, value.take()) {
                (Some(place), Some(value)) => Some(core::mem::replace(place, value)),
                _ => None,
            };
            (old, None)
        }
        Err(_) if entries.len() == entries.capacity() => (None, Some(entries.len() * 2 + 8)),
        Err(index) => {
            if let Some(value) = value.take() {
                entries.insert(index, (key, value));
            }
            (None, None)
        }
    }
}
