//! A physical function's driver administers the virtual functions: what it may change of one, and
//! what it sees of it.
//!
//! The front end of the physical function checks a command and keeps it; here it is carried out on
//! the virtual function with that number, right after the step of the physical one that fetched it.
//! What changes is the virtual function's [`Policy`], as if the operator had changed it, its Ethernet
//! address, and whether it is in service. The operator has the last word: a policy that he has fixed
//! stays as it is, and a function that he has taken out of service stays out.
//!
//! An address is reserved for its function as soon as it is assigned, and becomes the function's own
//! at its next reset, at once if it is not in use: its driver learns it when it enables the function.
//! It is taken back when it turns out to be somebody else's: a function's that is added with it, or one
//! that the operator lists for another function or puts behind another port.

use vrnic_abi::counter::Counter;
use vrnic_abi::registers::DeviceState;

use super::policy::{LinkMode, Policy, VlanMode, Vlans};
use super::{FunctionId, Nic};
use crate::frontend::{Administration, Function};
use crate::host::Host;
use crate::types::{Mac, Time};

/// What a physical function's driver changes of a virtual function; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VfChange {
    /// Ethernet address, a unicast one; `None` for the one that it was made with.
    pub mac: Option<Option<Mac>>,
    /// VLAN (1 to 4094) and priority (0 to 7) of its access port; `None` for a trunk port with all
    /// VLANs.
    pub vlan: Option<Option<(u16, u8)>>,
    /// Whether it sees a link.
    pub link: Option<LinkMode>,
    /// Its source addresses and VLANs are checked. Off, its VLANs are as before.
    pub spoof_check: Option<bool>,
    /// It is trusted.
    pub trusted: Option<bool>,
    /// It is in service.
    pub enabled: Option<bool>,
    /// Most that it sends, in Mbit/s, not 0; `None` for no limit.
    pub max_rate: Option<Option<u32>>,
    /// Its part of the port, not 0.
    pub weight: Option<u8>,
}

/// Why a physical function's driver cannot have its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VfRefusal {
    /// There is no such virtual function.
    NoSuchFunction,
    /// The operator has set its rules, and keeps them ([`Policy::pf_may_change`]), or has taken it out
    /// of service.
    Fixed,
    /// The address is in use, or reserved for another function.
    TakenMac,
}

/// What a physical function's driver sees of a virtual function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VfState {
    /// Its Ethernet address.
    pub mac: Mac,
    /// That from its next reset on.
    pub next_mac: Mac,
    /// Whether it was assigned.
    pub mac_assigned: bool,
    /// VLAN and priority of its access port.
    pub vlan: Option<(u16, u8)>,
    /// Whether it sees a link: the rule.
    pub link: LinkMode,
    /// The same: what is.
    pub link_up: bool,
    /// Its source addresses are checked.
    pub spoof_check: bool,
    /// It is trusted.
    pub trusted: bool,
    /// It is in service.
    pub enabled: bool,
    /// Most that it sends, in Mbit/s.
    pub max_rate: Option<u32>,
    /// Its part of the port.
    pub weight: u8,
    /// The operator keeps its rules.
    pub fixed: bool,
    /// State of the function.
    pub state: DeviceState,
    /// What it has sent and received.
    pub traffic: VfTraffic,
}

/// What a function has sent and received since it was reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VfTraffic {
    /// Packets and frames sent through the port.
    pub tx_packets: u64,
    /// Their bytes, to 4 for each.
    pub tx_bytes: u64,
    /// Dropped by its rules, or as it had no link.
    pub tx_dropped: u64,
    /// Packets and frames received through the port.
    pub rx_packets: u64,
    /// Their bytes, to 4 for each.
    pub rx_bytes: u64,
    /// Dropped by its rules or those of the link, or as it had no room.
    pub rx_dropped: u64,
    /// Received datagrams to multicast groups.
    pub rx_multicast: u64,
    /// Bytes sent to functions of the same NIC on the direct path.
    pub local_bytes: u64,
}

impl VfTraffic {
    fn of(function: &Function) -> Self {
        let count = |counter| function.objects.counter(counter);
        let sum = |counters: &[Counter]| {
            let counts = counters.iter().map(|counter| count(*counter));
            counts.fold(0, u64::wrapping_add)
        };
        Self {
            tx_packets: count(Counter::PortXmitPackets),
            tx_bytes: count(Counter::PortXmitData).wrapping_mul(4),
            tx_dropped: sum(&[
                Counter::TxSpoofedMac,
                Counter::TxSpoofedVlan,
                Counter::TxSpoofedGid,
                Counter::PortXmitDiscards,
            ]),
            rx_packets: count(Counter::PortRcvPackets),
            rx_bytes: count(Counter::PortRcvData).wrapping_mul(4),
            rx_dropped: sum(&[
                Counter::RxNotAllowed,
                Counter::RxSpoofedSource,
                Counter::RxFrameNoReceive,
                Counter::RxFrameTooLong,
            ]),
            rx_multicast: count(Counter::MulticastRcvPackets),
            local_bytes: count(Counter::LocalBytes),
        }
    }
}

