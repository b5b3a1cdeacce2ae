//! A physical function and its virtual functions: what they share on the control thread.
//!
//! Each function has a socket and a client of its own, and works as soon as it is served, whoever
//! attaches it and in whatever order. What a [`Family`] adds is for the client that has the physical
//! function *and* virtual functions of it, a VM that is given a NIC with SR-IOV:
//!
//! * to that client, a virtual function hides its IDs, so that its guest finds it by the SR-IOV
//!   capability only; to any other it shows them, as Linux' VFIO does for a virtual function that is
//!   given to a VM alone;
//! * disabling virtual functions, or resetting the physical one, resets those of that client that had
//!   been enabled by the capability; the guest of the physical function has no say in those of others.
//!
//! Two clients are the same if the kernel says that one process connected both sockets; where it does
//! not say (another PID namespace), they are two.
//!
//! A reset from outside takes a virtual function's queues at once ([`Restart`]), in the order of the
//! engine's messages; its configuration space follows before its client's next access
//! ([`Family::take_reset`]), which is the next time that anybody could tell. In between nothing starts
//! anew, because that takes such an access.
//!
//! Clauses: PCI Express Base 6.0, sections 9.2.1.2 and 9.3.3.3.1 (VF Enable), 9.3.4.1 (IDs).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;

use vrnic_firmware::nic::FunctionId;

use crate::engine::{EngineHandle, Message, Ticket, Tickets};
use crate::pci::{MsixHandle, Signaller};
use crate::registers::Registers;

/// The process that connected a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(NonZeroU32);

impl Process {
    /// Who connected `socket`, if the kernel says so.
    #[must_use]
    pub fn of_peer(socket: BorrowedFd<'_>) -> Option<Self> {
        let mut credentials = libc::ucred {
            pid: 0,
            uid: 0,
            gid: 0,
        };
        let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).ok()?;
        // SAFETY: the kernel writes at most `length` bytes, the size of a plain local variable, and
        // the length, into another one.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut credentials).cast(),
                &raw mut length,
            )
        };
        let pid = (result == 0).then_some(credentials.pid)?;
        // 0 is a process that this one cannot see.
        u32::try_from(pid).ok().and_then(NonZeroU32::new).map(Self)
    }
}

/// Which function of its family one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// The physical function.
    Physical,
    /// A virtual function, counted from 0.
    Virtual(u16),
}

/// Resets a function on its engine.
#[derive(Clone, Debug)]
pub struct Restart {
    /// Its engine.
    pub engine: EngineHandle,
    /// Its name there.
    pub function: FunctionId,
    /// Its registers, which say that a reset is under way.
    pub registers: Arc<Registers>,
    /// Its interrupts, of which none stays pending.
    pub interrupts: MsixHandle,
}

impl Restart {
    /// Resets everything but configuration space, and calls `done` then, on the engine's thread.
    pub fn begin(&self, ticket: Ticket, done: impl FnOnce() + Send + 'static) {
        let interrupts = self.interrupts.clone();
        let done = Box::new(move || {
            interrupts.discard_pending();
            done();
            drop(ticket);
        });
        self.registers.begin_reset();
        let function = self.function;
        self.engine.send(Message::Reset { function, done });
    }
}

/// See the module's documentation. Clones are the same family.
#[derive(Clone, Debug, Default)]
pub struct Family(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    /// The physical function's client.
    owner: Option<Process>,
    /// Those that are served, by number.
    virtual_functions: BTreeMap<u16, VirtualFunction>,
    signaller: Signaller,
}

#[derive(Debug)]
struct VirtualFunction {
    client: Option<Process>,
    restart: Restart,
    /// It was reset, and nobody has used it since.
    reset: bool,
}

impl VirtualFunction {
    fn is_of(&self, owner: Option<Process>) -> bool {
        owner.is_some() && self.client == owner
    }
}

impl Family {
    /// What signals the interrupts of all.
    #[must_use]
    pub fn signaller(&self) -> Signaller {
        self.0.borrow().signaller.clone()
    }

    /// Adds the virtual function `number`, counted from 0; there is none of that number.
    #[must_use]
    pub fn add(&self, number: u16, restart: Restart) -> Member {
        let function = VirtualFunction {
            client: None,
            restart,
            reset: false,
        };
        let functions = &mut self.0.borrow_mut().virtual_functions;
        functions.insert(number, function);
        Member::Virtual(number)
    }

    /// A function is no more. Nothing of the family asks the engine for anything about it from now on.
    pub fn remove(&self, member: Member) {
        let mut state = self.0.borrow_mut();
        match member {
            Member::Physical => state.owner = None,
            Member::Virtual(number) => drop(state.virtual_functions.remove(&number)),
        }
    }

    /// A client attached to a function, or left it. It finds, or leaves, one after power-on.
    pub fn set_client(&self, member: Member, client: Option<Process>) {
        let mut state = self.0.borrow_mut();
        match member {
            Member::Physical => state.owner = client,
            Member::Virtual(number) => {
                if let Some(function) = state.virtual_functions.get_mut(&number) {
                    function.client = client;
                    function.reset = false;
                }
            }
        }
    }

    /// Whether a function is a virtual one whose client does not have the physical one.
    #[must_use]
    pub fn is_alone(&self, member: Member) -> bool {
        let state = self.0.borrow();
        match member {
            Member::Physical => false,
            Member::Virtual(number) => {
                let function = state.virtual_functions.get(&number);
                function.is_some_and(|function| !function.is_of(state.owner))
            }
        }
    }

    /// Resets those of the first `count` virtual functions, as far as they are served, that the physical
    /// function's client has, but for any that nobody has used since it was reset: a client cannot make
    /// work for the engine by enabling and disabling alone. What waits there counts as a request of the
    /// physical function.
    pub fn reset(&self, count: u16, tickets: &Tickets) {
        let mut state = self.0.borrow_mut();
        let owner = state.owner;
        let enabled = state.virtual_functions.range_mut(..count);
        let functions = enabled.map(|(_, function)| function);
        for function in functions.filter(|f| f.is_of(owner) && !f.reset) {
            function.restart.begin(tickets.take(), || ());
            function.reset = true;
        }
    }

    /// Whether a virtual function was reset and its configuration space has yet to follow; it is said
    /// once.
    #[must_use]
    pub fn take_reset(&self, member: Member) -> bool {
        let Member::Virtual(number) = member else {
            return false;
        };
        let functions = &mut self.0.borrow_mut().virtual_functions;
        let function = functions.get_mut(&number);
        function.is_some_and(|function| std::mem::take(&mut function.reset))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_kernel_tells_who_connected() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let process = Process::of_peer(ours.as_fd()).unwrap();
        assert_eq!(process.0.get(), std::process::id());
        assert_eq!(Process::of_peer(theirs.as_fd()), Some(process));
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Process::of_peer(file.as_fd()), None);
    }
}
