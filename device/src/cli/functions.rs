//! Which functions a process serves, on which sockets, and what they are.
//!
//! In: the command line's `--socket`, `--vfs`, `--dir` and `--mac`. Out: a [`Plan`], whose sockets are
//! bound first, so that clients can come before the link is open, and whose functions are then made.
//! A process has either physical functions without virtual ones, one a socket, or one physical
//! function and its virtual ones.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Error, anyhow};
use clap::Args;
use vrnic_firmware::nic::FunctionConfig;
use vrnic_firmware::resource::Quota;
use vrnic_firmware::types::Mac;
use vrnic_vfio_user::{Listener, Server};

use super::quota::Limits;
use super::serve::Failure;
use crate::control::Roster;
use crate::control::names::Text;
use crate::engine::EngineThread;
use crate::family::Family;
use crate::function::{Function, Options};
use crate::pci::{Kind, MAX_VFS};

/// Ethernet payload until a driver changes it: room for a path MTU of 4096.
const MTU: u32 = 4200;

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

/// One function to be served.
#[derive(Debug)]
struct Planned {
    socket: PathBuf,
    name: String,
    kind: Kind,
    /// Which function of its family: 0 is the physical one.
    number: u16,
}

/// The functions of a process, in the order of their addresses.
#[derive(Debug)]
pub(super) struct Plan {
    functions: Vec<Planned>,
    mac: Mac,
    /// What each virtual function may have.
    vf_quota: Quota,
    /// The sockets in one line.
    summary: String,
}

impl Plan {
    /// What the command line asks for; fails if it contradicts itself.
    pub(super) fn new(arguments: &FunctionArguments) -> Result<Self, Failure> {
        if arguments.dir.is_some() && arguments.vfs.is_none() {
            return Err(Failure::Usage(anyhow!(
                "--dir is the folder of the sockets of --vfs, which is not given"
            )));
        }
        let dir = arguments.dir.as_deref().unwrap_or(Path::new(""));
        let functions = match arguments.vfs {
            Some(vfs) => family(dir, vfs),
            None => separate(&arguments.socket),
        };
        let first = functions.first().map(|function| function.socket.as_path());
        let first = first.unwrap_or(Path::new(""));
        let mac = arguments.mac.map_or_else(
            || derive_mac(first, u32::try_from(functions.len()).unwrap_or(u32::MAX)),
            |mac| mac.0,
        );
        Ok(Self {
            summary: summary(&functions),
            functions,
            mac,
            vf_quota: arguments.vf_quota.clone().unwrap_or_default().quota(),
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
    /// the roster.
    pub(super) fn serve(
        self,
        engine: &EngineThread,
        server: &mut Server<Function>,
        roster: &mut Roster,
        listeners: Vec<Listener>,
        map_doorbells: bool,
    ) -> Result<(), Error> {
        let mut family = Family::default();
        for (index, (planned, listener)) in (0..).zip(self.functions.into_iter().zip(listeners)) {
            if planned.number == 0 {
                family = Family::default();
            }
            let options = Options {
                name: planned.name,
                kind: planned.kind,
                family: family.clone(),
                config: FunctionConfig {
                    number: planned.number,
                    mac: count_up(self.mac, index),
                    mtu: MTU,
                },
                quota: match planned.kind {
                    Kind::Physical { .. } => Quota::default(),
                    Kind::Virtual => self.vf_quota,
                },
                map_doorbells,
            };
            let function = Function::new(engine.handle().clone(), options);
            let function = function.context("cannot create a function")?;
            let id = function.id();
            let socket = server.add(listener, function);
            roster.add(id, socket.context("cannot serve a socket")?, planned.socket);
        }
        Ok(())
    }
}

/// A physical function on each of `sockets`.
fn separate(sockets: &[PathBuf]) -> Vec<Planned> {
    let planned = sockets.iter().enumerate().map(|(index, socket)| Planned {
        socket: socket.clone(),
        name: format!("function {index}"),
        kind: Kind::Physical { vfs: 0 },
        number: 0,
    });
    planned.collect()
}

/// A physical function with `vfs` virtual ones, their sockets in `dir`.
fn family(dir: &Path, vfs: u16) -> Vec<Planned> {
    let planned = |name: String, kind, number| Planned {
        socket: dir.join(format!("{name}.sock")),
        name,
        kind,
        number,
    };
    let physical = planned("pf0".into(), Kind::Physical { vfs }, 0);
    let virtual_ones = (0..vfs).map(|n| planned(format!("vf{n}"), Kind::Virtual, n + 1));
    std::iter::once(physical).chain(virtual_ones).collect()
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

/// The address `number` after `first`.
fn count_up(first: Mac, number: u16) -> Mac {
    let [a, b, tail @ ..] = first.0;
    let tail = u32::from_be_bytes(tail).wrapping_add(number.into());
    let [c, d, e, f] = tail.to_be_bytes();
    Mac([a, b, c, d, e, f])
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
        assert_eq!(
            count_up(Mac([2, 0, 0, 0, 0, 0xff]), 1).0,
            [2, 0, 0, 0, 1, 0]
        );
        let derived = derive_mac(Path::new("/tmp/a"), 1);
        assert_eq!(derived, derive_mac(Path::new("/tmp/a"), 64));
        assert_ne!(derived, derive_mac(Path::new("/tmp/b"), 1));
        assert_eq!(derived.0[0] & 3, 2, "locally administered, no group");
        let many = derive_mac(Path::new("/tmp/a"), 257);
        assert_eq!(count_up(many, 256).0[..4], many.0[..4], "no carry");
        assert_eq!(many.0[5], 0);
    }

    #[test]
    fn a_family_is_numbered_from_its_physical_function() {
        let functions = family(Path::new("/run/x"), 256);
        assert_eq!(functions.len(), 257);
        let socket = |n: usize| functions[n].socket.to_str().unwrap_or_default();
        assert_eq!((socket(0), functions[0].number), ("/run/x/pf0.sock", 0));
        assert_eq!((socket(1), functions[1].number), ("/run/x/vf0.sock", 1));
        assert_eq!(socket(256), "/run/x/vf255.sock");
        assert_eq!(functions[256].number, 256);
        assert_eq!(
            summary(&functions),
            "/run/x/pf0.sock, /run/x/vf0.sock to /run/x/vf255.sock"
        );
    }
}
