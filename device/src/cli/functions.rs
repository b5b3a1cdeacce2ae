//! Which functions a process serves, on which sockets, and what they are.
//!
//! In: the command line's `--socket`, `--vfs`, `--max-vfs`, `--dir` and `--mac`. Out: a [`Plan`], whose
//! sockets are bound first, so that clients can come before the link is open, and whose functions are
//! then made. A process has either physical functions without virtual ones, one a socket, or one
//! physical function and its virtual ones, of which more can be served later ([`Slots`]).

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Error, anyhow};
use clap::Args;
use vrnic_firmware::nic::FunctionId;
use vrnic_firmware::resource::Quota;
use vrnic_firmware::types::Mac;
use vrnic_vfio_user::{Listener, Server};

use super::quota::Limits;
use super::serve::Failure;
use crate::control::Roster;
use crate::control::names::Text;
use crate::engine::EngineThread;
use crate::family::Family;
use crate::function::Function;
use crate::pci::{Kind, MAX_VFS};
use crate::slots::{Planned, Slots, count_up};

/// Addresses that a derived one leaves free behind it, at least.
const ADDRESSES: u32 = 64;

/// Arguments that say which functions there are.
#[derive(Args, Debug)]
pub struct FunctionArguments {
    /// UNIX socket to serve a function on. Given more than once, each socket is a physical function
    /// of its own on the same port; functions of one process exchange data directly.
    #[arg(long, value_name = "PATH", required_unless_present = "vfs")]
    socket: Vec<PathBuf>,

    /// Serve a physical function and N virtual functions (SR-IOV), 0 to 256, on the same port: the
    /// sockets are pf0.sock, vf0.sock, vf1.sock and so on, in the folder --dir. Each can be attached
    /// to a VM or a process of its own, in any order, and works at once. A VM that has the physical
    /// function and virtual ones finds these as its own SR-IOV capability enables them.
    #[arg(long, value_name = "N", conflicts_with = "socket")]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=i64::from(MAX_VFS)))]
    vfs: Option<u16>,

    /// Virtual functions that there can be, as the physical function says to its driver (TotalVFs).
    /// Those that --vfs does not serve can be added while the process runs (`vrnic ctl add-vf`). As
    /// many as --vfs by default.
    #[arg(long, value_name = "M", conflicts_with = "socket")]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=i64::from(MAX_VFS)))]
    max_vfs: Option<u16>,

    /// How much each virtual function may have, for example qps=64,mrs=1024,vectors=4: of qps, cqs,
    /// srqs, eqs, pds, xrcds, mrs, mws, ahs, pages (entries of page lists), uars (doorbell pages) and
    /// vectors (MSI-X). What is not given is as much as there can be. `vrnic ctl quota` changes it.
    #[arg(long, value_name = "LIMIT,…", requires = "vfs")]
    vf_quota: Option<Limits>,

    /// Folder of the sockets of --vfs; it must exist. The current one by default.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Ethernet address of the first function; others count up from it. Without it, one is derived
    /// from the path of the first socket.
    #[arg(long, value_name = "MAC")]
    mac: Option<MacArgument>,
}

/// An Ethernet address as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MacArgument(Mac);

impl FromStr for MacArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Text(mac) = text.parse::<Text<Mac>>()?;
        if mac.is_group() || mac == Mac([0; 6]) {
            return Err(format!(
                "'{text}' is a group or zero address; a function needs its own"
            ));
        }
        Ok(Self(mac))
    }
}

/// The functions of a process.
#[derive(Debug)]
pub(super) struct Plan {
    functions: Vec<Planned>,
    /// Of a process with virtual functions, or that can have some.
    slots: Option<Slots>,
    map_doorbells: bool,
    /// The sockets in one line.
    summary: String,
}

impl Plan {
    /// What the command line asks for, with clients that may map doorbell pages or not; fails if it
    /// contradicts itself.
    pub(super) fn new(arguments: &FunctionArguments, map_doorbells: bool) -> Result<Self, Failure> {
        if arguments.dir.is_some() && arguments.vfs.is_none() {
            return Err(Failure::Usage(anyhow!(
                "--dir is the folder of the sockets of --vfs, which is not given"
            )));
        }
        let slots = arguments.slots(map_doorbells)?;
        let functions = match (&slots, arguments.vfs) {
            (Some(slots), Some(vfs)) => {
                let virtual_ones = (0..vfs).filter_map(|vf| slots.virtual_function(vf));
                std::iter::once(slots.physical())
                    .chain(virtual_ones)
                    .collect()
            }
            _ => separate(&arguments.socket, arguments.mac),
        };
        Ok(Self {
            summary: summary(&functions),
            functions,
            slots,
            map_doorbells,
        })
    }

    /// Names the sockets in a log line.
    pub(super) fn summary(&self) -> &str {
        &self.summary
    }

    /// Binds the sockets.
    pub(super) fn listen(&self) -> Result<Vec<Listener>, Failure> {
        let mut seen = HashSet::new();
        let mut sockets = self.functions.iter().map(|function| &function.socket);
        if let Some(twice) = sockets.find(|path| !seen.insert(*path)) {
            let twice = twice.display();
            return Err(Failure::Usage(anyhow!("--socket {twice} is given twice")));
        }
        let sockets = self.functions.iter().map(|function| &function.socket);
        let listeners: Result<Vec<_>, _> = sockets.map(Listener::bind).collect();
        listeners.map_err(|error| Failure::Usage(anyhow!("{error}")))
    }

