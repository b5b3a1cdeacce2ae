//! AttachMulticast and DetachMulticast (IBTA volume 1, 11.3.1 and 11.3.2).
//!
//! Membership is the function's own affair: joining the group in the network (IGMP, MLD) is the
//! business of the guest's network stack, whose frames go through raw packet queues.

use vrnic_abi::admin::{MulticastGroup, Status};

use super::Context;
use super::command::{Refusal, Reply, argument, bad, no_such};
use crate::frontend::address::is_multicast;
use crate::frontend::function::Function;
use crate::resource::Group;
use crate::transport::Kind;
use crate::types::Gid;

impl Function {
    pub(super) fn attach_multicast<H>(
        &mut self,
        cx: &mut Context<'_, H>,
        body: &MulticastGroup,
    ) -> Result<Reply, Refusal> {
        let group = self.group(body)?;
        if !cx.addresses.has_vlan(cx.owner, group.vlan) {
            return Err(self.forbid(argument!(MulticastGroup, vlan)));
        }
        if !self.objects.memberships.attach(group, body.qp) {
            return Err(Refusal::new(Status::NoResources, 0));
        }
        cx.addresses.attach(cx.owner, group, body.qp);
        Ok(Reply::default())
    }

    pub(super) fn detach_multicast<H>(
        &mut self,
        cx: &mut Context<'_, H>,
        body: &MulticastGroup,
    ) -> Result<Reply, Refusal> {
        let group = self.group(body)?;
        if !self.objects.memberships.detach(group, body.qp) {
            return Err(no_such(argument!(MulticastGroup, gid)));
        }
        cx.addresses.detach(cx.owner, group, body.qp);
        Ok(Reply::default())
    }

    /// The group that a command names.
    fn group(&self, body: &MulticastGroup) -> Result<Group, Refusal> {
        let at = argument!(MulticastGroup, qp);
        let qp = self.qps.get(body.qp).ok_or(no_such(at))?;
        if qp.transport.kind() != Kind::Ud {
            return Err(bad(at));
        }
        if body.vlan > 4094 {
            return Err(bad(argument!(MulticastGroup, vlan)));
        }
        let gid = Gid(body.gid);
        if !is_multicast(gid) {
            return Err(bad(argument!(MulticastGroup, gid)));
        }
        Ok(Group {
            vlan: body.vlan,
            gid,
        })
    }
}
