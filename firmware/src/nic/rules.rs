//! The operator's side of the switch: policies of functions, the link, stations.
//!
//! Rules change between two steps and hold from the next PDU or frame on. What was sent before is on
//! its way. Addresses are looked through again under the new rules (`review`); queue pairs know nothing
//! of rules, so a connection that they still allow goes on, and one that they do not runs into
//! its timeouts, as if a switch on the way had changed.

use vrnic_abi::counter::Counter;
use vrnic_abi::eqe::EventType;

use super::policy::{Policy, PolicyError, UplinkPolicy};
use super::port::Shared;
use super::route::{PathKey, Way};
use super::stations::{PortName, Station, StationRefused};
use super::{FunctionId, Nic};
use crate::host::Host;
use crate::types::{Mac, Time};
use crate::wire::Received;

impl<H: Host> Nic<H> {
    /// The rules of a function's port.
    #[must_use]
    pub fn policy(&self, id: FunctionId) -> Option<&Policy> {
        let ports = &self.shared.addresses.switch.ports;
        ports.get(id.0).map(|port| &port.policy)
    }

    /// Changes the rules of a function's port, from the next PDU or frame on. They stay when the
    /// function is reset.
    ///
    /// # Errors
    /// What is wrong with them; nothing changes then.
    pub fn set_policy(&mut self, id: FunctionId, policy: Policy) -> Result<(), PolicyError> {
        policy.validate()?;
        let saw_link = self.shared.sees_link(id.0);
        let addresses = &mut self.shared.addresses;
        if addresses.switch.ports.get(id.0).is_none() {
            return Err(PolicyError::Function);
        }
        self.shares.set(id.0, &policy, self.now);
        addresses.switch.ports.set_policy(id.0, policy);
        addresses.switch.stations.flush(PortName::Function(id));
        self.review(Some(id));
        let sees_link = self.shared.sees_link(id.0);
        if sees_link != saw_link {
            self.report_link(usize::from(id.0), sees_link);
        }
        Ok(())
    }

    /// Shows the frames that a function sends and gets, as they are in the network, by
    /// [`crate::host::Wire::mirrored`] from now on, or no longer; whether there is that function. PDUs on
    /// the direct path still take it, one packet at a time, and are shown as frames. What the switch
    /// drops is not shown.
    pub fn set_mirror(&mut self, id: FunctionId, on: bool) -> bool {
        self.shared.addresses.switch.ports.set_mirror(id.0, on)
    }

    /// Whether a function is mirrored.
    #[must_use]
    pub fn is_mirrored(&self, id: FunctionId) -> bool {
        self.shared.addresses.switch.ports.is_mirrored(id.0)
    }

    /// The rules of the link's port.
    #[must_use]
    pub const fn uplink_policy(&self) -> UplinkPolicy {
        self.shared.addresses.switch.ports.uplink
    }

    /// Changes the rules of the link's port.
    pub fn set_uplink_policy(&mut self, policy: UplinkPolicy) {
        let ports = &mut self.shared.addresses.switch.ports;
        ports.uplink = policy;
        ports.change();
    }

    /// Changes the state of the link and reports that to the functions that follow it. What was
    /// learned from a link that goes down is forgotten.
    pub fn set_link(&mut self, up: bool) {
        if core::mem::replace(&mut self.shared.link_up, up) == up {
            return;
        }
        if !up {
            let switch = &mut self.shared.addresses.switch;
            switch.stations.flush(PortName::Link);
        }
        for index in 0..self.functions.len() {
            let id = u16::try_from(index).unwrap_or(u16::MAX);
            let ports = &self.shared.addresses.switch.ports;
            let mode = ports.get(id).map(|port| port.policy.link);
            if mode.is_some_and(|mode| mode.is_up(up) != mode.is_up(!up)) {
                self.report_link(index, up);
            }
        }
    }

