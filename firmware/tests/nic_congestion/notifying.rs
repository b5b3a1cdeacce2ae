//! The notification point: who is told what, and how often.

use vrnic_abi::admin::QpType;
use vrnic_abi::counter::Counter;
use vrnic_abi::object::{QpAttributes, QpMask, QpState};
use vrnic_firmware::pdu::{Place, SendTail};

use super::*;

fn marked_link(body: &ConfigureCongestion) -> Link {
    let mut link = Link::new(10_000);
    configure(&mut link.y, &mut link.b, body);
    link
}

fn notify_at_48() -> ConfigureCongestion {
    ConfigureCongestion {
        flags: (CongestionFlags::NOTIFY | CongestionFlags::CAPABLE).bits(),
        notification_dscp: 48,
        ..ConfigureCongestion::default()
    }
}

#[test]
fn the_packet_is_that_of_the_annex() {
    let mut link = marked_link(&notify_at_48());
    link.post(WqeOpcode::Write, 64);
    let mut back = Vec::new();
    for _ in 0..10 {
        link.tick(&mut |_, way, frame| {
            if way == Way::There {
                mark(frame);
            } else {
                back.push(frame.clone());
            }
            true
        });
    }
    assert_eq!(back.len(), 2, "the notification and the acknowledgement");
    let frame = &back[0];
    let packet = wire::parse(frame).expect("checksums hold");
    assert_eq!(packet.pdu.body, Body::Congestion);
    let [_, q1, q2, q3] = link.a.qp.number.to_be_bytes();
    let udp_source = wire::parse(&back[1]).unwrap().udp_source.to_be_bytes();
    let mut wanted = Vec::new();
    wanted.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]);
    wanted.extend([0x45, 48 << 2, 0, 60, frame[18], frame[19], 0x40, 0, 64, 17]);
    wanted.extend([frame[24], frame[25], 10, 0, 0, 2, 10, 0, 0, 1]);
    wanted.extend(udp_source);
    wanted.extend([0x12, 0xb7, 0, 40, 0, 0]);
    // Opcode; no event, pad or version; P_Key; BECN; queue pair; no request; no PSN.
    wanted.extend([0x81, 0, 0xff, 0xff, 0x40, q1, q2, q3, 0, 0, 0, 0]);
    wanted.extend([0; 16]);
    assert_eq!(frame[..70], wanted[..]);
    assert_eq!(frame.len(), 74, "the ICRC and nothing else follows");
    assert_eq!(link.b.counter(&link.y, Counter::NpCnpSent), 1);
    let marked = Counter::NpEcnMarkedRocePackets;
    assert_eq!(link.b.counter(&link.y, marked), 1);
    assert_eq!(link.a.counter(&link.x, Counter::RpCnpIgnored), 1);
    assert_eq!(link.a.counter(&link.x, Counter::RpCnpHandled), 0);
    assert_eq!(link.a.poll().expect("the WRITE completes").status, 0);
}

/// Writes for a millisecond with every packet marked; when notifications were sent.
fn notifications(link: &mut Link) -> Vec<u64> {
    let start = link.now().0;
    let mut times = Vec::new();
    while link.now().0 < start + 1_000 * MICRO {
        if link.a.poll().is_some() || link.a.qp.posted == 0 {
            link.post(WqeOpcode::Write, 2_000);
        }
        link.tick(&mut |at, way, frame| {
            match way {
                Way::There => mark(frame),
                Way::Back if is_notification(frame) => times.push(at.0),
                Way::Back => {}
            }
            true
        });
    }
    times
}

#[test]
fn intervals_are_kept_by_each_queue_pair() {
    for (interval, least) in [(0, 50), (1, 1), (4, 4), (200, 200)] {
        let mut link = marked_link(&ConfigureCongestion {
            notification_interval: interval,
            ..notify_at_48()
        });
        let times = notifications(&mut link);
        let gaps: Vec<u64> = times.windows(2).map(|w| (w[1] - w[0]) / MICRO).collect();
        let shortest = gaps.iter().min().copied();
        assert!(shortest >= Some(least), "{least}: {gaps:?}");
        // Packets come all the time: it is not much longer either.
        let longest = gaps.iter().max().copied();
        assert!(longest <= Some(least + 10), "{least}: {gaps:?}");
        let sent = link.b.counter(&link.y, Counter::NpCnpSent);
        assert_eq!(sent, times.len() as u64);
        let marked = link.b.counter(&link.y, Counter::NpEcnMarkedRocePackets);
        assert!(marked > 2 * 100, "all marks are counted: {marked}");
    }
}

#[test]
fn off_nothing_is_sent_and_marks_are_counted() {
    let mut link = marked_link(&flags(CongestionFlags::CAPABLE | CongestionFlags::REACT));
    assert_eq!(notifications(&mut link), []);
    assert_eq!(link.b.counter(&link.y, Counter::NpCnpSent), 0);
    assert!(link.b.counter(&link.y, Counter::NpEcnMarkedRocePackets) > 100);
}

