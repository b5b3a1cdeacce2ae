//! The fake device's commands about shared receive queues, keys and the rest of what is beside
//! regions and connected queue pairs.

use vrnic_driver::abi::admin::{
    AdminOpcode, AllocMr, AllocMw, Command, ConfigureCongestion, CreateAh, CreateSrq, ModifyCq,
    MulticastGroup, ObjectOutput, ObjectReference, ResizeCq, Status,
};
use vrnic_driver::abi::cqe::{CompletionEntry, CompletionOpcode, CompletionStatus};
use vrnic_driver::abi::doorbell;
use vrnic_driver::abi::object::{
    AhAttributes, CongestionAttributes, CqAttributes, EqAttributes, MrAttributes, SrqAttributes,
};

use crate::fake::{Device, Owner, Srq};
use crate::fake_commands::{Results, body};

/// Members of multicast groups that there can be.
const MOST_MEMBERS: usize = 6;

impl Device {
    pub(crate) fn carry_out_more(&mut self, opcode: AdminOpcode, command: &Command) -> Results {
        let object = body::<ObjectReference>(command).object;
        match opcode {
            AdminOpcode::CreateSrq => return Ok(self.create_srq(&body(command))),
            AdminOpcode::DestroySrq => self.destroy_srq(object)?,
            AdminOpcode::ResizeCq => return Ok(self.resize_cq(&body(command))),
            AdminOpcode::AllocMr => {
                let variant = body::<AllocMr>(command).variant;
                return Ok((self.new_key(variant).into(), 0));
            }
            AdminOpcode::AllocMw => {
                let variant = body::<AllocMw>(command).variant;
                return Ok((self.new_key(variant).into(), 0));
            }
            AdminOpcode::FreeMw => self.free_key(object)?,
            AdminOpcode::AttachMulticast | AdminOpcode::DetachMulticast => {
                self.change_member(opcode, &body(command))?;
            }
            AdminOpcode::QueryMr
            | AdminOpcode::QueryCq
            | AdminOpcode::QueryEq
            | AdminOpcode::QuerySrq
            | AdminOpcode::QueryAh
            | AdminOpcode::QueryCongestion => self.query(opcode, command)?,
            AdminOpcode::AllocXrcd | AdminOpcode::SetFilter | AdminOpcode::CreateAh => {
                return Ok((self.number().into(), 0));
            }
            AdminOpcode::ModifyCq
            | AdminOpcode::ModifySrq
            | AdminOpcode::ConfigureCongestion
            | AdminOpcode::SetGid
            | AdminOpcode::DestroyAh
            | AdminOpcode::ClearFilter
            | AdminOpcode::FreeXrcd => {}
            other => panic!("the fake device does not know {other:?}"),
        }
        Ok((0, 0))
    }

    /// The body of the latest command `opcode`.
    #[track_caller]
    pub(crate) fn latest<T: bytemuck::Pod>(&self, opcode: AdminOpcode) -> T {
        let mut seen = self.commands_seen.iter().rev();
        let command = seen.find(|command| command.header.opcode == opcode.raw());
        body(command.expect("the command was sent"))
    }

    /// Attaches to a group, once, as long as there is room, or detaches.
    fn change_member(&mut self, opcode: AdminOpcode, body: &MulticastGroup) -> Result<(), Status> {
        let member = (body.qp, body.gid, body.vlan);
        if opcode == AdminOpcode::DetachMulticast {
            let was = self.members.remove(&member);
            return was.then_some(()).ok_or(Status::NoSuchObject);
        }
        if self.members.len() == MOST_MEMBERS && !self.members.contains(&member) {
            return Err(Status::NoResources);
        }
        self.members.insert(member);
        Ok(())
    }

    fn create_srq(&mut self, body: &CreateSrq) -> (u64, u64) {
        let number = self.next_srqn;
        self.know(&body.buffer, "SRQ", number);
        let slot = self.slot(Owner::Srq(number));
        let srq = Srq {
            base: body.buffer.address,
            log: body.log_entries,
            log_segments: body.log_segments,
            slot,
            taken: 0,
            cq: body.cq,
            in_use: None,
        };
        self.srqs.insert(number, srq);
        (number.into(), slot.into())
    }

    fn destroy_srq(&mut self, number: u32) -> Result<(), Status> {
        if self.qps.values().any(|qp| qp.srq == number) {
            return Err(Status::Busy);
        }
        self.forget("SRQ", number);
        self.srqs.remove(&number).ok_or(Status::NoSuchObject)?;
        let theirs = |owner: &Owner| matches!(owner, Owner::Srq(n) if *n == number);
        self.owners.retain(|_, owner| !theirs(owner));
        Ok(())
    }

    /// Takes the next entry of a shared receive queue: its index and the address in its first
    /// segment.
    pub(crate) fn take(&mut self, srqn: u32) -> Option<(u32, u64)> {
        let srq = self.srqs.get_mut(&srqn).expect("shared receive queue");
        let posted = doorbell::index(self.slots.get(&srq.slot).copied().unwrap_or(0));
        let index = srq.taken;
        if posted == index {
            return None;
        }
        srq.taken = index.wrapping_add(1);
        let place = u64::from(index % (1 << srq.log)) * (16 << srq.log_segments);
        let address = srq.base + place;
        Some((index, self.read_pod(address)))
    }

