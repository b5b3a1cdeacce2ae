//! The commands, and what they make of the ECN bits.

use core::mem::offset_of;

use vrnic_abi::admin::{OutputBuffer, Status};
use vrnic_abi::object::CongestionAttributes;

use super::*;

fn query(bench: &mut Bench, node: &mut Node) -> CongestionAttributes {
    let address = node.driver.memory(32, false);
    let output = OutputBuffer {
        address,
        length: 32,
        reserved: 0,
    };
    node.driver.ok(bench, AdminOpcode::QueryCongestion, &output);
    node.hw().read(address)
}

fn attributes(flags: u32, interval: u16, dscp: u8, minimum: u32) -> CongestionAttributes {
    CongestionAttributes {
        flags,
        notification_interval: interval,
        notification_dscp: dscp,
        minimum_rate: minimum,
        ..CongestionAttributes::default()
    }
}

#[test]
fn are_queried_as_they_were_set_and_forgotten_by_a_reset() {
    let mut bench = Bench::default();
    let mut node = Node::new(&mut bench, 1);
    let mut other = Node::new(&mut bench, 2);
    assert_eq!(query(&mut bench, &mut node), attributes(0, 50, 0, 100));
    let body = ConfigureCongestion {
        flags: 7,
        notification_interval: 65_535,
        notification_dscp: 63,
        minimum_rate: 100_000,
        ..ConfigureCongestion::default()
    };
    configure(&mut bench, &mut node, &body);
    let wanted = attributes(7, 65_535, 63, 100_000);
    assert_eq!(query(&mut bench, &mut node), wanted);
    assert_eq!(query(&mut bench, &mut other), attributes(0, 50, 0, 100));
    configure(&mut bench, &mut node, &flags(CongestionFlags::REACT));
    assert_eq!(query(&mut bench, &mut node), attributes(4, 50, 0, 100));

    configure(&mut bench, &mut node, &body);
    bench.nic.reset(node.driver.id);
    node.driver.enable(&mut bench);
    assert_eq!(query(&mut bench, &mut node), attributes(0, 50, 0, 100));
}

#[test]
fn that_make_no_sense_are_refused_and_change_nothing() {
    let mut bench = Bench::new(NicConfig {
        speed: 1_000,
        ..NicConfig::default()
    });
    let mut node = Node::new(&mut bench, 1);
    let good = ConfigureCongestion {
        flags: 3,
        notification_interval: 7,
        notification_dscp: 48,
        minimum_rate: 1_000,
        ..ConfigureCongestion::default()
    };
    configure(&mut bench, &mut node, &good);
    type Change = (fn(&mut ConfigureCongestion), usize);
    let changes: [Change; 3] = [
        (|b| b.flags = 8, offset_of!(ConfigureCongestion, flags)),
        (
            |b| b.notification_dscp = 64,
            offset_of!(ConfigureCongestion, notification_dscp),
        ),
        (
            |b| b.minimum_rate = 1_001,
            offset_of!(ConfigureCongestion, minimum_rate),
        ),
    ];
    for (change, offset) in changes {
        let mut body = good;
        body.flags = 4;
        change(&mut body);
        let opcode = AdminOpcode::ConfigureCongestion;
        let completion = node.driver.command(&mut bench, opcode, &body);
        assert_eq!(completion.status, Status::BadArgument.raw());
        assert_eq!(completion.syndrome, offset as u32 + 8);
        assert_eq!(query(&mut bench, &mut node), attributes(3, 7, 48, 1_000));
    }
}

#[test]
fn a_capability_says_that_they_exist() {
    let mut bench = Bench::default();
    let driver = Driver::add(&mut bench, 1);
    let low = driver.hw.register(&vrnic_abi::registers::CAPABILITIES);
    assert_eq!(low >> 13 & 1, 1);
}

/// ECN bits of all packets of a SEND and its acknowledgement, by direction.
fn ecn_bits(traffic_class: u8, capable: bool) -> [Vec<u8>; 2] {
    let mut link = Link::with(1_000, |[x, y], [a, b]| {
        let (qa, qb) = (a.qp.number, b.qp.number);
        for (bench, node, peer, remote) in [(x, a, 2, qb), (y, b, 1, qa)] {
            let (mask, given) = to_init();
            node.driver.modify_ok(bench, node.qp.number, mask, &given);
            let (mask, mut given) = to_rtr(peer, remote);
            given.primary.traffic_class = traffic_class;
            node.driver.modify_ok(bench, node.qp.number, mask, &given);
            let (mask, given) = to_rts();
            node.driver.modify_ok(bench, node.qp.number, mask, &given);
        }
    });
    if capable {
        let body = flags(CongestionFlags::CAPABLE);
        configure(&mut link.x, &mut link.a, &body);
        configure(&mut link.y, &mut link.b, &body);
    }
    link.post(WqeOpcode::Write, 3000);
    let frames = link.settle();
    [Way::There, Way::Back].map(|way| {
        let frames = frames.iter().filter(|(_, w, _)| *w == way);
        frames.map(|(_, _, frame)| frame[15]).collect()
    })
}

#[test]
fn capable_packets_are_ect_0_unless_the_vector_says_otherwise() {
    assert_eq!(ecn_bits(0x68, true), [vec![0x6a; 3], vec![0x6a]]);
    assert_eq!(ecn_bits(0x69, true), [vec![0x69; 3], vec![0x69]]);
    assert_eq!(ecn_bits(0x68, false), [vec![0x68; 3], vec![0x68]]);
    assert_eq!(ecn_bits(0x6a, false), [vec![0x6a; 3], vec![0x6a]]);
}