    fn report_link(&mut self, index: usize, up: bool) {
        let event = if up {
            EventType::PortUp
        } else {
            EventType::PortDown
        };
        let host = self.hosts.get(index).and_then(Option::as_ref);
        let function = self.functions.get_mut(index).and_then(Option::as_mut);
        if let (Some(host), Some(function)) = (host, function) {
            if function.is_ready() {
                function.report(host, self.now, event, 1);
            }
        }
    }

    /// Puts the station with an address, in a VLAN of the network or in none (0), behind a port for
    /// good: it is not learned elsewhere, and no function takes its address.
    ///
    /// # Errors
    /// Why it cannot be there; nothing changes then.
    pub fn add_station(
        &mut self,
        vlan: u16,
        mac: Mac,
        port: PortName,
    ) -> Result<(), StationRefused> {
        let switch = &mut self.shared.addresses.switch;
        let exists = match port {
            PortName::Function(id) => switch.ports.get(id.0).is_some(),
            PortName::Link => true,
        };
        if !exists {
            return Err(StationRefused::Port);
        }
        if switch.is_own(mac) {
            return Err(StationRefused::Own);
        }
        switch.stations.fix(vlan, mac, port)?;
        // Who may have an address depends on it.
        self.review(None);
        Ok(())
    }

    /// Removes a station that [`Self::add_station`] has put somewhere; whether there was one.
    pub fn remove_station(&mut self, vlan: u16, mac: Mac) -> bool {
        let stations = &mut self.shared.addresses.switch.stations;
        let was_there = stations.unfix(vlan, mac);
        if was_there {
            self.review(None);
        }
        was_there
    }

    /// The stations that the switch knows besides the functions' own addresses, by address and VLAN, from
    /// the first at or after `from` on.
    pub fn stations(&self, now: Time, from: (Mac, u16)) -> impl Iterator<Item = Station> + '_ {
        self.shared.addresses.switch.stations.walk(now, from)
    }

    /// Whether a packet from the link to function `to` has the source of a function, which counts it
    /// then: an address that is assigned to it, or, of a connected queue pair, that of a peer which is
    /// on this NIC.
    pub(super) fn is_forged_packet(&mut self, to: Option<u16>, packet: &Received<'_>) -> bool {
        let Shared {
            addresses, routes, ..
        } = &self.shared;
        if !addresses.switch.ports.uplink.check_sources {
            return false;
        }
        let (vlan, mac, gid) = (packet.vlan, packet.source_mac, packet.source);
        let namesake = routes.namesake(addresses, vlan, mac, gid);
        let bears = namesake.or_else(|| self.local_peer(to?, packet));
        if let Some(function) = bears {
            self.count_at(function, Counter::RxSpoofedSource, 1);
        }
        bears.is_some()
    }

    /// The function of this NIC that has the other end of the connection that a packet is for.
    fn local_peer(&self, to: u16, packet: &Received<'_>) -> Option<u16> {
        let function = self.functions.get(usize::from(to))?.as_ref()?;
        let qp = function.qps.get(packet.pdu.destination.get())?;
        if !qp.transport.kind().is_connected() || !qp.transport.receives() {
            return None;
        }
        let (addresses, path) = (&self.shared.addresses, qp.transport.path());
        let key = PathKey::new(to, path);
        let Way::Function(peer) = self.shared.routes.find(addresses, key, path).way else {
            return None;
        };
        // What a function has only claimed is not enough to silence the one that is on the link.
        let vlan = addresses.outward(to, path.vlan)?;
        let assignee = addresses.switch.assignee(vlan, path.destination_mac);
        (assignee == Some(peer)).then_some(peer)
    }
}

impl Shared {
    /// Whether a function sees a link.
    pub(super) fn sees_link(&self, function: u16) -> bool {
        let port = self.addresses.switch.ports.get(function);
        port.is_some_and(|port| port.policy.link.is_up(self.link_up))
    }
}
