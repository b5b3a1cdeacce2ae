//! What clients are told without having asked.

use std::time::SystemTime;

use serde::Serialize;

use super::names;
use super::protocol;
use crate::engine::Notice;

/// Something that happened. What each variant says stands in `docs/control.md`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Event<'a> {
    LinkUp {},
    LinkDown {},
    ClientAttached {
        function: u16,
    },
    ClientGone {
        function: u16,
    },
    FunctionReset {
        function: u16,
    },
    FunctionReady {
        function: u16,
    },
    FunctionFatal {
        function: u16,
        health: String,
        object: u32,
    },
    CaptureStarted {
        file: &'a str,
    },
    CaptureStopped {
        file: &'a str,
    },
    ImpairChanged {},
    EventsLost {
        count: u64,
    },
}

/// All names of events.
pub(crate) const NAMES: [&str; 11] = [
    "LINK_UP",
    "LINK_DOWN",
    "CLIENT_ATTACHED",
    "CLIENT_GONE",
    "FUNCTION_RESET",
    "FUNCTION_READY",
    "FUNCTION_FATAL",
    "CAPTURE_STARTED",
    "CAPTURE_STOPPED",
    "IMPAIR_CHANGED",
    "EVENTS_LOST",
];

impl Event<'_> {
    fn name(&self) -> &'static str {
        let index = match self {
            Self::LinkUp {} => 0,
            Self::LinkDown {} => 1,
            Self::ClientAttached { .. } => 2,
            Self::ClientGone { .. } => 3,
            Self::FunctionReset { .. } => 4,
            Self::FunctionReady { .. } => 5,
            Self::FunctionFatal { .. } => 6,
            Self::CaptureStarted { .. } => 7,
            Self::CaptureStopped { .. } => 8,
            Self::ImpairChanged {} => 9,
            Self::EventsLost { .. } => 10,
        };
        NAMES[index]
    }

    /// The line that says it, now.
    pub(crate) fn line(&self) -> Vec<u8> {
        protocol::event(self.name(), self, SystemTime::now())
    }
}

impl From<Notice> for Event<'_> {
    fn from(notice: Notice) -> Self {
        match notice {
            Notice::Link { up: true } => Self::LinkUp {},
            Notice::Link { up: false } => Self::LinkDown {},
            Notice::Reset { function } => Self::FunctionReset {
                function: function.index(),
            },
            Notice::Ready { function } => Self::FunctionReady {
                function: function.index(),
            },
            Notice::Fatal {
                function,
                code,
                object,
            } => Self::FunctionFatal {
                function: function.index(),
                health: names::health(code),
                object,
            },
        }
    }
}
