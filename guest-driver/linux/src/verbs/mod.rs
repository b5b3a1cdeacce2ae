//! The RDMA device of a function.
//!
//! * [`object`], [`udata`], [`umem`]: how the kernel's RDMA core keeps objects, what a provider in
//!   user space says, its memory;
//! * [`device`]: registration and identity; [`limits`]; [`port`]: the port and its GIDs;
//!   [`counters`] and [`pma`]: its statistics;
//! * [`context`]: user contexts and their doorbell pages;
//! * [`pd`], [`xrcd`], [`ah`], [`mr`], [`mw`], [`multicast`], [`flow`]: objects without queues;
//! * [`cq`], [`srq`], [`qp`] with their [`attributes`]: queues; [`post`] and [`poll`]: their use by the kernel itself;
//! * [`event`]: asynchronous events; [`restrack`]: what the `rdma` tool shows.
//!
//! An operation with user data is for a process: its queues are in its memory, and it posts and
//! polls without the kernel. One without is for the kernel: the driver core has the queues.
//!
//! Each module adds its operations to the table with a function `operations`.

mod access;
mod ah;
mod attributes;
mod context;
mod counters;
mod cq;
mod device;
mod event;
mod flow;
mod limits;
mod mr;
mod multicast;
mod mw;
mod object;
mod pd;
mod pma;
mod poll;
mod port;
mod post;
mod qp;
mod restrack;
mod srq;
pub(crate) mod udata;
pub(crate) mod umem;
mod xrcd;

use vrnic_driver::abi::verbs::VERSION;

use crate::bindings;

pub(crate) use device::Device;

/// The table of operations.
fn operations() -> bindings::ib_device_ops {
    let mut ops = bindings::ib_device_ops {
        // SAFETY: no arguments.
        owner: unsafe { bindings::vrnic_module() },
        driver_id: bindings::RDMA_DRIVER_UNKNOWN,
        uverbs_abi_ver: VERSION,
        ..bindings::ib_device_ops::default()
    };
    device::operations(&mut ops);
    limits::operations(&mut ops);
    port::operations(&mut ops);
    counters::operations(&mut ops);
    pma::operations(&mut ops);
    context::operations(&mut ops);
    pd::operations(&mut ops);
    xrcd::operations(&mut ops);
    mr::operations(&mut ops);
    mw::operations(&mut ops);
    ah::operations(&mut ops);
    cq::operations(&mut ops);
    srq::operations(&mut ops);
    qp::operations(&mut ops);
    post::operations(&mut ops);
    poll::operations(&mut ops);
    restrack::operations(&mut ops);
    multicast::operations(&mut ops);
    flow::operations(&mut ops);
    ops
}
