//! Filters: which Ethernet frames a raw packet queue pair receives. Sleepable context.
//!
//! Without a filter a raw packet queue pair receives nothing. A filter is an object of its own; the
//! device removes it with its queue pair.

use vrnic_abi::admin::{AdminOpcode, FilterFlags, FilterType, SetFilter};
use vrnic_abi::registers::Capabilities;

use crate::device::Driver;
use crate::error::Error;
use crate::memory::Handle;
use crate::platform::Platform;
use crate::qp::{QpControl, service};

/// Frames that a filter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// To an Ethernet address, unicast or multicast.
    Address([u8; 6]),
    /// To the broadcast address.
    Broadcast,
    /// To all multicast addresses, the broadcast address included.
    AllMulticast,
    /// All that reach the port.
    All,
}

/// How to create a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterConfig {
    /// Which frames.
    pub frames: Frames,
    /// Only those of a VLAN: its identifier, or 0 for untagged frames.
    pub vlan: Option<u16>,
    /// Shares the frames with filters that are alike, instead of taking a copy of each.
    pub spread: bool,
}

/// A filter.
pub struct Filter<P: Platform> {
    handle: Handle<P>,
}

impl<P: Platform> Filter<P> {
    /// Number of the filter.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.handle.number
    }

    /// Removes the filter.
    pub fn destroy(&mut self) -> Result<(), Error> {
        self.handle.destroy(AdminOpcode::ClearFilter)
    }
}

impl<P: Platform> Driver<P> {
    /// Directs frames to the raw packet queue pair `qp`.
    pub fn create_filter(
        &self,
        qp: &impl AsRef<QpControl<P>>,
        config: FilterConfig,
    ) -> Result<Filter<P>, Error> {
        let qp = qp.as_ref();
        self.require(Capabilities::RAW_PACKET, "raw packet queue pairs")?;
        service::require_raw(qp.qp_type())?;
        qp.object.handle.check()?;
        let (filter_type, mac) = match config.frames {
            Frames::Address(mac) => (FilterType::Address, mac),
            Frames::Broadcast => (FilterType::Broadcast, [0; 6]),
            Frames::AllMulticast => (FilterType::AllMulticast, [0; 6]),
            Frames::All => (FilterType::Promiscuous, [0; 6]),
        };
        let mut flags = FilterFlags::empty();
        flags.set(FilterFlags::VLAN, config.vlan.is_some());
        flags.set(FilterFlags::SPREAD, config.spread);
        let body = SetFilter {
            qp: qp.number(),
            filter_type: filter_type.raw(),
            flags: flags.bits(),
            vlan: config.vlan.unwrap_or(0),
            mac,
            ..SetFilter::default()
        };
        let generation = qp.object.handle.generation;
        let shared = &self.shared;
        let answer = shared.execute(generation, AdminOpcode::SetFilter, &body, None)?;
        let handle = Handle::new(shared, generation, answer.result0)?;
        Ok(Filter { handle })
    }
}
