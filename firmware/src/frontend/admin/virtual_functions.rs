//! Virtual functions, as the driver of their physical function administers them: ConfigureVf and
//! QueryVf.
//!
//! Such a command is about another function than the one whose queue it stands in, which therefore
//! checks and translates it, and keeps it as its [`Administration`] until the NIC has carried it out
//! between two functions ([`crate::nic::VfChange`], [`crate::nic::VfState`]). There is one at a time,
//! and no further command is fetched in that step, so that the driver's commands take effect in
//! their order. A virtual function has no such commands.

use vrnic_abi::admin::{
    CommandHeader, ConfigureVf, ObjectOutput, Status, VfFlags, VfLink, VfSettings,
};
use vrnic_abi::object::VfAttributes;

use super::command::{Refusal, Reply, argument, bad, no_such};
use super::query::write;
use crate::frontend::function::Function;
use crate::host::Host;
use crate::nic::{LAST_VLAN, LinkMode, VfChange, VfRefusal, VfState};
use crate::types::{Mac, Time};

/// A command that the NIC has to carry out.
#[derive(Clone, Debug)]
pub(crate) struct Administration {
    header: CommandHeader,
    task: Task,
}

/// What it asks for.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// Change the settings of a virtual function.
    Configure(u16, VfChange),
    /// Write what a virtual function is like.
    Query(u16, ObjectOutput),
}

impl Administration {
    pub(super) fn new(header: CommandHeader, task: Task) -> Self {
        Self { header, task }
    }

    /// The number of the virtual function that it is about.
    pub(crate) const fn number(&self) -> u16 {
        match &self.task {
            Task::Configure(number, _) | Task::Query(number, _) => *number,
        }
    }

    /// What it changes, if that is what it does.
    pub(crate) const fn change(&self) -> Option<&VfChange> {
        match &self.task {
            Task::Configure(_, change) => Some(change),
            Task::Query(..) => None,
        }
    }
}

impl Function {
    /// The command about a virtual function that is to be carried out now.
    pub(crate) fn take_administration(&mut self) -> Option<Administration> {
        self.administration.take()
    }

    /// Completes such a command: with the state of the virtual function afterwards, or why it was
    /// refused.
    pub(crate) fn finish_administration<H: Host>(
        &mut self,
        host: &H,
        now: Time,
        administration: &Administration,
        result: Result<VfState, VfRefusal>,
    ) {
        let reply = match (result, &administration.task) {
            (Ok(_), Task::Configure(..)) => Ok(Reply::default()),
            (Ok(state), Task::Query(_, body)) => write(host, body, &describe(&state)),
            (Err(refusal), task) => Err(self.refuse(refusal, task)),
        };
        self.complete(host, now, administration.header, reply);
    }

    pub(super) fn configure_vf(&mut self, body: &ConfigureVf) -> Result<Task, Refusal> {
        let number = self.virtual_function(body.vf, argument!(ConfigureVf, vf))?;
        Ok(Task::Configure(number, change(body)?))
    }

    pub(super) fn query_vf(&mut self, body: &ObjectOutput) -> Result<Task, Refusal> {
        let number = self.virtual_function(body.object, argument!(ObjectOutput, object))?;
        Ok(Task::Query(number, *body))
    }

    /// Checks that this is a physical function and that `number`, which stands at `at`, can be that
    /// of a virtual one.
    fn virtual_function(&self, number: u32, at: u32) -> Result<u16, Refusal> {
        if self.identity.number != 0 {
            return Err(Refusal::new(Status::NotPermitted, 0));
        }
        let number = u16::try_from(number).ok().filter(|number| *number != 0);
        number.ok_or(no_such(at))
    }

    fn refuse(&mut self, refusal: VfRefusal, task: &Task) -> Refusal {
        let named = match task {
            Task::Configure(..) => argument!(ConfigureVf, vf),
            Task::Query(..) => argument!(ObjectOutput, object),
        };
        match refusal {
            VfRefusal::NoSuchFunction => no_such(named),
            VfRefusal::Fixed => self.forbid(named),
            VfRefusal::TakenMac => Refusal::new(Status::Busy, argument!(ConfigureVf, mac)),
        }
    }
}

