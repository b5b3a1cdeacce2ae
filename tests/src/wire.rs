//! A simulated wire between two ports.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use vrnic_firmware::host;

/// How bad a wire is; probabilities are per frame, in parts of 1,000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Frames lost.
    pub lose: u32,
    /// Frames delivered twice.
    pub duplicate: u32,
    /// Frames held back for up to twenty times the delay.
    pub reorder: u32,
    /// Frames with one bit flipped.
    pub corrupt: u32,
}

/// Nanoseconds that a frame takes.
pub const DELAY: u64 = 2_000;

/// Frames that the ports take before they say that there is no room.
pub const ROOM: usize = 512;

/// Frames on their way between port 0 and port 1.
pub struct Wire {
    faults: Faults,
    random: SmallRng,
    in_flight: BinaryHeap<Reverse<Flight>>,
    sequence: u64,
    /// Frames that were lost, duplicated, held back or corrupted.
    pub disturbed: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    arrival: u64,
    sequence: u64,
    to: usize,
    frame: Vec<u8>,
}

impl Wire {
    /// A wire with the faults that `seed` brings.
    #[must_use]
    pub fn new(faults: Faults, seed: u64) -> Self {
        Self {
            faults,
            random: SmallRng::seed_from_u64(seed),
            in_flight: BinaryHeap::new(),
            sequence: 0,
            disturbed: 0,
        }
    }

    fn happens(&mut self, thousandths: u32) -> bool {
        let happens = self.random.random_range(0..1000) < thousandths;
        self.disturbed += u64::from(happens);
        happens
    }

    fn carry(&mut self, now: u64, from: usize, mut frame: Vec<u8>) {
        if self.happens(self.faults.lose) {
            return;
        }
        if self.happens(self.faults.corrupt) {
            let bit = self.random.random_range(0..frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        let copies = if self.happens(self.faults.duplicate) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let mut arrival = now + DELAY;
            if self.happens(self.faults.reorder) {
                arrival += self.random.random_range(0..20 * DELAY);
            }
            self.sequence += 1;
            self.in_flight.push(Reverse(Flight {
                arrival,
                sequence: self.sequence,
                to: 1 - from,
                frame: frame.clone(),
            }));
        }
    }

    /// When the next frame arrives.
    #[must_use]
    pub fn next_arrival(&self) -> Option<u64> {
        self.in_flight.peek().map(|Reverse(flight)| flight.arrival)
    }

    /// The next frame that has arrived by `now`, and at which port.
    pub fn arrived(&mut self, now: u64) -> Option<(usize, Vec<u8>)> {
        if self.next_arrival()? > now {
            return None;
        }
        self.in_flight
            .pop()
            .map(|Reverse(flight)| (flight.to, flight.frame))
    }
}

/// The transmit side of a port.
pub struct Transmit<'a> {
    /// The wire.
    pub wire: &'a mut Wire,
    /// The current time.
    pub now: u64,
    /// The port.
    pub port: usize,
    /// Where the frame is built.
    pub frame: Vec<u8>,
}

impl host::Wire for Transmit<'_> {
    fn reserve(&mut self, length: usize) -> Option<&mut [u8]> {
        if self.wire.in_flight.len() >= ROOM {
            return None;
        }
        self.frame = vec![0xee; length];
        Some(&mut self.frame)
    }

    fn commit(&mut self, length: usize) {
        let mut frame = std::mem::take(&mut self.frame);
        frame.truncate(length);
        self.wire.carry(self.now, self.port, frame);
    }
}
