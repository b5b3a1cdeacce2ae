//! How the fake device carries commands out.

use vrnic_driver::abi::admin::{
    AdminOpcode, Buffer, Command, Completion, CreateCq, CreateEq, CreateMr, CreateQp, ModifyQp,
    ObjectOutput, ObjectReference, OutputBuffer, QpType, ReregisterMr, Status,
};
use vrnic_driver::abi::object::{DeviceAttributes, PortAttributes, QpAttributes, QpMask, QpState};
use vrnic_driver::abi::registers;

use crate::fake::{Device, Owner, Qp, Ring};

/// Both results, or why there are none.
pub(crate) type Results = Result<(u64, u64), Status>;

pub(crate) fn body<T: bytemuck::Pod>(command: &Command) -> T {
    bytemuck::pod_read_unaligned(&bytemuck::bytes_of(&command.body)[..size_of::<T>()])
}

fn attributes(device: &Device) -> DeviceAttributes {
    DeviceAttributes {
        capabilities: device.capabilities.bits(),
        vectors: device.vectors.into(),
        log_max_send_blocks: 10,
        log_max_receive_entries: 10,
        log_max_cq_entries: 12,
        log_max_eq_entries: 8,
        max_sge: 28,
        max_inline: 448,
        max_eq: 8,
        page_sizes: 0x7fff_f000,
        max_pages: 1 << 20,
        log_max_srq_entries: 10,
        max_fast_pages: 64,
        ..DeviceAttributes::default()
    }
}

impl Device {
    /// Carries out the command at `index` of those that wait, and completes it.
    pub(crate) fn run_command(&mut self, index: usize) {
        let command = self.held.remove(index).expect("a command waits");
        let opcode = AdminOpcode::from_raw(command.header.opcode).expect("known opcode");
        let refused = self.refuse == Some(opcode.raw());
        let results = if refused {
            Err(Status::NoResources)
        } else {
            self.commands_seen.push(command);
            self.carry_out(opcode, &command)
        };
        let forged = self.forged.get(&opcode.raw()).copied();
        let (status, (result0, result1)) = match results {
            Ok(results) => (Status::Success, forged.unwrap_or(results)),
            Err(status) => (status, (0, 0)),
        };
        self.complete_command(&Completion {
            result0,
            result1,
            id: command.header.id,
            status: status.raw(),
            opcode: opcode.raw(),
            ..Completion::default()
        });
    }

    pub(crate) fn complete_command(&mut self, completion: &Completion) {
        let mut completion = *completion;
        let log = self.commands.log;
        let base = self.registers[&registers::ADMIN_COMPLETION_BASE.offset];
        completion.owner = (self.completed >> log & 1 ^ 1) as u8;
        let position = u64::from(self.completed % (1 << log));
        self.completed = self.completed.wrapping_add(1);
        self.write(
            u64::from(base) + position * 32,
            bytemuck::bytes_of(&completion),
        );
        self.raised.insert(0);
    }