/// The change that a command describes.
fn change(body: &ConfigureVf) -> Result<VfChange, Refusal> {
    let mask = VfSettings::from_bits(body.mask).ok_or(bad(argument!(ConfigureVf, mask)))?;
    let takes = |setting| mask.contains(setting);
    let flag = |setting, flag: VfFlags| takes(setting).then_some(body.flags & flag.bits() != 0);
    Ok(VfChange {
        mac: takes(VfSettings::MAC).then(|| mac(body)).transpose()?,
        vlan: takes(VfSettings::VLAN).then(|| vlan(body)).transpose()?,
        link: takes(VfSettings::LINK).then(|| link(body)).transpose()?,
        spoof_check: flag(VfSettings::SPOOF_CHECK, VfFlags::SPOOF_CHECK),
        trusted: flag(VfSettings::TRUST, VfFlags::TRUST),
        enabled: flag(VfSettings::ENABLED, VfFlags::ENABLED),
        max_rate: takes(VfSettings::MAX_RATE)
            .then_some(Some(body.max_rate).filter(|rate| *rate != 0)),
        weight: takes(VfSettings::WEIGHT)
            .then(|| weight(body))
            .transpose()?,
    })
}

/// The address that a virtual function is given, `None` for its own.
fn mac(body: &ConfigureVf) -> Result<Option<Mac>, Refusal> {
    let mac = Mac(body.mac);
    if mac.is_group() {
        return Err(bad(argument!(ConfigureVf, mac)));
    }
    Ok(Some(mac).filter(|mac| mac.0 != [0; 6]))
}

/// VLAN and priority of its access port, `None` for a trunk.
fn vlan(body: &ConfigureVf) -> Result<Option<(u16, u8)>, Refusal> {
    if body.vlan > LAST_VLAN {
        return Err(bad(argument!(ConfigureVf, vlan)));
    }
    let most = if body.vlan == 0 { 0 } else { 7 };
    if body.priority > most {
        return Err(bad(argument!(ConfigureVf, priority)));
    }
    Ok((body.vlan != 0).then_some((body.vlan, body.priority)))
}

fn weight(body: &ConfigureVf) -> Result<u8, Refusal> {
    match body.weight {
        0 => Err(bad(argument!(ConfigureVf, weight))),
        weight => Ok(weight),
    }
}

fn link(body: &ConfigureVf) -> Result<LinkMode, Refusal> {
    let link = VfLink::from_raw(body.link).ok_or(bad(argument!(ConfigureVf, link)))?;
    Ok(match link {
        VfLink::Auto => LinkMode::Auto,
        VfLink::Enabled => LinkMode::Enabled,
        VfLink::Disabled => LinkMode::Disabled,
    })
}

fn describe(state: &VfState) -> VfAttributes {
    let mut flags = VfFlags::empty();
    flags.set(VfFlags::SPOOF_CHECK, state.spoof_check);
    flags.set(VfFlags::TRUST, state.trusted);
    flags.set(VfFlags::ENABLED, state.enabled);
    flags.set(VfFlags::MAC_ASSIGNED, state.mac_assigned);
    flags.set(VfFlags::FIXED, state.fixed);
    flags.set(VfFlags::LINK_UP, state.link_up);
    let link = match state.link {
        LinkMode::Auto => VfLink::Auto,
        LinkMode::Enabled => VfLink::Enabled,
        LinkMode::Disabled => VfLink::Disabled,
    };
    let (vlan, priority) = state.vlan.unwrap_or_default();
    let traffic = &state.traffic;
    VfAttributes {
        flags: flags.bits(),
        max_rate: state.max_rate.unwrap_or(0),
        mac: state.next_mac.0,
        vlan,
        priority,
        link: link.raw(),
        weight: state.weight,
        state: state.state.raw(),
        current_mac: state.mac.0,
        tx_packets: traffic.tx_packets,
        tx_bytes: traffic.tx_bytes,
        tx_dropped: traffic.tx_dropped,
        rx_packets: traffic.rx_packets,
        rx_bytes: traffic.rx_bytes,
        rx_dropped: traffic.rx_dropped,
        rx_multicast: traffic.rx_multicast,
        local_bytes: traffic.local_bytes,
        ..VfAttributes::default()
    }
}
