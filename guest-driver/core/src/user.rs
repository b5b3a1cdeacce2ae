//! Objects whose rings are in the memory of a user process.
//!
//! The process posts, polls and arms by itself, through a doorbell page of its own
//! ([`crate::DoorbellPage`]); what it and a kernel driver tell each other about that is in
//! [`vrnic_abi::verbs`]. The driver creates the objects in memory that it is given, changes and
//! destroys them, passes their events on, and never looks into the rings. So nothing here knows work
//! requests, and nothing is flushed in software if the function is lost: the process is told of
//! that by whoever told it of the function.
//!
//! Sizes are the user's. The device checks them, the driver only what it computes with them.
//!
//! A user's queue pair completes on a user's completion queues: a poller in the driver would not
//! know its requests, nor a poller of the user those of the driver. So the types are apart.
//!
//! The memory stays with the device as that of other objects does: until the object is destroyed
//! or the function has been reset.

mod cq;
mod qp;
mod srq;

pub use cq::{UserCompletionQueue, UserCqConfig};
pub use qp::{UserQpConfig, UserQueuePair, UserReceive};
pub use srq::{UserSharedReceiveQueue, UserSrqConfig};
