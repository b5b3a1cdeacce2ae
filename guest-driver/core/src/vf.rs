//! The virtual functions of a physical one, as its driver administers them. Sleepable context.
//!
//! Virtual functions are numbered from 1 here, as their register FUNCTION has it. The operator of the
//! device may have settled what one of them may do; a change is then refused with
//! [`Status::NotPermitted`](vrnic_abi::admin::Status::NotPermitted).

use vrnic_abi::admin::{AdminOpcode, ConfigureVf, VfFlags, VfLink, VfSettings};
use vrnic_abi::object::VfAttributes;
use vrnic_abi::registers::Capabilities;

use crate::device::Driver;
use crate::error::Error;
use crate::platform::Platform;

/// What to change of a virtual function; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VfChange {
    /// Ethernet address from its next reset on; all zero for that which it has of itself.
    pub mac: Option<[u8; 6]>,
    /// VLAN that the switch puts it into, 1 to 4094, and priority of its frames there, 0 to 7; VLAN 0
    /// for none.
    pub vlan: Option<(u16, u8)>,
    /// Whether it sees a link.
    pub link: Option<VfLink>,
    /// It sends from its own addresses and in its own VLANs only.
    pub spoof_check: Option<bool>,
    /// It may take further addresses, and see what is not for it.
    pub trust: Option<bool>,
    /// It is in service: otherwise it has failed, and does so whenever its driver enables it.
    pub enabled: Option<bool>,
    /// Most that it sends, in Mbit/s; 0 for no limit.
    pub max_rate: Option<u32>,
    /// Its part of the port among the functions that have something to send, 1 to 255.
    pub weight: Option<u8>,
}

impl VfChange {
    /// The command's body for virtual function `number`.
    fn body(&self, number: u16) -> ConfigureVf {
        let mut mask = VfSettings::empty();
        mask.set(VfSettings::MAC, self.mac.is_some());
        mask.set(VfSettings::VLAN, self.vlan.is_some());
        mask.set(VfSettings::LINK, self.link.is_some());
        mask.set(VfSettings::SPOOF_CHECK, self.spoof_check.is_some());
        mask.set(VfSettings::TRUST, self.trust.is_some());
        mask.set(VfSettings::MAX_RATE, self.max_rate.is_some());
        mask.set(VfSettings::WEIGHT, self.weight.is_some());
        mask.set(VfSettings::ENABLED, self.enabled.is_some());
        let mut flags = VfFlags::empty();
        flags.set(VfFlags::SPOOF_CHECK, self.spoof_check == Some(true));
        flags.set(VfFlags::TRUST, self.trust == Some(true));
        flags.set(VfFlags::ENABLED, self.enabled == Some(true));
        let (vlan, priority) = self.vlan.unwrap_or_default();
        ConfigureVf {
            vf: number.into(),
            mask: mask.bits(),
            mac: self.mac.unwrap_or_default(),
            vlan,
            priority,
            link: self.link.map_or(0, VfLink::raw),
            weight: self.weight.unwrap_or(0),
            max_rate: self.max_rate.unwrap_or(0),
            flags: flags.bits(),
            ..ConfigureVf::default()
        }
    }
}

impl<P: Platform> Driver<P> {
    /// Changes settings of virtual function `number`: all of them, or none.
    pub fn configure_vf(&self, number: u16, change: &VfChange) -> Result<(), Error> {
        self.require_virtual_functions()?;
        self.set(AdminOpcode::ConfigureVf, &change.body(number))
    }

    /// Virtual function `number` as it is now.
    pub fn query_vf(&self, number: u16) -> Result<VfAttributes, Error> {
        self.require_virtual_functions()?;
        let generation = self.shared.generation();
        self.shared
            .query_object(generation, AdminOpcode::QueryVf, number.into())
    }

    /// Whether the function has virtual ones that it administers can change while it runs, so the
    /// registers say it.
    fn require_virtual_functions(&self) -> Result<(), Error> {
        let found = self.shared.current_capabilities();
        if found.contains(Capabilities::SRIOV) {
            Ok(())
        } else {
            Err(Error::Unsupported("virtual functions"))
        }
    }
}
