//! The device, its port, counters, the GID table, congestion. Sleepable context.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use bytemuck::Pod;
use vrnic_abi::admin::{
    AdminOpcode, ConfigureCongestion, CongestionFlags, GidType, ModifyPort, ObjectOutput,
    OutputBuffer, SetGid,
};
use vrnic_abi::counter::Counter;
use vrnic_abi::object::{
    CongestionAttributes, DeviceAttributes, EqAttributes, GidEntry, PortAttributes,
};
use vrnic_abi::registers::Capabilities;

use crate::admin::PendingCommand;
use crate::device::{Driver, Shared};
use crate::error::Error;
use crate::platform::{DmaBuffer, Lock, Platform};

/// The counters of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    values: Vec<u64>,
}

impl Counters {
    /// Value of `counter`; 0 if the device does not count that.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        let index = usize::from(counter.raw());
        self.values.get(index).copied().unwrap_or(0)
    }

    /// All counters that this driver knows, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        let pair = |&counter: &Counter| (counter, self.get(counter));
        Counter::ALL.iter().map(pair)
    }
}

/// What the port does about congestion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Congestion {
    /// What it does; nothing after reset.
    pub flags: CongestionFlags,
    /// Least time between two notifications of a queue pair in microseconds; 0 for the device's
    /// default.
    pub notification_interval: u16,
    /// Differentiated services code point of notifications, 0 to 63.
    pub notification_dscp: u8,
    /// Least rate of a queue pair in Mbit/s that notifications bring about; 0 for the device's
    /// default.
    pub minimum_rate: u32,
}

impl<P: Platform> Shared<P> {
    /// Issues a command that writes a `T` and reads it. `body` makes the command's body from the
    /// description of the output buffer.
    pub(crate) fn query<T: Pod, B: bytemuck::NoUninit>(
        self: &Arc<Self>,
        generation: u32,
        opcode: AdminOpcode,
        body: impl FnOnce(OutputBuffer) -> B,
    ) -> Result<T, Error> {
        let mut value = T::zeroed();
        self.query_into(generation, opcode, body, bytemuck::bytes_of_mut(&mut value))?;
        Ok(value)
    }

    /// The same for an answer that is too large for a kernel's stack.
    fn query_into<B: bytemuck::NoUninit>(
        self: &Arc<Self>,
        generation: u32,
        opcode: AdminOpcode,
        body: impl FnOnce(OutputBuffer) -> B,
        to: &mut [u8],
    ) -> Result<(), Error> {
        let memory = Arc::new(self.platform.allocate_dma(to.len())?);
        let output = OutputBuffer {
            address: memory.device_address(),
            length: to.len() as u32,
            reserved: 0,
        };
        let keep = Some(Arc::clone(&memory));
        self.execute(generation, opcode, &body(output), keep)?;
        memory.read(0, to);
        Ok(())
    }

    /// The same about one object.
    pub(crate) fn query_object<T: Pod>(
        self: &Arc<Self>,
        generation: u32,
        opcode: AdminOpcode,
        object: u32,
    ) -> Result<T, Error> {
        self.query(generation, opcode, |output| ObjectOutput {
            object,
            reserved: 0,
            output,
        })
    }

    pub(crate) fn query_device(self: &Arc<Self>) -> Result<DeviceAttributes, Error> {
        self.query(self.generation(), AdminOpcode::QueryDevice, |output| output)
    }

    pub(crate) fn query_port(self: &Arc<Self>) -> Result<PortAttributes, Error> {
        self.query(self.generation(), AdminOpcode::QueryPort, |output| output)
    }
}

impl<P: Platform> Driver<P> {
    /// Issues a command that has no result and names no object.
    pub(crate) fn set<B: bytemuck::NoUninit>(
        &self,
        opcode: AdminOpcode,
        body: &B,
    ) -> Result<(), Error> {
        let generation = self.shared.generation();
        let answer = self.shared.execute(generation, opcode, body, None);
        answer.map(drop)
    }

    /// Limits and identity as they are now.
    pub fn query_device(&self) -> Result<DeviceAttributes, Error> {
        self.shared.query_device()
    }

    /// The port as it is now.
    pub fn query_port(&self) -> Result<PortAttributes, Error> {
        self.shared.query_port()
    }

