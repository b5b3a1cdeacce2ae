//! SetFilter and ClearFilter: which received Ethernet frames go to which raw packet queue pair.
//!
//! A unicast address belongs to one function of the port, as a GID does, so that nobody gets the
//! frames of another, and the operator's policy may not allow it. A filter that is set takes frames at once; it goes with its queue pair.

use vrnic_abi::admin::{FilterFlags, FilterType, ObjectReference, SetFilter, Status};
use vrnic_abi::counter::Counter;

use super::Context;
use super::command::{Refusal, Reply, argument, bad, no_such};
use crate::frontend::function::Function;
use crate::nic::Claim;
use crate::resource::{Filter, Wanted};
use crate::transport::Kind;
use crate::types::Mac;

impl Function {
    pub(super) fn set_filter<H>(
        &mut self,
        cx: &mut Context<'_, H>,
        body: &SetFilter,
    ) -> Result<Reply, Refusal> {
        let at = argument!(SetFilter, qp);
        let qp = self.qps.get(body.qp).ok_or(no_such(at))?;
        if qp.transport.kind() != Kind::Raw {
            return Err(bad(at));
        }
        let filter = filter(body)?;
        if let Wanted::Address(mac) = filter.wanted {
            self.check_address(cx, mac)?;
        }
        let number = self.objects.filters.add(filter);
        let number = number.ok_or(Refusal::new(Status::NoResources, 0))?;
        cx.addresses.switch.add_filter(cx.owner, number, &filter);
        Ok(Reply::number(number))
    }

    /// Checks that the function may have the frames to an address.
    fn check_address<H>(&mut self, cx: &Context<'_, H>, mac: Mac) -> Result<(), Refusal> {
        let at = argument!(SetFilter, mac);
        match cx.addresses.claim(cx.owner, mac) {
            Claim::Own => Ok(()),
            Claim::Taken => Err(Refusal::new(Status::Busy, at)),
            Claim::Forbidden => Err(self.forbid(at)),
            Claim::Further { most } => {
                let mut others = self.objects.filters.addresses();
                others.retain(|other| {
                    let own = [self.identity.mac, mac].contains(other);
                    !own && !cx.addresses.is_listed(cx.owner, *other)
                });
                if others.len() >= most {
                    self.objects.count(Counter::PolicyRefusals, 1);
                    return Err(Refusal::new(Status::NoResources, at));
                }
                Ok(())
            }
        }
    }

    pub(super) fn clear_filter<H>(
        &mut self,
        cx: &mut Context<'_, H>,
        number: u32,
    ) -> Result<Reply, Refusal> {
        let filter = self.objects.filters.remove(number);
        let filter = filter.ok_or(no_such(argument!(ObjectReference, object)))?;
        cx.addresses.switch.remove_filter(cx.owner, number, &filter);
        Ok(Reply::default())
    }

    /// Removes everything by which a queue pair receives without being addressed: filters and
    /// multicast groups.
    pub(super) fn forget_receiver<H>(&mut self, cx: &mut Context<'_, H>, qpn: u32) {
        for (number, filter) in self.objects.filters.remove_of(qpn) {
            cx.addresses.switch.remove_filter(cx.owner, number, &filter);
        }
        for group in self.objects.memberships.remove_of(qpn) {
            cx.addresses.detach(cx.owner, group, qpn);
        }
    }
}

fn filter(body: &SetFilter) -> Result<Filter, Refusal> {
    let kind = FilterType::from_raw(body.filter_type);
    let flags = FilterFlags::from_bits(body.flags);
    let wanted = match kind.ok_or(bad(argument!(SetFilter, filter_type)))? {
        FilterType::Address if body.mac == [0; 6] => {
            return Err(bad(argument!(SetFilter, mac)));
        }
        FilterType::Address => Wanted::Address(Mac(body.mac)),
        FilterType::Broadcast => Wanted::Broadcast,
        FilterType::AllMulticast => Wanted::AllMulticast,
        FilterType::Promiscuous => Wanted::Promiscuous,
    };
    let flags = flags.ok_or(bad(argument!(SetFilter, flags)))?;
    let vlan = flags.contains(FilterFlags::VLAN).then_some(body.vlan);
    if vlan.is_some_and(|vlan| vlan > 4094) {
        return Err(bad(argument!(SetFilter, vlan)));
    }
    Ok(Filter {
        wanted,
        vlan,
        spread: flags.contains(FilterFlags::SPREAD),
        qpn: body.qp,
    })
}
