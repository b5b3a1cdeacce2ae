//! Types of queue pairs and what each of them has.

/// Type of a queue pair (IBTA volume 1, 10.2.4.2; XRC: annex A14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Reliable connected.
    #[default]
    Rc,
    /// Unreliable connected.
    Uc,
    /// Unreliable datagram.
    Ud,
    /// The general services interface: datagrams of the connection manager, queue pair 1.
    Gsi,
    /// Raw Ethernet frames.
    Raw,
    /// Extended reliable connected: sends requests, receives responses only.
    XrcInitiator,
    /// Extended reliable connected: answers requests, has no work queues of its own.
    XrcTarget,
}

impl Kind {
    /// Whether it has a send queue.
    #[must_use]
    pub const fn has_send_queue(self) -> bool {
        !matches!(self, Self::XrcTarget)
    }

    /// Whether requests of a peer reach it.
    #[must_use]
    pub const fn takes_requests(self) -> bool {
        !matches!(self, Self::XrcInitiator)
    }

    /// Whether it has one peer, known before it sends or receives.
    #[must_use]
    pub const fn is_connected(self) -> bool {
        matches!(
            self,
            Self::Rc | Self::Uc | Self::XrcInitiator | Self::XrcTarget
        )
    }

    /// Whether its requests are acknowledged.
    #[must_use]
    pub const fn is_reliable(self) -> bool {
        matches!(self, Self::Rc | Self::XrcInitiator | Self::XrcTarget)
    }

    /// Whether its messages are datagrams of InfiniBand.
    #[must_use]
    pub const fn is_datagram(self) -> bool {
        matches!(self, Self::Ud | Self::Gsi)
    }
}