    /// Sets the largest Ethernet payload in bytes, 576 to 9000.
    pub fn set_mtu(&self, mtu: u32) -> Result<(), Error> {
        let body = ModifyPort { mtu, reserved: 0 };
        self.set(AdminOpcode::ModifyPort, &body)
    }

    /// Reads the counters.
    pub fn counters(&self) -> Result<Counters, Error> {
        let mut values = vec![0u64; Counter::ALL.len()];
        let shared = &self.shared;
        shared.query_into(
            shared.generation(),
            AdminOpcode::QueryCounters,
            |output| output,
            bytemuck::cast_slice_mut(&mut values),
        )?;
        Ok(Counters { values })
    }

    /// Sets entry `index` of the GID table to a RoCEv2 address; `gid` is in network byte order, an
    /// IPv4 address is `::ffff:a.b.c.d`. `vlan` is 0 for none.
    pub fn set_gid(&self, index: u32, gid: [u8; 16], vlan: u16) -> Result<(), Error> {
        self.set_gid_from(index, gid, vlan, [0; 6])
    }

    /// The same, with the Ethernet address to send from instead of the port's.
    pub fn set_gid_from(
        &self,
        index: u32,
        gid: [u8; 16],
        vlan: u16,
        mac: [u8; 6],
    ) -> Result<(), Error> {
        let body = SetGid {
            index,
            gid_type: GidType::RoceV2.raw(),
            vlan,
            gid,
            mac,
            ..SetGid::default()
        };
        self.set(AdminOpcode::SetGid, &body)?;
        let vlans = &self.shared.gid_vlans;
        vlans.with(|table| table.set(index, Some(vlan)));
        Ok(())
    }

    /// Frees entry `index` of the GID table.
    pub fn clear_gid(&self, index: u32) -> Result<(), Error> {
        let body = SetGid {
            index,
            gid_type: GidType::Empty.raw(),
            ..SetGid::default()
        };
        self.set(AdminOpcode::SetGid, &body)?;
        self.shared.gid_vlans.with(|table| table.set(index, None));
        Ok(())
    }

    /// Entry `index` of the GID table.
    pub fn query_gid(&self, index: u32) -> Result<GidEntry, Error> {
        let generation = self.shared.generation();
        self.shared
            .query_object(generation, AdminOpcode::QueryGid, index)
    }

    /// Sets what the port does about congestion.
    pub fn set_congestion(&self, congestion: Congestion) -> Result<(), Error> {
        self.require(Capabilities::ECN, "congestion control")?;
        let body = ConfigureCongestion {
            flags: congestion.flags.bits(),
            notification_interval: congestion.notification_interval,
            notification_dscp: congestion.notification_dscp,
            minimum_rate: congestion.minimum_rate,
            ..ConfigureCongestion::default()
        };
        self.set(AdminOpcode::ConfigureCongestion, &body)
    }

    /// What the port does about congestion, with the device's defaults filled in.
    pub fn query_congestion(&self) -> Result<Congestion, Error> {
        self.require(Capabilities::ECN, "congestion control")?;
        let generation = self.shared.generation();
        let opcode = AdminOpcode::QueryCongestion;
        let found: CongestionAttributes = self.shared.query(generation, opcode, |output| output)?;
        Ok(Congestion {
            flags: CongestionFlags::from_bits_truncate(found.flags),
            notification_interval: found.notification_interval,
            notification_dscp: found.notification_dscp,
            minimum_rate: found.minimum_rate,
        })
    }

    /// One of the driver's event queues as the device sees it: 0 is the one for asynchronous
    /// events, the next [`Self::completion_vectors`] are those for completions.
    pub fn query_eq(&self, index: u16) -> Result<EqAttributes, Error> {
        let eq = self.shared.eqs.get(usize::from(index));
        let eq = eq.ok_or(Error::BadArgument("event queue"))?;
        let generation = self.shared.generation();
        let number = eq.number().ok_or(Error::Stale)?;
        self.shared
            .query_object(generation, AdminOpcode::QueryEq, number)
    }

    /// Issues a command that does nothing, to be polled or waited for; several can be in flight.
    pub fn nop(&self) -> Result<PendingCommand<P>, Error> {
        let command = crate::admin::command(AdminOpcode::Nop, &[0u64; 0]);
        self.shared.submit(self.shared.generation(), command, None)
    }
}
