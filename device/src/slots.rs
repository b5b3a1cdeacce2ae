//! What the functions of a process are, and which virtual ones it can have.
//!
//! A [`Planned`] function is one that is to be served: its socket, its name on the engine, its address.
//! The [`Slots`] of a process say what each of its virtual functions is, whether it is served from the
//! start or later, or again: the same socket, the same name, and the same address unless the operator
//! gives another.
//!
//! VF n, counted from 0 as its socket is, is function n + 1 of its family and of the engine; the
//! physical function is 0. So the numbers that the operator uses stay what they are when others come
//! and go.

use std::io;
use std::path::{Path, PathBuf};

use vrnic_firmware::nic::{FunctionConfig, FunctionId};
use vrnic_firmware::resource::Quota;
use vrnic_firmware::types::Mac;

use crate::engine::EngineHandle;
use crate::family::Family;
use crate::function::{Function, Options};
use crate::pci::Kind;

/// Ethernet payload until a driver changes it: room for a path MTU of 4096.
const MTU: u32 = 4200;

/// A function that is to be served.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Where it is served.
    pub socket: PathBuf,
    /// What log lines call it.
    pub name: String,
    /// Physical or virtual.
    pub kind: Kind,
    /// Which function of its family: 0 is the physical one.
    pub number: u16,
    /// Its name on the engine.
    pub id: FunctionId,
    /// Its Ethernet address.
    pub mac: Mac,
    /// How much it may have.
    pub quota: Quota,
}

impl Planned {
    /// Makes the function, of `family`, whose clients may map doorbell pages or not.
    ///
    /// # Errors
    /// If the host refuses memory or descriptors.
    pub fn make(
        &self,
        engine: &EngineHandle,
        family: &Family,
        map_doorbells: bool,
    ) -> io::Result<Function> {
        let options = Options {
            id: self.id,
            name: self.name.clone(),
            kind: self.kind,
            family: family.clone(),
            config: FunctionConfig {
                number: self.number,
                mac: self.mac,
                mtu: MTU,
            },
            quota: self.quota,
            map_doorbells,
        };
        Function::new(engine.clone(), options)
    }
}

/// The virtual functions that a process can have.
#[derive(Clone, Debug)]
pub struct Slots {
    dir: PathBuf,
    first: Mac,
    count: u16,
    quota: Quota,
    family: Family,
    map_doorbells: bool,
}

impl Slots {
    /// `count` virtual functions, and a physical one with address `first`; sockets are in `dir`.
    #[must_use]
    pub fn new(dir: &Path, first: Mac, count: u16, map_doorbells: bool) -> Self {
        Self {
            dir: dir.to_path_buf(),
            first,
            count,
            quota: Quota::default(),
            family: Family::default(),
            map_doorbells,
        }
    }

    /// The same with virtual functions that may have so much.
    #[must_use]
    pub fn with_quota(self, quota: Quota) -> Self {
        Self { quota, ..self }
    }

    /// How many virtual functions there can be: TotalVFs.
    #[must_use]
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// The physical function.
    #[must_use]
    pub fn physical(&self) -> Planned {
        let kind = Kind::Physical { vfs: self.count };
        self.planned("pf0".to_owned(), kind, 0)
    }

    /// Virtual function `vf`, counted from 0; `None` if there cannot be so many.
    #[must_use]
    pub fn virtual_function(&self, vf: u16) -> Option<Planned> {
        let number = vf.checked_add(1).filter(|_| vf < self.count)?;
        Some(self.planned(format!("vf{vf}"), Kind::Virtual, number))
    }

    fn planned(&self, name: String, kind: Kind, number: u16) -> Planned {
        Planned {
            socket: self.dir.join(format!("{name}.sock")),
            name,
            kind,
            number,
            id: FunctionId::new(number),
            mac: count_up(self.first, number),
            quota: match kind {
                Kind::Physical { .. } => Quota::default(),
                Kind::Virtual => self.quota,
            },
        }
    }

    /// Makes a function of the family.
    ///
    /// # Errors
    /// As [`Planned::make`].
    pub fn make(&self, engine: &EngineHandle, planned: &Planned) -> io::Result<Function> {
        planned.make(engine, &self.family, self.map_doorbells)
    }
}

/// The address `number` after `first`.
#[must_use]
pub fn count_up(first: Mac, number: u16) -> Mac {
    let [a, b, tail @ ..] = first.0;
    let tail = u32::from_be_bytes(tail).wrapping_add(number.into());
    let [c, d, e, f] = tail.to_be_bytes();
    Mac([a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_count_up() {
        let mac = count_up(Mac([2, 0, 0, 0, 0, 0xff]), 1);
        assert_eq!(mac.0, [2, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn a_family_is_numbered_from_its_physical_function() {
        let slots = Slots::new(Path::new("/run/x"), Mac([2, 0, 0, 0, 0, 0]), 256, true);
        let pf = slots.physical();
        assert_eq!(pf.kind, Kind::Physical { vfs: 256 });
        assert_eq!(
            (pf.socket.to_str(), pf.number),
            (Some("/run/x/pf0.sock"), 0)
        );
        for (vf, socket) in [(0, "/run/x/vf0.sock"), (255, "/run/x/vf255.sock")] {
            let planned = slots.virtual_function(vf);
            let Some(Planned {
                socket: at,
                number,
                id,
                mac,
                ..
            }) = planned
            else {
                panic!("{vf}: {planned:?}");
            };
            assert_eq!((at.to_str(), number), (Some(socket), vf + 1));
            assert_eq!((id.index(), mac), (vf + 1, count_up(pf.mac, vf + 1)));
        }
        for vf in [256, u16::MAX] {
            assert!(slots.virtual_function(vf).is_none());
        }
    }
}
