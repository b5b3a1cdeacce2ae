//! The port and its addresses: ModifyPort and SetGid.
//!
//! An address belongs to one function of the port, so that packets find their way and nobody sends
//! from another's, and the operator's policy may not allow it at all. An entry that a queue pair sends from stays until that lets go of it.

use vrnic_abi::admin::{GidType, ModifyPort, SetGid, Status};
use vrnic_abi::counter::Counter;

use super::Context;
use super::command::{Refusal, Reply, argument, bad};
use crate::frontend::function::Function;
use crate::host::Host;
use crate::nic::{Breach, Unusable};
use crate::resource::GidEntry;
use crate::types::{Gid, Mac};

impl Function {
    pub(super) fn modify_port(&mut self, body: &ModifyPort) -> Result<Reply, Refusal> {
        if !(576..=9000).contains(&body.mtu) {
            return Err(bad(argument!(ModifyPort, mtu)));
        }
        self.mtu = body.mtu;
        Ok(Reply::default())
    }

    pub(super) fn set_gid<H: Host>(
        &mut self,
        cx: &mut Context<'_, H>,
        body: &SetGid,
    ) -> Result<Reply, Refusal> {
        let at = argument!(SetGid, index);
        if !self.objects.gids.contains(body.index) {
            return Err(bad(at));
        }
        let entry = self.gid_entry(body)?;
        let old = self.objects.gids.get(body.index).copied();
        if old != entry && self.objects.gids.in_use(body.index) {
            return Err(Refusal::new(Status::Busy, at));
        }
        // One that stays is registered again, as rules may have changed meanwhile.
        let replaced = cx.addresses.replace(cx.owner, old, entry);
        replaced.map_err(|why| self.unusable(why))?;
        self.objects.gids.set(body.index, entry);
        Ok(Reply::default())
    }

    fn unusable(&mut self, why: Unusable) -> Refusal {
        match why {
            Unusable::TakenGid => Refusal::new(Status::Busy, argument!(SetGid, gid)),
            Unusable::TakenMac => Refusal::new(Status::Busy, argument!(SetGid, mac)),
            Unusable::Forbidden(breach) => self.forbid(match breach {
                Breach::Mac => argument!(SetGid, mac),
                Breach::Vlan => argument!(SetGid, vlan),
                Breach::Gid => argument!(SetGid, gid),
            }),
        }
    }

    /// A refusal of what stands at `at`, as the operator's policy does not allow it.
    pub(super) fn forbid(&mut self, at: u32) -> Refusal {
        self.objects.count(Counter::PolicyRefusals, 1);
        Refusal::new(Status::NotPermitted, at)
    }

    pub(super) fn gid_entry(&self, body: &SetGid) -> Result<Option<GidEntry>, Refusal> {
        let gid_type = GidType::from_raw(body.gid_type);
        match gid_type.ok_or(bad(argument!(SetGid, gid_type)))? {
            GidType::Empty => return Ok(None),
            GidType::RoceV2 => {}
        }
        if body.vlan > 4094 {
            return Err(bad(argument!(SetGid, vlan)));
        }
        let gid = Gid(body.gid);
        let [first, ..] = body.gid;
        let multicast_v4 = gid.to_v4().is_some_and(|[a, ..]| a >= 224 || a == 0);
        if gid.is_zero() || first == 0xff || multicast_v4 {
            return Err(bad(argument!(SetGid, gid)));
        }
        let [first, ..] = body.mac;
        if first & 1 == 1 {
            return Err(bad(argument!(SetGid, mac)));
        }
        let mac = match body.mac {
            [0, 0, 0, 0, 0, 0] => self.identity.mac,
            mac => Mac(mac),
        };
        Ok(Some(GidEntry {
            gid,
            mac,
            vlan: body.vlan,
        }))
    }
}
