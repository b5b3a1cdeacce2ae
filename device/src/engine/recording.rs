//! What an engine records: what crosses its port, or what passes the ports of some functions.
//!
//! Of the port, every frame is recorded as it leaves or arrives, and those between functions that
//! become frames (`--no-direct`). Of functions, what the firmware shows of them is: each frame as it
//! is in the network, once for each of them that sends or gets it, those that the direct path spares
//! included ([`Wire::mirrored`](vrnic_firmware::host::Wire::mirrored)). Each has an interface of its
//! own in the file. Which functions the firmware shows is set beside this ([`super::Inside::record`]).

use vrnic_firmware::host::MirrorSide;
use vrnic_firmware::nic::FunctionId;

use crate::capture::{Direction, Tap};

/// A tap, and what it is for.
pub struct Recording {
    tap: Tap,
    /// The functions, sorted, and their interfaces; the port without any.
    functions: Vec<(FunctionId, usize)>,
}

impl Recording {
    /// Of the port, which is the tap's first interface.
    #[must_use]
    pub fn of_port(tap: Tap) -> Self {
        let functions = Vec::new();
        Self { tap, functions }
    }

    /// Of functions, in the order of the tap's interfaces.
    #[must_use]
    pub fn of_functions(tap: Tap, functions: impl IntoIterator<Item = FunctionId>) -> Self {
        let mut functions: Vec<_> = functions.into_iter().zip(0..).collect();
        functions.sort_unstable();
        Self { tap, functions }
    }

    /// The functions that are recorded, if it is not the port.
    pub(super) fn functions(&self) -> impl Iterator<Item = FunctionId> + '_ {
        self.functions.iter().map(|(function, _)| *function)
    }

    /// A frame has crossed the port.
    pub(super) fn crossed(&mut self, direction: Direction, frame: &[u8]) {
        if self.functions.is_empty() {
            self.tap.record(0, direction, frame);
        }
    }

    /// A frame has passed the port of a function.
    pub(super) fn passed(&mut self, function: FunctionId, side: MirrorSide, frame: &[u8]) {
        let direction = match side {
            MirrorSide::Sent => Direction::Sent,
            MirrorSide::Received => Direction::Received,
        };
        let known = self
            .functions
            .binary_search_by_key(&function, |(of, _)| *of);
        if let Some((_, interface)) = known.ok().and_then(|at| self.functions.get(at)) {
            self.tap.record(*interface, direction, frame);
        }
    }

    /// Hands what was recorded to the file.
    pub(super) fn flush(&mut self) {
        self.tap.flush();
    }

    /// Frames that are missing in the file.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.tap.lost()
    }
}
