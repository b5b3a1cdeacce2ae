//! The functions that a process serves, and on which socket.
//!
//! Whoever adds a function to the server, or takes one away, says so here. A function is named by its
//! number on the engine, which is unique while it is served.

use std::path::PathBuf;

use vrnic_firmware::nic::FunctionId;
use vrnic_firmware::types::Mac;
use vrnic_vfio_user::{Server, SocketId};

use super::events::Event;
use crate::function::{Attachment, Function};
use crate::slots::Planned;

/// A function that is served.
#[derive(Debug)]
pub struct Station {
    /// Its name on the engine.
    pub id: FunctionId,
    /// Its socket.
    pub socket: SocketId,
    /// Where that is.
    pub path: PathBuf,
    /// The Ethernet address that it was given.
    pub mac: Mac,
    /// The client, as clients of the control socket know it.
    seen: Attachment,
}

/// All functions that are served.
#[derive(Debug, Default)]
pub struct Roster(Vec<Station>);

impl Roster {
    /// A function is served from now on.
    pub fn add(&mut self, planned: Planned, socket: SocketId) {
        let at = self.0.partition_point(|station| station.id < planned.id);
        let station = Station {
            id: planned.id,
            socket,
            path: planned.socket,
            mac: planned.mac,
            seen: Attachment::default(),
        };
        self.0.insert(at, station);
    }

    /// Serves a function no longer: its client is disconnected, its socket's file is removed, and the
    /// engine forgets it. Returns false if there is no such function.
    pub(crate) fn remove(
        &mut self,
        id: FunctionId,
        server: &mut Server<Function>,
        tell: &mut dyn FnMut(&Event<'_>),
    ) -> bool {
        let Some(at) = self.0.iter().position(|station| station.id == id) else {
            return false;
        };
        let mut station = self.0.remove(at);
        // Its client, if it has one, detaches now.
        if let Some(function) = server.remove(station.socket) {
            station.look(function.attachment(), tell);
        }
        true
    }

    /// The function with `number`.
    #[must_use]
    pub fn get(&self, number: u16) -> Option<&Station> {
        self.0.iter().find(|station| station.id.index() == number)
    }

    /// All functions, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Station> {
        self.0.iter()
    }

    /// Looks at which clients came and went since the last call.
    pub(crate) fn watch(&mut self, server: &Server<Function>, tell: &mut dyn FnMut(&Event<'_>)) {
        for station in &mut self.0 {
            let device = server.device(station.socket);
            let now = device.map_or_else(Attachment::default, Function::attachment);
            station.look(now, tell);
        }
    }
}

impl Station {
    /// Notes which client there is now.
    fn look(&mut self, now: Attachment, tell: &mut dyn FnMut(&Event<'_>)) {
        let before = std::mem::replace(&mut self.seen, now);
        let function = self.id.index();
        let (gone, came) = changes(before, now);
        if gone {
            tell(&Event::ClientGone { function });
        }
        if came {
            tell(&Event::ClientAttached { function });
        }
    }
}

/// Whether the client of `before` is gone, and another one has come.
fn changes(before: Attachment, now: Attachment) -> (bool, bool) {
    let another = before.count != now.count;
    let gone = before.attached && (another || !now.attached);
    (gone, now.attached && another)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_come_and_go_are_noticed() {
        let state = |attached, count| Attachment { attached, count };
        let none = state(false, 0);
        assert_eq!(changes(none, none), (false, false));
        assert_eq!(changes(none, state(true, 1)), (false, true));
        assert_eq!(changes(state(true, 1), state(true, 1)), (false, false));
        assert_eq!(changes(state(true, 1), state(false, 1)), (true, false));
        assert_eq!(changes(state(true, 1), state(true, 2)), (true, true));
        assert_eq!(changes(state(true, 1), state(false, 2)), (true, false));
        // One that came and went in between is not worth two events.
        assert_eq!(changes(none, state(false, 1)), (false, false));
    }
}
