//! The admin queue and its commands (see [`vrnic_abi::admin`]).
//!
//! `ring` fetches commands and writes completions, `command` parses, `execute` carries out; what a
//! command does stands with its objects: `regions`, `windows`, `queues`, `shared_receive`,
//! `queue_pairs`, `modify`, `handles`, `multicast`, `filters`, `port`, `congestion`, `doorbells`,
//! `virtual_functions`; `query` writes descriptions, `buffer` reads page lists.
//!
//! Every argument is checked before anything changes, and a refusal names the argument.

mod buffer;
mod command;
mod congestion;
mod doorbells;
mod execute;
mod filters;
mod handles;
mod modify;
mod multicast;
mod port;
mod query;
mod queue_pairs;
mod queues;
mod regions;
mod ring;
mod shared_receive;
mod virtual_functions;
mod windows;

pub use execute::Context;
pub(super) use execute::PendingCreate;
pub(super) use ring::AdminQueue;
pub(crate) use virtual_functions::Administration;
