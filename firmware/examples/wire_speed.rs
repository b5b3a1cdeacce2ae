//! Measures how fast RDMA WRITE packets are written and read, beside copying their payload.
//!
//! `cargo run --release -p vrnic-firmware --example wire_speed --features std`

use std::hint::black_box;
use std::time::{Duration, Instant};

use vrnic_firmware::pdu::{Body, Pdu, Place};
use vrnic_firmware::transport::Path;
use vrnic_firmware::types::{Gid, Psn, Qpn};
use vrnic_firmware::wire::{emit, frame_length, parse};

/// The shortest of several runs, for one repetition.
fn time(mut action: impl FnMut()) -> Duration {
    const REPETITIONS: u32 = 20_000;
    let run = |_| {
        let start = Instant::now();
        (0..REPETITIONS).for_each(|_| action());
        start.elapsed() / REPETITIONS
    };
    (0..10).map(run).min().unwrap_or_default()
}

fn main() {
    let path = Path {
        source: Gid::from_v4([10, 0, 0, 1]),
        destination: Gid::from_v4([10, 0, 0, 2]),
        ..Path::default()
    };
    println!("payload    copy   write    read  (ns; GB/s)");
    for length in [0, 64, 256, 1024, 4096] {
        let pdu = Pdu {
            destination: Qpn::new(17),
            service: vrnic_firmware::pdu::Service::Reliable,
            psn: Psn::new(5),
            packets: 1,
            length,
            ack_request: false,
            solicited: false,
            body: Body::Write {
                place: Place::Middle,
                target: None,
                immediate: None,
            },
        };
        let payload = vec![0x5a; length as usize];
        let mut copy = payload.clone();
        let mut frame = vec![0; frame_length(&path, &pdu)];
        let times = [
            time(|| black_box(&mut copy).copy_from_slice(black_box(&payload))),
            time(|| {
                let done = emit(black_box(&path), &pdu, 1, black_box(&payload), &mut frame);
                assert_eq!(black_box(done), Ok(()));
            }),
            time(|| assert!(black_box(parse(black_box(&frame))).is_ok())),
        ];
        let nanos = times.map(|time| time.as_nanos());
        let rates = times.map(|time| f64::from(length) / time.as_nanos().max(1) as f64);
        println!("{length:7} {nanos:7?} {rates:7.1?}");
    }
}