    /// Makes the functions and serves them on `listeners`, those of [`Plan::listen`]; puts them on
    /// the roster. Returns the slots of virtual functions, if there are any.
    pub(super) fn serve(
        self,
        engine: &EngineThread,
        server: &mut Server<Function>,
        roster: &mut Roster,
        listeners: Vec<Listener>,
    ) -> Result<Option<Slots>, Error> {
        for (planned, listener) in self.functions.into_iter().zip(listeners) {
            let function = match &self.slots {
                Some(slots) => slots.make(engine.handle(), &planned),
                None => planned.make(engine.handle(), &Family::default(), self.map_doorbells),
            };
            let function = function.context("cannot create a function")?;
            let socket = server.add(listener, function);
            roster.add(planned, socket.context("cannot serve a socket")?);
        }
        Ok(self.slots)
    }
}

impl FunctionArguments {
    /// The virtual functions that there can be, if --vfs is given.
    fn slots(&self, map_doorbells: bool) -> Result<Option<Slots>, Failure> {
        let Some(vfs) = self.vfs else {
            return Ok(None);
        };
        let count = self.max_vfs.unwrap_or(vfs);
        if count < vfs {
            return Err(Failure::Usage(anyhow!(
                "--vfs {vfs} are more than the --max-vfs {count} that there can be"
            )));
        }
        let dir = self.dir.as_deref().unwrap_or(Path::new(""));
        let derived = || derive_mac(&dir.join("pf0.sock"), 1 + u32::from(count));
        let mac = self.mac.map_or_else(derived, |mac| mac.0);
        let quota = self.vf_quota.clone().unwrap_or_default().quota();
        let slots = Slots::new(dir, mac, count, map_doorbells);
        Ok(Some(slots.with_quota(quota)))
    }
}

/// A physical function on each of `sockets`.
fn separate(sockets: &[PathBuf], mac: Option<MacArgument>) -> Vec<Planned> {
    let first = sockets.first().map_or(Path::new(""), PathBuf::as_path);
    let count = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
    let mac = mac.map_or_else(|| derive_mac(first, count), |mac| mac.0);
    let planned = (0..=u16::MAX).zip(sockets).map(|(index, socket)| Planned {
        socket: socket.clone(),
        name: format!("function {index}"),
        kind: Kind::Physical { vfs: 0 },
        number: 0,
        id: FunctionId::new(index),
        mac: count_up(mac, index),
        quota: Quota::default(),
    });
    planned.collect()
}

/// The sockets by name; of many, the first and the last.
fn summary(functions: &[Planned]) -> String {
    let name = |function: &Planned| function.socket.display().to_string();
    if let [first, second, .., last] = functions {
        if functions.len() > 8 {
            return format!("{}, {} to {}", name(first), name(second), name(last));
        }
    }
    let names: Vec<_> = functions.iter().map(name).collect();
    names.join(", ")
}

/// A locally administered address that is the same each time a socket path is served, with room for
/// `count` functions behind it.
fn derive_mac(socket: &Path, count: u32) -> Mac {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    // The same name in two folders is two sockets.
    let path = std::path::absolute(socket).unwrap_or_else(|_| socket.to_path_buf());
    for byte in path.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let room = count.max(ADDRESSES).checked_next_power_of_two();
    let [.., a, b, c, d] = hash.to_be_bytes();
    let tail = u32::from_be_bytes([a, b, c, d]) & !(room.unwrap_or(0).wrapping_sub(1));
    let [a, b, c, d] = tail.to_be_bytes();
    Mac([0x02, 0x56, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let mac = |text: &str| text.parse::<MacArgument>().map(|mac| mac.0.0);
        assert_eq!(mac("02:00:00:00:00:0a"), Ok([2, 0, 0, 0, 0, 10]));
        assert_eq!(
            mac("52-54-00-AB-cd-ef"),
            Ok([0x52, 0x54, 0, 0xab, 0xcd, 0xef])
        );
        for wrong in [
            "",
            "02:00",
            "02:00:00:00:00:0a:01",
            "2:0:0:0:0:1",
            "01:00:00:00:00:00",
            "0x:00:00:00:00:01",
            "+2:00:00:00:00:01",
        ] {
            assert!(mac(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn functions_have_addresses_of_their_own() {
        let derived = derive_mac(Path::new("/tmp/a"), 1);
        assert_eq!(derived, derive_mac(Path::new("/tmp/a"), 64));
        assert_ne!(derived, derive_mac(Path::new("/tmp/b"), 1));
        assert_eq!(derived.0[0] & 3, 2, "locally administered, no group");
        let many = derive_mac(Path::new("/tmp/a"), 257);
        assert_eq!(count_up(many, 256).0[..4], many.0[..4], "no carry");
        assert_eq!(many.0[5], 0);
    }

    #[test]
    fn sockets_are_named_in_one_line() {
        let arguments = FunctionArguments {
            socket: Vec::new(),
            vfs: Some(256),
            max_vfs: None,
            dir: Some("/run/x".into()),
            mac: None,
            vf_quota: None,
        };
        let plan = Plan::new(&arguments, true).ok();
        assert_eq!(
            plan.as_ref().map(Plan::summary),
            Some("/run/x/pf0.sock, /run/x/vf0.sock to /run/x/vf255.sock")
        );
        let fewer = FunctionArguments {
            max_vfs: Some(255),
            ..arguments
        };
        assert!(Plan::new(&fewer, true).is_err());
    }
}
