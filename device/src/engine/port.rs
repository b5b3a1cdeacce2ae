//! The NIC's port: frames go to the link and come from it, past what the user put in between.
//!
//! Without a capture and without an impairment, frames are built in the link's own memory, and one
//! look at an `Option` is what that costs. Otherwise they take a [`Detour`]. From the NIC outwards:
//!
//! ```text
//! NIC ── capture ── impairment ── link
//! ```
//!
//! The impairment is a part of the wire, so a capture shows what this NIC sent, lost frames too,
//! and what it got. Frames between functions of this NIC do not reach the wire; a capture shows
//! them, and nothing impairs them.

use vrnic_firmware::host::Wire;
use vrnic_firmware::impair::{self, Impairment};
use vrnic_firmware::types::Time;

use crate::capture::{Direction, Tap};
use crate::link::{Link, MAX_FRAME};

/// Frames that leave an impairment in one call: more than one step of the engine lets in.
const BUDGET: usize = 1024;

/// The transmit side of the port during one step.
pub(super) struct Port<'a> {
    link: &'a mut dyn Link,
    detour: Option<&'a mut Detour>,
    now: Time,
}

/// What stands between the NIC and its link.
pub(super) struct Detour {
    tap: Option<Tap>,
    transmit: Option<Impairment>,
    receive: Option<Impairment>,
    /// Where a frame is built, because it must be seen once more after that.
    staging: Vec<u8>,
    /// A frame is due that the link had no room for.
    blocked: bool,
}

impl Detour {
    /// The way past a capture and a bad wire; `None` if there is neither.
    pub(super) fn new(tap: Option<Tap>, wire: &impair::Spec) -> Option<Self> {
        let transmit = wire.build(impair::Direction::Transmit);
        let receive = wire.build(impair::Direction::Receive);
        if tap.is_none() && transmit.is_none() && receive.is_none() {
            return None;
        }
        Some(Self {
            tap,
            transmit,
            receive,
            staging: vec![0; MAX_FRAME],
            blocked: false,
        })
    }

    /// Takes a frame from the link; calls `deliver` at once if nothing impairs it.
    pub(super) fn receive(&mut self, now: Time, frame: &[u8], deliver: &mut dyn FnMut(&[u8])) {
        match &mut self.receive {
            Some(impairment) => impairment.handle(now, frame),
            None => {
                record(&mut self.tap, Direction::Received, frame);
                deliver(frame);
            }
        }
    }

    /// Calls `deliver` with the frames that have come through the impairment; returns whether there
    /// were any.
    pub(super) fn deliver_due(&mut self, now: Time, deliver: &mut dyn FnMut(&[u8])) -> bool {
        let Some(impairment) = &mut self.receive else {
            return false;
        };
        for count in 0..BUDGET {
            let Some(frame) = impairment.peek(now) else {
                return count != 0;
            };
            record(&mut self.tap, Direction::Received, frame);
            deliver(frame);
            impairment.pop();
        }
        true
    }

    /// Hands the frames that have come through the impairment to the link, as far as that has room;
    /// returns whether there were any.
    pub(super) fn send_due(&mut self, now: Time, link: &mut dyn Link) -> bool {
        let Some(impairment) = &mut self.transmit else {
            return false;
        };
        self.blocked = false;
        for count in 0..BUDGET {
            let Some(frame) = impairment.peek(now) else {
                return count != 0;
            };
            let Some(room) = link.reserve(frame.len()) else {
                self.blocked = true;
                return count != 0;
            };
            room[..frame.len()].copy_from_slice(frame);
            link.commit(frame.len());
            impairment.pop();
        }
        true
    }

    /// When the next frame comes through. One that waits for the link is woken for by the link.
    pub(super) fn next_timeout(&self) -> Option<Time> {
        let transmit = self.transmit.as_ref().filter(|_| !self.blocked);
        let both = transmit.into_iter().chain(&self.receive);
        both.filter_map(Impairment::next_timeout).min()
    }

    /// Hands what the capture has to the file.
    pub(super) fn flush(&mut self) {
        if let Some(tap) = &mut self.tap {
            tap.flush();
        }
    }

    fn reserve(&mut self, link: &mut dyn Link, length: usize) -> Option<&mut [u8]> {
        let room = match self.transmit {
            // Frames that are on their way count as gone; those that are stuck do not.
            Some(_) => !self.blocked && length <= link.max_frame(),
            None => link.reserve(length).is_some(),
        };
        self.staging.get_mut(..length).filter(|_| room)
    }

    fn commit(&mut self, link: &mut dyn Link, now: Time, length: usize) {
        let frame = self.staging.get(..length).unwrap_or_default();
        record(&mut self.tap, Direction::Sent, frame);
        if let Some(impairment) = &mut self.transmit {
            impairment.handle(now, frame);
            return;
        }
        // The room was there when the frame was begun, and nothing else has been sent since.
        if let Some(room) = link.reserve(length) {
            room[..frame.len()].copy_from_slice(frame);
        }
        link.commit(length);
    }
}

fn record(tap: &mut Option<Tap>, direction: Direction, frame: &[u8]) {
    if let Some(tap) = tap {
        tap.record(direction, frame);
    }
}

impl Drop for Detour {
    /// Says what the user could not see otherwise.
    fn drop(&mut self) {
        let lost = self.tap.as_ref().map_or(0, Tap::lost);
        if lost != 0 {
            log::warn!("the capture lacks {lost} frames: the disk was too slow");
        }
        for (name, impairment) in [("tx", &self.transmit), ("rx", &self.receive)] {
            if let Some(impairment) = impairment {
                log::info!("impaired {name}: {}", impairment.counters());
                for event in impairment.idle_events() {
                    log::warn!("no {name} packet was hit by the event '{event}'");
                }
            }
        }
    }
}

impl<'a> Port<'a> {
    pub(super) fn new(link: &'a mut dyn Link, detour: Option<&'a mut Detour>, now: Time) -> Self {
        Self { link, detour, now }
    }
}

impl Wire for Port<'_> {
    fn reserve(&mut self, length: usize) -> Option<&mut [u8]> {
        match &mut self.detour {
            None => self.link.reserve(length),
            Some(detour) => detour.reserve(self.link, length),
        }
    }

    fn commit(&mut self, length: usize) {
        match &mut self.detour {
            None => self.link.commit(length),
            Some(detour) => detour.commit(self.link, self.now, length),
        }
    }

    fn looped(&mut self, frame: &[u8]) {
        if let Some(detour) = &mut self.detour {
            record(&mut detour.tap, Direction::Sent, frame);
        }
    }
}

/// No port: received frames are handled, and what they make necessary is sent in the next step.
pub(super) struct NoWire;

impl Wire for NoWire {
    fn reserve(&mut self, _length: usize) -> Option<&mut [u8]> {
        None
    }

    fn commit(&mut self, _length: usize) {}
}
