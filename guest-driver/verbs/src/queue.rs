//! The queues of a process: rings in its memory, doorbells in its pages.
//!
//! * [`SendQueue`], [`ReceiveQueue`]: the two of a queue pair, by whoever posts;
//! * [`SharedQueue`]: a shared receive queue, by whoever posts and whoever polls;
//! * [`CompletionQueue`]: completions, and whose requests they are for;
//! * [`Tables`]: requests in flight of a queue pair, between poster and poller.
//!
//! Who uses a queue has it for himself: locks are around it. Only [`Tables`] are used by a poster
//! and a poller at the same time. Nothing here allocates, makes a system call or sleeps for a
//! request or a completion.

mod completion;
mod receive;
mod send;
mod shared;
mod tables;

pub(crate) use completion::{BadBase, CompletionQueue};
pub(crate) use receive::ReceiveQueue;
pub(crate) use send::SendQueue;
pub(crate) use shared::SharedQueue;
pub(crate) use tables::{Source, Tables};