#[test]
fn answers_are_packets_too() {
    let mut link = Link::new(10_000);
    configure(&mut link.x, &mut link.a, &flags(CongestionFlags::NOTIFY));
    link.post(WqeOpcode::Read, 4_096);
    let mut there = 0;
    for _ in 0..20 {
        link.tick(&mut |_, way, frame| {
            match way {
                Way::Back => mark(frame),
                Way::There => there += u32::from(is_notification(frame)),
            }
            true
        });
    }
    assert_eq!(there, 1);
    assert_eq!(link.b.counter(&link.y, Counter::RpCnpIgnored), 1);
}

#[test]
fn notifications_do_not_cause_others() {
    let mut link = Link::new(10_000);
    let body = ConfigureCongestion {
        notification_interval: 1,
        ..flags(CongestionFlags::NOTIFY | CongestionFlags::REACT)
    };
    configure(&mut link.x, &mut link.a, &body);
    configure(&mut link.y, &mut link.b, &body);
    link.post(WqeOpcode::Write, 64);
    let mut notifications = 0;
    for _ in 0..100 {
        link.tick(&mut |_, way, frame| {
            notifications += u32::from(is_notification(frame));
            if way == Way::There || is_notification(frame) {
                mark(frame);
            }
            true
        });
    }
    assert_eq!(notifications, 1);
    let marked = Counter::NpEcnMarkedRocePackets;
    assert_eq!(link.a.counter(&link.x, marked), 0);
}

#[test]
fn a_full_wire_delays_one() {
    let mut link = marked_link(&notify_at_48());
    link.y.wire.limit = Some(0);
    link.post(WqeOpcode::Write, 64);
    for _ in 0..100 {
        link.tick(&mut |_, way, frame| {
            if way == Way::There {
                mark(frame);
            }
            true
        });
    }
    assert_eq!(link.b.counter(&link.y, Counter::NpCnpSent), 0);
    assert!(link.y.nic.prepare_sleep(), "it waits without work");
    link.y.nic.wake();
    link.y.wire.limit = None;
    let frames = link.settle();
    assert!(
        is_notification(&frames[0].2),
        "ahead of the acknowledgement"
    );
    assert_eq!(link.b.counter(&link.y, Counter::NpCnpSent), 1);
}

#[test]
fn strangers_are_not_answered() {
    let mut link = marked_link(&notify_at_48());
    link.post(WqeOpcode::Write, 64);
    link.x.run();
    let mut frame = link.x.wire.sent.pop_front().unwrap();
    mark(&mut frame);
    // One from somebody else, and a damaged one.
    let stranger = {
        let mut frame = notification(9, 2, link.b.qp.number);
        mark(&mut frame);
        frame
    };
    let mut damaged = frame.clone();
    *damaged.last_mut().unwrap() ^= 1;
    for frame in [stranger, damaged] {
        link.y.nic.receive(link.y.now, &frame, &mut link.y.wire);
    }
    link.y.run();
    assert!(link.y.wire.sent.is_empty());
    let marked = Counter::NpEcnMarkedRocePackets;
    assert_eq!(link.b.counter(&link.y, marked), 0);
}

#[test]
fn datagrams_are_counted_only() {
    let mut bench = Bench::default();
    let mut node = Node::new(&mut bench, 2);
    configure(&mut bench, &mut node, &flags(CongestionFlags::NOTIFY));
    node.qp = create(&mut bench, &mut node, QpType::Ud);
    let given = QpAttributes {
        state: QpState::Init.raw(),
        port: 1,
        qkey: 77,
        ..QpAttributes::default()
    };
    let mask = QpMask::STATE | QpMask::PORT | QpMask::PKEY_INDEX | QpMask::QKEY;
    let qpn = node.qp.number;
    node.driver.modify_ok(&mut bench, qpn, mask, &given);
    node.driver.set_state(&mut bench, qpn, QpState::Rtr);
    let list = [node.segment(0, 4096)];
    node.qp.receive(&node.driver.hw, &list);
    let service = Service::Datagram {
        qkey: 77,
        source: Qpn::new(5),
    };
    let body = Body::Send {
        place: Place::Only,
        tail: SendTail::None,
    };
    let mut frame = packet(1, 2, qpn, service, body);
    mark(&mut frame);
    bench.nic.receive(bench.now, &frame, &mut bench.wire);
    bench.run();
    assert_eq!(node.poll().expect("it is received").status, 0);
    assert!(bench.wire.sent.is_empty());
    assert_eq!(node.counter(&bench, Counter::NpEcnMarkedRocePackets), 1);
    assert_eq!(node.counter(&bench, Counter::NpCnpSent), 0);
}
