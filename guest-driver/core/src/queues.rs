//! What queues are made of, without a driver behind them.
//!
//! A user-space provider with kernel bypass posts to queues that the kernel's driver has created
//! for it, through a doorbell page of its own. It has no [`Platform`](crate::Platform) and sends no
//! commands, but its descriptors, rings and completions are those of the driver, and so are these
//! parts:
//!
//! * [`Shape`]: how large the rings of a queue pair are; [`RingSize`]: where a counter's entry is;
//! * [`DescriptorLimits`], [`Service`], [`Descriptor`], [`Writer`]: a send request on its way into
//!   the ring; [`store_receive`]: a receive request;
//! * [`SendTable`], [`ReceiveTable`], [`SrqRequests`]: requests in flight, and which places of the
//!   ring are free;
//! * [`CqRing`]: entries as the device writes them; what one says is
//!   [`Completion::of_request`](crate::Completion::of_request) and
//!   [`Completion::of_receive`](crate::Completion::of_receive).
//!
//! Nothing here locks, allocates after its creation, or trusts what the device has written.

pub use crate::qp::post::{Writer, store_receive};
pub use crate::qp::service::Service;
pub use crate::qp::shape::{MAX_RECEIVE_SEGMENTS, Shape};
pub use crate::ring::{RingSize, owner_of};
pub use crate::tables::{CqRing, Noted, ReceiveTable, SendTable, SrqRequests};
pub use crate::work::descriptor::{Descriptor, DescriptorLimits};
