//! Keys that work requests change: those of memory windows and of regions for fast registration.
//!
//! A request gives such an object a new key, which differs in bits 7:0. Whether it took effect, the
//! driver learns from its completion, or, if that says nothing, by asking the device. Until then
//! there are two candidates. If others make the requests, a process that binds its own windows for
//! example, the device is asked about each key that the object can have.

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

    /// Asks the device what it knows about the object, under any key. Sleepable context.
    pub(crate) fn query(&mut self) -> Result<MrAttributes, Error> {
        let key = self.key();
        let all = (0..=VARIANT).map(|variant| key & !VARIANT | variant);
        let likely = self.pending.into_iter().chain([key]);
        let mut result = Err(Error::Stale);
        for key in likely.chain(all) {
            result = self.query_key(key);
            match result {
                Ok(_) => {
                    self.handle.number = key;
                    self.pending = None;
                    break;
                }
                Err(error) if is_missing(&error) => {}
                Err(_) => break,
            }
        }
        result
    }

    fn query_key(&self, key: u32) -> Result<MrAttributes, Error> {
        self.handle.check()?;
        let generation = self.handle.generation;
        let shared = &self.handle.shared;
        shared.query_object(generation, AdminOpcode::QueryMr, key)
    }

    /// Destroys the object. Sleepable context.
    pub(crate) fn destroy(&mut self, opcode: AdminOpcode) -> Result<(), Error> {
        if self.pending.is_some() {
            self.find()?;
        }
        match self.handle.destroy(opcode) {
            Err(error) if is_missing(&error) => {
                self.find()?;
                self.handle.destroy(opcode)
            }
            result => result,
        }
    }

    /// Finds out which key the object has; that does not matter any more if the function is lost.
    fn find(&mut self) -> Result<(), Error> {
        let found = match self.handle.is_live() {
            true => self.query().map(drop),
            false => Ok(()),
        };
        if self.handle.is_lost() { Ok(()) } else { found }
    }
}

/// Whether the device knows nothing under a key.
fn is_missing(error: &Error) -> bool {
    matches!(
        error,
        Error::Command {
            status: Status::NoSuchObject,
            ..
        }
    )
}