impl VfChange {
    /// Changes rules.
    fn apply(&self, policy: &mut Policy) {
        if let Some(mac) = self.mac {
            policy.mac_assigned = mac.is_some();
        }
        if let Some(vlan) = self.vlan {
            policy.vlan = match vlan {
                Some((vlan, priority)) => VlanMode::Access { vlan, priority },
                None => VlanMode::Trunk(Vlans::All),
            };
        }
        policy.link = self.link.unwrap_or(policy.link);
        if let Some(on) = self.spoof_check {
            policy.checks.mac = on;
            policy.checks.vlan |= on;
        }
        policy.trusted = self.trusted.unwrap_or(policy.trusted);
        policy.max_rate = self.max_rate.unwrap_or(policy.max_rate);
        policy.weight = self.weight.unwrap_or(policy.weight);
    }
}

impl<H: Host> Nic<H> {
    /// Carries out what the driver of function `index` asks of a virtual function, if it does.
    pub(super) fn administer(&mut self, index: usize, now: Time) {
        let function = self.functions.get_mut(index).and_then(Option::as_mut);
        let Some(administration) = function.and_then(Function::take_administration) else {
            return;
        };
        let result = self.carry_out(&administration);
        let host = self.hosts.get(index).and_then(Option::as_ref);
        let function = self.functions.get_mut(index).and_then(Option::as_mut);
        if let (Some(host), Some(function)) = (host, function) {
            function.finish_administration(host, now, &administration, result);
        }
    }

    fn carry_out(&mut self, administration: &Administration) -> Result<VfState, VfRefusal> {
        let id = self.numbered(administration.number());
        let id = id.ok_or(VfRefusal::NoSuchFunction)?;
        if let Some(change) = administration.change() {
            self.change_virtual_function(id, change)?;
        }
        self.virtual_function(id).ok_or(VfRefusal::NoSuchFunction)
    }

    /// The function with a number.
    fn numbered(&self, number: u16) -> Option<FunctionId> {
        let mut functions = self.functions();
        let named = functions.find(|(_, function)| function.identity.number == number);
        named.map(|(id, _)| id)
    }

    /// Changes settings of a function for the driver of its physical function: all of them, or none.
    fn change_virtual_function(
        &mut self,
        id: FunctionId,
        change: &VfChange,
    ) -> Result<(), VfRefusal> {
        let port = self.shared.addresses.switch.ports.get(id.0);
        let port = port.ok_or(VfRefusal::NoSuchFunction)?;
        let enabled = self.is_enabled(id) == Some(true);
        let kept_out = !enabled && !port.shut_by_pf && change.enabled == Some(true);
        if !port.policy.pf_may_change || kept_out {
            return Err(VfRefusal::Fixed);
        }
        let mut policy = port.policy.clone();
        change.apply(&mut policy);
        let addresses = &self.shared.addresses;
        let mac = change.mac.flatten();
        if mac.is_some_and(|mac| !addresses.is_free_for(id.0, mac)) {
            return Err(VfRefusal::TakenMac);
        }
        let changes = policy != port.policy;
        let ports = &mut self.shared.addresses.switch.ports;
        let assigned = change.mac.filter(|mac| *mac != ports.assigned(id.0));
        if let Some(mac) = assigned {
            ports.assign(id.0, mac);
        }
        if changes {
            // Sound, as the front end has checked it.
            let set = self.set_policy(id, policy);
            set.map_err(|_| VfRefusal::NoSuchFunction)?;
        } else if assigned.is_some() {
            self.review(None);
        }
        if let Some(wanted) = change.enabled.filter(|wanted| *wanted != enabled) {
            let ports = &mut self.shared.addresses.switch.ports;
            ports.set_shut_by_pf(id.0, !wanted);
            self.put_into_service(id, wanted);
        }
        self.adopt_address(id);
        Ok(())
    }

    /// Makes the address that a function is to have its own, if it is reset and nobody uses it.
    pub(super) fn adopt_address(&mut self, id: FunctionId) {
        let function = self.functions.get_mut(usize::from(id.0));
        let function = function.and_then(Option::as_mut);
        let Some(function) = function.filter(|f| f.registers.state() == DeviceState::Reset) else {
            return;
        };
        if let Some(mac) = self.shared.addresses.switch.adopt(id.0) {
            function.identity.mac = mac;
            // Who waits for the one that it had may have it.
            self.review(None);
        }
    }

    /// What the driver of its physical function sees of a function.
    fn virtual_function(&self, id: FunctionId) -> Option<VfState> {
        let function = self.function(id)?;
        let port = self.shared.addresses.switch.ports.get(id.0)?;
        let policy = &port.policy;
        Some(VfState {
            mac: port.mac,
            next_mac: port.next_mac(),
            mac_assigned: policy.mac_assigned,
            vlan: match policy.vlan {
                VlanMode::Access { vlan, priority } => Some((vlan, priority)),
                VlanMode::Trunk(_) => None,
            },
            link: policy.link,
            link_up: self.shared.sees_link(id.0),
            spoof_check: policy.checks.mac,
            trusted: policy.trusted,
            enabled: function.registers.is_allowed(),
            max_rate: policy.max_rate,
            weight: policy.weight,
            fixed: !policy.pf_may_change,
            state: function.registers.state(),
            traffic: VfTraffic::of(function),
        })
    }

    /// Tells physical functions which virtual ones there are.
    pub(super) fn count_virtual_functions(&mut self) {
        let numbers = self.functions.iter().flatten().map(|f| f.identity.number);
        let max_vf = numbers.max().unwrap_or(0);
        for (host, function) in self.hosts.iter().zip(&mut self.functions) {
            if let (Some(host), Some(function)) = (host, function) {
                if function.identity.number == 0 {
                    function.registers.set_max_vf(host, max_vf);
                }
            }
        }
    }
}
