//! The native front end: what guests see, and how it becomes work for the core.
//!
//! [`vrnic_abi`] defines the formats; the rest of the crate never sees them, so that another front
//! end can stand beside this one. A [`Function`] is the whole state of one PCI function. In the
//! order in which a driver meets them:
//!
//! * [`registers`]: reset, enabling, errors;
//! * `admin`: the admin queue, its commands and what they do;
//! * [`event`], [`completion`]: the queues that the device writes, their [`entry_ring`], and
//!   [`moderation`] of what they announce;
//! * [`ring`], [`shared_receive`], [`work`]: the queues that the driver writes; [`address`],
//!   [`keys`]: what requests and commands say in common;
//! * [`mod@env`], [`frame`], [`payload`]: all of that as a queue pair of the transport sees it;
//! * [`objects`], [`queue_pairs`], [`function`]: where everything lives, `remains`: and ends;
//!   [`inspect`]: how somebody beside the driver looks at it.
//!
//! Whatever the driver writes is fetched once, checked, and used from the copy. What is wrong with
//! a command is a status, with a work request a completion and the queue pair's error state, with a
//! completion queue the error state of its queue pairs, with the rings of the function itself the
//! function's error state; nothing reaches another function.

pub mod address;
mod admin;
pub mod completion;
pub mod entry_ring;
pub mod env;
pub mod event;
pub mod frame;
pub mod function;
pub mod inspect;
pub mod keys;
pub mod moderation;
pub mod objects;
pub mod payload;
pub mod queue_pairs;
pub mod registers;
mod remains;
pub mod ring;
pub mod shared_receive;
pub mod work;

pub(crate) use admin::Administration;
pub use admin::Context;
pub use function::{Function, Identity};
pub use registers::Fault;
pub(crate) use remains::Remains;
