//! The NIC's port: frames go to the link, and past the capture.

use vrnic_firmware::host::Wire;

use crate::capture::{Direction, Tap};
use crate::link::{Link, MAX_FRAME};

/// The transmit side of the port during one step.
pub(super) struct Port<'a> {
    link: &'a mut dyn Link,
    capture: Option<&'a mut Capture>,
}

/// A capture of what crosses the port.
pub(super) struct Capture {
    pub(super) tap: Tap,
    /// Where a frame is built, because it must be seen once more after that.
    staging: Vec<u8>,
}

impl Capture {
    pub(super) fn new(tap: Tap) -> Self {
        let staging = vec![0; MAX_FRAME];
        Self { tap, staging }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.tap.lost() != 0 {
            log::warn!(
                "the capture lacks {} frames: the disk was too slow",
                self.tap.lost()
            );
        }
    }
}

impl<'a> Port<'a> {
    pub(super) fn new(link: &'a mut dyn Link, capture: Option<&'a mut Capture>) -> Self {
        Self { link, capture }
    }
}

impl Wire for Port<'_> {
    fn reserve(&mut self, length: usize) -> Option<&mut [u8]> {
        let room = self.link.reserve(length)?;
        match &mut self.capture {
            None => Some(room),
            Some(capture) => capture.staging.get_mut(..length),
        }
    }

    fn commit(&mut self, length: usize) {
        if let Some(capture) = &mut self.capture {
            let frame = capture.staging.get(..length).unwrap_or_default();
            capture.tap.record(Direction::Sent, frame);
            // The room was there when the frame was begun, and nothing else has been sent since.
            if let Some(room) = self.link.reserve(length) {
                room[..frame.len()].copy_from_slice(frame);
            }
        }
        self.link.commit(length);
    }

    fn looped(&mut self, frame: &[u8]) {
        if let Some(capture) = &mut self.capture {
            capture.tap.record(Direction::Sent, frame);
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
