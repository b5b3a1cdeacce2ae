//! Keys that work requests change: those of memory windows and of regions for fast registration.
//!
//! A request gives such an object a new key, which differs in bits 7:0. Whether it took effect, the
//! driver learns from its completion, or, if that says nothing, by asking the device. Until then
//! there are two candidates.

use vrnic_abi::admin::{AdminOpcode, Status};
use vrnic_abi::object::MrAttributes;

use crate::error::Error;
use crate::memory::Handle;
use crate::platform::Platform;

/// Bits of a key that are chosen anew.
const VARIANT: u32 = 0xff;

/// An object whose key changes.
pub(crate) struct Keyed<P: Platform> {
    /// Its number is the key that the object was last known to have.
    handle: Handle<P>,
    /// The key that a request has, or may have, given it since.
    pending: Option<u32>,
}

impl<P: Platform> Keyed<P> {
    pub(crate) fn new(handle: Handle<P>) -> Self {
        Self {
            handle,
            pending: None,
        }
    }

    pub(crate) fn handle(&self) -> &Handle<P> {
        &self.handle
    }

    /// The key that the object is known to have.
    pub(crate) fn key(&self) -> u32 {
        self.handle.number
    }

    /// The key that a request is to give it.
    pub(crate) fn change(&mut self, variant: u8) -> u32 {
        let key = self.handle.number & !VARIANT | u32::from(variant);
        self.pending = Some(key);
        key
    }

    /// The object is known to have `key`; false if that is another's.
    pub(crate) fn confirm(&mut self, key: u32) -> bool {
        let own = self.key() == key || self.pending == Some(key);
        if own {
            self.handle.number = key;
            self.pending = None;
        }
        own
    }

    /// Asks the device what it knows about the object, under either key. Sleepable context.
    pub(crate) fn query(&mut self) -> Result<MrAttributes, Error> {
        if let Some(key) = self.pending {
            match self.query_key(key) {
                Ok(attributes) => {
                    self.confirm(key);
                    return Ok(attributes);
                }
                Err(Error::Command {
                    status: Status::NoSuchObject,
                    ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
        self.query_key(self.key())
    }

    fn query_key(&self, key: u32) -> Result<MrAttributes, Error> {
        self.handle.check()?;
        let generation = self.handle.generation;
        let shared = &self.handle.shared;
        shared.query_object(generation, AdminOpcode::QueryMr, key)
    }

    /// Destroys the object. Sleepable context.
    pub(crate) fn destroy(&mut self, opcode: AdminOpcode) -> Result<(), Error> {
        if self.handle.check().is_ok() && self.pending.is_some() {
            self.query()?;
        }
        self.handle.destroy(opcode)
    }
}
