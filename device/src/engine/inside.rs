//! The engine from inside: what whoever operates the NIC sees and changes.
//!
//! A question ([`super::EngineHandle::ask`]) is called between two steps, on the engine's thread, with
//! an [`Inside`]. Everything else waits meanwhile, so it does a bounded amount of work, copies what it
//! wants to know and leaves formatting to whoever asked.

use vrnic_firmware::impair::{self, Impairment};
use vrnic_firmware::nic::Nic;
use vrnic_firmware::types::Time;

use super::port::Detour;
use super::recording::Recording;
use crate::host::FunctionHost;
use crate::link::{Link, LinkCounters};

/// An engine between two steps.
pub struct Inside<'a> {
    /// The NIC.
    pub nic: &'a mut Nic<FunctionHost>,
    pub(super) link: &'a dyn Link,
    pub(super) detour: &'a mut Option<Detour>,
    pub(super) enabled: &'a mut bool,
    pub(super) cut_off: u64,
    pub(super) now: Time,
}

/// The port and its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortState {
    /// The port has a link, as its functions were told.
    pub up: bool,
    /// The link has a peer.
    pub carrier: bool,
    /// The port is not switched off.
    pub enabled: bool,
    /// Speed that the port reports, in Mbit/s.
    pub speed: u32,
    /// What went over the link.
    pub link: LinkCounters,
    /// Frames lost because the port was switched off.
    pub cut_off: u64,
}

impl Inside<'_> {
    /// The time, as the NIC has it.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// The port and its link.
    #[must_use]
    pub fn port(&self) -> PortState {
        PortState {
            up: self.nic.is_link_up(),
            carrier: self.link.is_up(),
            enabled: *self.enabled,
            speed: self.nic.speed(),
            link: self.link.counters(),
            cut_off: self.cut_off + self.detour.as_ref().map_or(0, Detour::cut_off),
        }
    }

    /// Switches the port on or off. Off, it has no link for its functions, and no frame passes.
    pub fn enable_port(&mut self, on: bool) {
        *self.enabled = on;
        self.detour().set_cut(!on);
    }

    /// Records something else from now on, or nothing; returns what was recorded before.
    #[must_use]
    pub fn record(&mut self, recording: Option<Recording>) -> Option<Recording> {
        let before = self.detour().record(None);
        for function in before.iter().flat_map(Recording::functions) {
            self.nic.set_mirror(function, false);
        }
        for function in recording.iter().flat_map(Recording::functions) {
            self.nic.set_mirror(function, true);
        }
        self.detour().record(recording);
        before
    }

    /// Changes what happens to frames that enter the wire from now on.
    pub fn impair(&mut self, wire: &impair::Spec) {
        self.detour().impair(wire);
    }

    /// What impairs frames in a direction.
    #[must_use]
    pub fn impairment(&self, direction: impair::Direction) -> Option<&Impairment> {
        self.detour.as_ref()?.wire(direction)
    }

    /// The engine leaves it out again when there is nothing in it.
    fn detour(&mut self) -> &mut Detour {
        self.detour.get_or_insert_with(Detour::straight)
    }
}