    /// Completes an entry that `qpn` has taken.
    pub(crate) fn complete_taken(&mut self, qpn: u32, srqn: u32, index: u32) {
        self.end_taken(qpn, srqn, index, CompletionStatus::Success);
    }

    /// Flushes the entry that `qpn` has in use.
    pub(crate) fn flush_taken(&mut self, qpn: u32) {
        let in_use = |(number, srq): (&u32, &mut Srq)| {
            let (_, index) = srq.in_use.take_if(|(user, _)| *user == qpn)?;
            Some((*number, index))
        };
        if let Some((srqn, index)) = self.srqs.iter_mut().find_map(in_use) {
            self.end_taken(qpn, srqn, index, CompletionStatus::Flushed);
        }
    }

    fn end_taken(&mut self, qpn: u32, srqn: u32, index: u32, status: CompletionStatus) {
        let cqn = match self.srqs[&srqn].cq {
            0 => self.qps[&qpn].cqs.1,
            cqn => cqn,
        };
        let entry = CompletionEntry {
            qpn,
            srqn,
            wqe_index: index,
            opcode: CompletionOpcode::Receive.raw(),
            status: status.raw(),
            ..CompletionEntry::default()
        };
        self.write_completion_to(cqn, entry);
    }

    fn resize_cq(&mut self, body: &ResizeCq) -> (u64, u64) {
        self.forget("CQ", body.cq);
        self.know(&body.buffer, "CQ", body.cq);
        let cq = self.cqs.get_mut(&body.cq).expect("completion queue");
        cq.first = cq.producer;
        cq.base = body.buffer.address;
        cq.log = body.log_entries;
        (cq.first.into(), 0)
    }

    fn new_key(&mut self, variant: u8) -> u32 {
        let key = self.number() << 8 | u32::from(variant);
        self.keys.push((key, false));
        key
    }

    pub(crate) fn free_key(&mut self, key: u32) -> Result<(), Status> {
        let before = self.keys.len();
        self.keys.retain(|(known, _)| *known != key);
        if self.keys.len() == before {
            return Err(Status::NoSuchObject);
        }
        Ok(())
    }

    /// Gives the object of `old` the key `new`.
    #[track_caller]
    pub(crate) fn change_key(&mut self, old: u32, new: u32, valid: bool) {
        let known = self.keys.iter_mut().find(|(key, _)| *key == old);
        *known.expect("the key is known") = (new, valid);
    }

    fn query(&mut self, opcode: AdminOpcode, command: &Command) -> Result<(), Status> {
        let ObjectOutput { object, output, .. } = body(command);
        match opcode {
            AdminOpcode::QueryMr => {
                let known = self.keys.iter().find(|(key, _)| *key == object);
                let (key, valid) = *known.ok_or(Status::NoSuchObject)?;
                let attributes = MrAttributes {
                    key,
                    valid: valid.into(),
                    ..MrAttributes::default()
                };
                self.output(&output, &attributes);
            }
            AdminOpcode::QueryCq => {
                let cq = self.cqs[&object];
                let moderation: ModifyCq = self.latest(AdminOpcode::ModifyCq);
                let attributes = CqAttributes {
                    entries: 1 << cq.log,
                    producer: cq.producer,
                    consumer: cq.consumer,
                    base: cq.first,
                    moderation_count: moderation.moderation_count,
                    moderation_period: moderation.moderation_period,
                    ..CqAttributes::default()
                };
                self.output(&output, &attributes);
            }
            AdminOpcode::QueryEq => {
                let eq = self.eqs[&object];
                let attributes = EqAttributes {
                    entries: 1 << eq.log,
                    vector: eq.vector,
                    ..EqAttributes::default()
                };
                self.output(&output, &attributes);
            }
            AdminOpcode::QuerySrq => {
                let srq = self.srqs[&object];
                let attributes = SrqAttributes {
                    entries: 1 << srq.log,
                    consumer: srq.taken,
                    cq: srq.cq,
                    ..SrqAttributes::default()
                };
                self.output(&output, &attributes);
            }
            AdminOpcode::QueryAh => {
                let created: CreateAh = self.latest(AdminOpcode::CreateAh);
                let attributes = AhAttributes {
                    pd: created.pd,
                    reserved: 0,
                    vector: created.vector,
                };
                self.output(&output, &attributes);
            }
            _ => {
                let set: ConfigureCongestion = self.latest(AdminOpcode::ConfigureCongestion);
                let attributes = CongestionAttributes {
                    flags: set.flags,
                    notification_interval: set.notification_interval,
                    notification_dscp: set.notification_dscp,
                    minimum_rate: set.minimum_rate,
                    ..CongestionAttributes::default()
                };
                self.output(&body(command), &attributes);
            }
        }
        Ok(())
    }
}
