//! Every operation of every service over a wire that loses, doubles, reorders and corrupts, against
//! a model that says what must have arrived.
//!
//! Operations go in batches, both ways at once. When a batch is over, that is, when nothing moves any
//! more, all completions and all memory that the batch could have touched are compared with the model:
//! for reliable services with the only possible result, for the others with the set of possible ones.
//! `VRNIC_SEED=n` runs another seed; a failure prints the one it had.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

#[path = "../nic_bench/mod.rs"]
mod nic_bench;
#[path = "../nic_link/mod.rs"]
mod nic_link;

#[path = "../srq_bench/mod.rs"]
mod srq_bench;

mod batch;
mod end;
mod operation;

use batch::Trial;
use nic_link::Link;
use vrnic_abi::admin::QpType;

/// What the wire does to packets, and to frames that no ICRC protects.
const BAD: &str = "drop=5%,dup=5%,reorder=5%,corrupt=1%,delay=2us,jitter=3us";
const BAD_FRAMES: &str = "drop=5%,dup=5%,reorder=5%,delay=2us,jitter=3us";

/// Runs batches until `operations` were carried out.
#[track_caller]
fn carry_out(service: QpType, operations: u64) {
    let bad = match service {
        QpType::RawPacket => BAD_FRAMES,
        _ => BAD,
    };
    let seed = std::env::var("VRNIC_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    println!("VRNIC_SEED={seed}");
    let link = Link::with(&format!("{bad},seed={seed}"));
    let mut trial = Trial::new(link, service, seed);
    while trial.done < operations {
        trial.batch();
    }
    trial.finish();
}

// A million together.

#[test]
fn reliable_connections() {
    carry_out(QpType::Rc, 300_000);
}

#[test]
fn extended_connections_with_a_shared_receive_queue() {
    carry_out(QpType::XrcInitiator, 200_000);
}

#[test]
fn unreliable_connections() {
    carry_out(QpType::Uc, 200_000);
}

#[test]
fn datagrams() {
    carry_out(QpType::Ud, 200_000);
}

#[test]
fn raw_frames() {
    carry_out(QpType::RawPacket, 100_000);
}