    pub(crate) fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }

    pub(crate) fn slot(&mut self, owner: Owner) -> u32 {
        let slot = (8..512)
            .find(|slot| !self.owners.contains_key(slot))
            .expect("a slot");
        self.owners.insert(slot, owner);
        self.slots.insert(slot, 0);
        slot
    }

    pub(crate) fn know(&mut self, buffer: &Buffer, what: &'static str, number: u32) {
        let size = u64::from(buffer.pages) << buffer.page_shift;
        if buffer.list == 0 {
            self.known.push((buffer.address, size, (what, number)));
        }
    }

    pub(crate) fn forget(&mut self, what: &'static str, number: u32) {
        let before = self.known.len();
        self.known.retain(|known| known.2 != (what, number));
        assert!(
            what == "MR" || self.known.len() < before,
            "{what} {number} is unknown"
        );
    }

    pub(crate) fn output<T: bytemuck::Pod>(&mut self, output: &OutputBuffer, value: &T) {
        assert_eq!(output.length as usize, size_of::<T>());
        self.write(output.address, bytemuck::bytes_of(value));
    }

    fn carry_out(&mut self, opcode: AdminOpcode, command: &Command) -> Results {
        let object = body::<ObjectReference>(command).object;
        match opcode {
            AdminOpcode::Nop => {}
            AdminOpcode::QueryDevice => self.output(&body(command), &attributes(self)),
            AdminOpcode::QueryPort => {
                let port = PortAttributes {
                    gid_entries: 16,
                    ..PortAttributes::default()
                };
                self.output(&body(command), &port);
            }
            AdminOpcode::AllocPd | AdminOpcode::AllocDoorbellPage => {
                return Ok((self.number().into(), 0));
            }
            AdminOpcode::FreePd => {}
            AdminOpcode::SetAsyncEq => self.async_eq = object,
            AdminOpcode::CreateMr => return Ok(self.create_mr(&body(command))),
            AdminOpcode::ReregisterMr => {
                let body: ReregisterMr = body(command);
                self.forget("MR", body.key);
                self.know(&body.buffer, "MR", body.key);
            }
            AdminOpcode::DestroyMr => {
                if self.keys.iter().any(|(key, _)| key >> 8 == object >> 8) {
                    self.free_key(object)?;
                }
                self.forget("MR", object);
            }
            AdminOpcode::CreateEq => return Ok(self.create_eq(&body(command))),
            AdminOpcode::CreateCq => return Ok(self.create_cq(&body(command))),
            AdminOpcode::DestroyCq => {
                self.forget("CQ", object);
                self.cqs.remove(&object);
                self.owners
                    .retain(|_, owner| !matches!(owner, Owner::Cq(n) if *n == object));
            }
            AdminOpcode::CreateQp => return Ok(self.create_qp(&body(command))),
            AdminOpcode::ModifyQp => self.modify_qp(&body(command)),
            AdminOpcode::QueryQp => {
                let body: ObjectOutput = body(command);
                let state = self.qps[&body.object].state;
                let attributes = QpAttributes {
                    state,
                    ..QpAttributes::default()
                };
                self.output(&body.output, &attributes);
            }
            AdminOpcode::DestroyQp => {
                let qp = self.qps.remove(&object).expect("queue pair");
                if qp.send_slot != 0 {
                    self.forget("QP", object);
                }
                let theirs = |owner: &Owner| matches!(owner, Owner::Send(n) | Owner::Receive(n) if *n == object);
                self.owners.retain(|_, owner| !theirs(owner));
            }
            _ => return self.carry_out_more(opcode, command),
        }
        Ok((0, 0))
    }

    fn create_mr(&mut self, body: &CreateMr) -> (u64, u64) {
        let number = self.number() << 8 | u32::from(body.variant);
        self.know(&body.buffer, "MR", number);
        (number.into(), 0)
    }

    fn create_eq(&mut self, body: &CreateEq) -> (u64, u64) {
        assert!(body.vector < self.vectors, "no such vector");
        let number = self.number();
        self.know(&body.buffer, "EQ", number);
        let ring = Ring {
            base: body.buffer.address,
            log: body.log_entries,
            vector: body.vector,
            ..Ring::default()
        };
        self.eqs.insert(number, ring);
        (number.into(), self.slot(Owner::Eq(number)).into())
    }

    fn create_cq(&mut self, body: &CreateCq) -> (u64, u64) {
        assert!(self.eqs.contains_key(&body.eq), "no such event queue");
        let number = self.number();
        self.know(&body.buffer, "CQ", number);
        let ring = Ring {
            base: body.buffer.address,
            log: body.log_entries,
            eq: body.eq,
            ..Ring::default()
        };
        self.cqs.insert(number, ring);
        (number.into(), self.slot(Owner::Cq(number)).into())
    }

    fn create_qp(&mut self, body: &CreateQp) -> (u64, u64) {
        let number = match QpType::from_raw(body.qp_type) {
            Some(QpType::Gsi) => 1,
            _ => self.next_qpn,
        };
        let mut qp = Qp {
            cqs: (body.send_cq, body.receive_cq),
            srq: body.srq,
            send_base: body.buffer.address,
            send_log: body.log_send_blocks,
            ..Qp::default()
        };
        if body.qp_type == QpType::XrcTarget.raw() {
            assert_eq!(body.buffer, Buffer::default(), "a target has no queues");
            self.qps.insert(number, qp);
            return (number.into(), 0);
        }
        self.know(&body.buffer, "QP", number);
        qp.send_slot = self.slot(Owner::Send(number));
        if body.srq == 0 && body.qp_type != QpType::XrcInitiator.raw() {
            qp.receive_slot = self.slot(Owner::Receive(number));
            let stride = 16u64 << body.log_receive_segments;
            qp.send_base += (stride << body.log_receive_entries).next_multiple_of(64);
        }
        let end = qp.send_base + (64 << qp.send_log);
        let size = u64::from(body.buffer.pages) << body.buffer.page_shift;
        assert!(end <= body.buffer.address + size, "the rings do not fit");
        self.qps.insert(number, qp);
        let slots = u64::from(qp.receive_slot) << 16 | u64::from(qp.send_slot);
        (number.into(), slots)
    }

    fn modify_qp(&mut self, body: &ModifyQp) {
        let attributes: QpAttributes = self.read_pod(body.attributes);
        let qp = self.qps.get_mut(&body.qp).expect("queue pair");
        if body.mask & QpMask::STATE.bits() == 0 {
            return;
        }
        qp.state = attributes.state;
        if attributes.state == 0 {
            (qp.fetched, qp.received) = (0, 0);
            let slots = [qp.send_slot, qp.receive_slot];
            for slot in slots.into_iter().filter(|slot| *slot != 0) {
                self.slots.insert(slot, 0);
            }
            self.fetched.retain(|(number, _)| *number != body.qp);
        } else if attributes.state == QpState::Error.raw() {
            self.flush_taken(body.qp);
        }
    }
}
