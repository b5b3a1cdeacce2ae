//! Address handles and multicast groups: where datagrams go to and come from.
//!
//! Commands, in sleepable context. Requests name a handle by its [`AhNumber`], which knows the life
//! of the function that it is from: one of before a reset is refused when it is posted, since its
//! number may be another handle's by then.

use vrnic_abi::admin::{AdminOpcode, CreateAh, MulticastGroup};
use vrnic_abi::object::{AddressVector, AhAttributes};
use vrnic_abi::registers::Capabilities;

use crate::device::Driver;
use crate::error::{Error, PostError};
use crate::memory::{Handle, ProtectionDomain};
use crate::platform::Platform;
use crate::qp::{QpControl, QueuePair, service};

/// An address handle as requests name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AhNumber {
    number: u32,
    generation: u32,
}

impl AhNumber {
    /// Number of the handle.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.number
    }

    /// Fails if a queue of life `generation` cannot know the handle.
    #[inline]
    pub(crate) fn check(self, generation: u32) -> Result<(), PostError> {
        if self.generation == generation {
            Ok(())
        } else {
            Err(PostError::Stale)
        }
    }
}

/// An address handle. It has no memory: dropped without `destroy`, its number stays in use until a
/// reset.
pub struct AddressHandle<P: Platform> {
    handle: Handle<P>,
}

impl<P: Platform> AddressHandle<P> {
    /// What requests name. They must not after `destroy`.
    #[must_use]
    pub fn number(&self) -> AhNumber {
        AhNumber {
            number: self.handle.number,
            generation: self.handle.generation,
        }
    }

    /// Protection domain and path, as the device has them.
    pub fn query(&self) -> Result<AhAttributes, Error> {
        self.handle.query(AdminOpcode::QueryAh)
    }

    /// Destroys the handle.
    pub fn destroy(&mut self) -> Result<(), Error> {
        self.handle.destroy(AdminOpcode::DestroyAh)
    }
}

impl<P: Platform> Driver<P> {
    /// Creates an address handle for the datagram queue pairs of `pd`.
    pub fn create_ah(
        &self,
        pd: &ProtectionDomain<P>,
        vector: AddressVector,
    ) -> Result<AddressHandle<P>, Error> {
        let any = Capabilities::UD | Capabilities::GSI;
        if !self.capabilities().intersects(any) {
            return Err(Error::Unsupported("datagram queue pairs"));
        }
        pd.handle.check()?;
        let body = CreateAh {
            pd: pd.number(),
            vector,
            ..CreateAh::default()
        };
        let generation = pd.handle.generation;
        let shared = &self.shared;
        let answer = shared.execute(generation, AdminOpcode::CreateAh, &body, None)?;
        let handle = Handle::new(shared, generation, answer.result0)?;
        if handle.number == 0 {
            return Err(Error::BadAnswer("address handle number"));
        }
        Ok(AddressHandle { handle })
    }
}

/// Multicast groups. Sleepable context.
impl<P: Platform> QueuePair<P> {
    /// Receives what is sent to the multicast GID `gid`: see [`QpControl::attach_multicast`].
    pub fn attach_multicast(&mut self, gid: [u8; 16], vlan: u16) -> Result<(), Error> {
        self.control.attach_multicast(gid, vlan)
    }

    /// No longer receives what is sent to a multicast GID.
    pub fn detach_multicast(&mut self, gid: [u8; 16], vlan: u16) -> Result<(), Error> {
        self.control.detach_multicast(gid, vlan)
    }
}

/// Multicast groups. Sleepable context.
impl<P: Platform> QpControl<P> {
    /// Receives what is sent to the multicast GID `gid`, in network byte order, in VLAN `vlan` (0
    /// for none). Attaching once more changes nothing.
    pub fn attach_multicast(&self, gid: [u8; 16], vlan: u16) -> Result<(), Error> {
        self.multicast(AdminOpcode::AttachMulticast, gid, vlan)
    }

    /// No longer receives what is sent to a multicast GID.
    pub fn detach_multicast(&self, gid: [u8; 16], vlan: u16) -> Result<(), Error> {
        self.multicast(AdminOpcode::DetachMulticast, gid, vlan)
    }

    fn multicast(&self, opcode: AdminOpcode, gid: [u8; 16], vlan: u16) -> Result<(), Error> {
        let handle = &self.object.handle;
        handle
            .shared
            .require(Capabilities::MULTICAST, "multicast")?;
        service::require_datagram(self.qp_type)?;
        handle.check()?;
        let body = MulticastGroup {
            qp: handle.number,
            vlan,
            gid,
            ..MulticastGroup::default()
        };
        let answer = handle
            .shared
            .execute(handle.generation, opcode, &body, None);
        answer.map(drop)
    }
}
