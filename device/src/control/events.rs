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
    FunctionAdded {
        function: u16,
        number: u16,
    },
    FunctionRemoved {
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
pub(crate) const NAMES: [&str; 13] = [
    "LINK_UP",
    "LINK_DOWN",
    "CLIENT_ATTACHED",
    "CLIENT_GONE",
    "FUNCTION_ADDED",
    "FUNCTION_REMOVED",
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
            Self::FunctionAdded { .. } => 4,
            Self::FunctionRemoved { .. } => 5,
            Self::FunctionReset { .. } => 6,
            Self::FunctionReady { .. } => 7,
            Self::FunctionFatal { .. } => 8,
            Self::CaptureStarted { .. } => 9,
            Self::CaptureStopped { .. } => 10,
            Self::ImpairChanged {} => 11,
            Self::EventsLost { .. } => 12,
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
            Notice::Added { function, number } => Self::FunctionAdded {
                function: function.index(),
                number,
            },
            Notice::Removed { function } => Self::FunctionRemoved {
                function: function.index(),
            },
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
