//! The reaction point: how much slower a notification makes whom, and for how long.

use vrnic_abi::admin::QpType;
use vrnic_abi::counter::Counter;
use vrnic_abi::object::{QpAttributes, QpMask};
use vrnic_firmware::host::Memory;

use super::*;

fn react(minimum_rate: u32) -> ConfigureCongestion {
    ConfigureCongestion {
        minimum_rate,
        ..flags(CongestionFlags::REACT)
    }
}

fn reacting_link(speed: u32, minimum_rate: u32) -> Link {
    let mut link = Link::new(speed);
    configure(&mut link.x, &mut link.a, &react(minimum_rate));
    link
}

/// Notifies `a` again and again until its rate is at most `wanted`.
#[track_caller]
fn slow_down(link: &mut Link, wanted: u32) {
    for _ in 0..40 {
        link.notify(Way::Back);
        if rate(&link.x, &link.a) <= wanted {
            return;
        }
        link.x.now = Time(link.x.now.0 + 10 * MICRO);
    }
    panic!("still {}", rate(&link.x, &link.a));
}

/// Bytes on the line of `a`'s data packets while `micros` pass, with as many WRITEs as it can
/// have.
fn load(link: &mut Link, micros: u64) -> u64 {
    let end = link.now().0 + micros * MICRO;
    let mut packets = 0;
    while link.now().0 < end {
        while link.a.poll().is_some() {}
        let function = link.x.nic.function(link.a.driver.id).unwrap();
        let qp = function.qps.get(link.a.qp.number).unwrap();
        let send = qp.queues.send.as_ref().unwrap();
        if link.a.qp.posted.wrapping_sub(send.consumer()) < 8 {
            link.post(WqeOpcode::Write, 65_536);
        }
        link.tick(&mut |_, way, frame| {
            packets += u64::from(way == Way::There && is_data(frame));
            true
        });
    }
    packets * ON_THE_LINE
}

#[test]
fn the_rate_halves_and_recovers_along_the_curve() {
    let mut link = reacting_link(10_000, 0);
    assert_eq!(rate(&link.x, &link.a), 0, "no limit before");
    link.notify(Way::Back);
    let cut = link.now().0;
    // Four ticks of fast recovery, then the target of 10 Gbit/s stays where it is.
    let curve = [5_000, 7_500, 8_750, 9_375, 9_688, 9_844, 9_922, 9_961];
    for (tick, wanted) in (0..).zip(curve) {
        assert_eq!(rate(&link.x, &link.a), wanted, "tick {tick}");
        // Its packets keep to it.
        let bytes = load(&mut link, 54);
        let allowed = u64::from(wanted) * 54 / 8;
        assert!(
            bytes <= allowed + (16 << 10) + ON_THE_LINE,
            "{bytes} of {allowed}"
        );
        assert!(bytes >= allowed - 2 * ON_THE_LINE, "{bytes} of {allowed}");
        let next = Time(cut + (tick + 1) * 55 * MICRO);
        link.x.now = next;
        link.y.now = next;
    }
    let object = link.a.qp.number;
    let attributes: QpAttributes = link
        .a
        .driver
        .query(&mut link.x, AdminOpcode::QueryQp, object);
    assert_eq!(attributes.current_rate, 9_980);
    load(&mut link, 2_000);
    assert_eq!(rate(&link.x, &link.a), 0);
    assert!(!transport(&link.x, &link.a).is_limited(), "it is gone");
    assert_eq!(link.a.counter(&link.x, Counter::RpCnpHandled), 1);
    assert_eq!(link.a.counter(&link.x, Counter::RpCnpIgnored), 0);
    assert_eq!(link.a.counter(&link.x, Counter::TxRetransmits), 0);
}

#[test]
fn off_notifications_are_ignored() {
    let mut link = Link::new(1_000);
    let body = flags(CongestionFlags::CAPABLE | CongestionFlags::NOTIFY);
    configure(&mut link.x, &mut link.a, &body);
    let before = load(&mut link, 100);
    for _ in 0..10 {
        link.notify(Way::Back);
    }
    assert_eq!(rate(&link.x, &link.a), 0);
    let after = load(&mut link, 100);
    assert!(after * 10 >= before * 9, "{after} after {before}");
    assert_eq!(link.a.counter(&link.x, Counter::RpCnpIgnored), 10);
    assert_eq!(link.a.counter(&link.x, Counter::RpCnpHandled), 0);
}

#[test]
fn a_queue_pair_that_waits_lets_the_engine_sleep() {
    let mut link = reacting_link(1_000, 100);
    slow_down(&mut link, 100);
    link.post(WqeOpcode::Write, 60_000);
    let mut woken = 0;
    let mut packets = 0;
    let mut busy = 0;
    for _ in 0..10_000 {
        let moved = link.tick(&mut |_, way, frame| {
            packets += u32::from(way == Way::There && is_data(frame));
            true
        });
        busy += u32::from(moved);
        if moved {
            continue;
        }
        assert!(
            link.x.nic.prepare_sleep(),
            "nothing to do until the deadline"
        );
        link.x.nic.wake();
        if link.a.poll().is_some() {
            break;
        }
        let at = deadline(&link.x, &link.a).expect("it is going to go on");
        assert!(at > link.now(), "no timer that has expired is left");
        assert!(link.x.nic.next_timeout() <= Some(at), "the engine knows");
        link.x.now = Time(at.0 - MICRO);
        woken += 1;
    }
    assert_eq!(packets, 59);
    assert!(woken >= 40, "one packet each time: {woken}");
    assert!(
        busy <= 3 * (woken + 10),
        "no turns in vain: {busy} for {woken}"
    );
    assert_eq!(deadline(&link.x, &link.a), None);
}

#[test]
fn data_arrives_whole_at_the_lowest_rate_and_nothing_is_late() {
    // A packet takes twice the time that an acknowledgement may.
    let mut link = reacting_link(1_000, 1);
    slow_down(&mut link, 1);
    let bytes: Vec<u8> = (0..65_000u32).map(|n| n as u8).collect();
    let ram = &link.a.hw().ram;
    ram.write(link.a.memory, &bytes).unwrap();
    link.post(WqeOpcode::Write, 65_000);
    let start = link.now().0;
    link.settle();
    // 64 packets, of which 15 or 16 go at once; meanwhile the rate goes up.
    assert!(link.now().0 - start > 1_000 * MICRO);
    assert_eq!(link.a.poll().expect("it completes").status, 0);
    assert!(link.b.hw().bytes(link.b.memory, 65_000) == bytes);
    let late = Counter::LocalAckTimeoutErr;
    assert_eq!(link.a.counter(&link.x, late), 0);
}

#[test]
fn turned_off_while_waiting_it_goes_on_at_once() {
    let mut link = reacting_link(1_000, 1);
    slow_down(&mut link, 1);
    link.post(WqeOpcode::Write, 65_000);
    for _ in 0..50 {
        link.tick(&mut |_, _, _| true);
    }
    assert!(deadline(&link.x, &link.a).is_some());
    assert!(link.a.poll().is_none());
    configure(&mut link.x, &mut link.a, &flags(CongestionFlags::empty()));
    for _ in 0..10 {
        link.tick(&mut |_, _, _| true);
    }
    assert_eq!(link.a.poll().expect("it completes").status, 0);
    assert_eq!(rate(&link.x, &link.a), 0);
}

#[test]
fn a_higher_minimum_holds_at_once() {
    let mut link = reacting_link(1_000, 1);
    slow_down(&mut link, 1);
    configure(&mut link.x, &mut link.a, &react(700));
    assert_eq!(rate(&link.x, &link.a), 700);
}

#[test]
fn the_error_state_and_reset_forget_the_limit() {
    use vrnic_abi::object::QpState;
    for state in [QpState::Error, QpState::Reset] {
        let mut link = reacting_link(1_000, 1);
        slow_down(&mut link, 1);
        link.post(WqeOpcode::Write, 65_000);
        for _ in 0..50 {
            link.tick(&mut |_, _, _| true);
        }
        let qpn = link.a.qp.number;
        link.a.driver.set_state(&mut link.x, qpn, state);
        link.x.run();
        assert_eq!(deadline(&link.x, &link.a), None);
        assert_eq!(rate(&link.x, &link.a), 0);
    }
}

#[test]
fn read_responses_are_data() {
    let mut link = Link::new(1_000);
    configure(&mut link.y, &mut link.b, &react(1_000));
    // A minimum at line rate allows no cut at all.
    link.notify(Way::There);
    assert_eq!(rate(&link.y, &link.b), 0);
    configure(&mut link.y, &mut link.b, &react(1));
    for _ in 0..4 {
        link.y.now = Time(link.y.now.0 + 10 * MICRO);
        link.notify(Way::There);
    }
    let now = link.x.now.max(link.y.now);
    link.x.now = now;
    let limit = u64::from(rate(&link.y, &link.b));
    assert!((30..=130).contains(&limit), "{limit}");
    link.post(WqeOpcode::Read, 100_000);
    let start = link.now().0;
    let mut sent = 0;
    for _ in 0..50 {
        link.tick(&mut |_, way, frame| {
            sent += u64::from(way == Way::Back && is_data(frame)) * ON_THE_LINE;
            true
        });
    }
    let allowed = (link.now().0 - start) * limit / 8_000 + (16 << 10) + 2 * ON_THE_LINE;
    assert!(sent <= allowed, "{sent} of {allowed}");
    assert!(sent > 0);
    link.settle();
    assert_eq!(link.a.poll().expect("it completes").status, 0);
}

#[test]
fn requests_and_read_responses_take_turns() {
    let mut link = Link::new(10_000);
    configure(&mut link.y, &mut link.b, &react(1));
    for _ in 0..8 {
        link.notify(Way::There);
        link.y.now = Time(link.y.now.0 + 4 * MICRO);
    }
    link.x.now = link.y.now;
    link.post(WqeOpcode::Read, 200_000);
    let (remote, list) = (
        (link.a.memory + 500_000, link.a.key),
        [link.b.segment(500_000, 200_000)],
    );
    link.b
        .qp
        .rdma(&link.b.driver.hw, WqeOpcode::Write, remote, &list);
    let mut order = Vec::new();
    for _ in 0..20_000 {
        link.tick(&mut |_, way, frame| {
            if let (Way::Back, Ok(packet)) = (way, wire::parse(frame)) {
                match packet.pdu.body {
                    Body::Write { .. } => order.push('w'),
                    Body::ReadResponse { .. } => order.push('r'),
                    _ => {}
                }
            }
            true
        });
        if order.len() >= 100 {
            break;
        }
    }
    assert_eq!(order.len(), 100);
    let reads = order.iter().filter(|kind| **kind == 'r').count();
    assert!((35..=65).contains(&reads), "{order:?}");
    let late = &order[50..];
    assert!(
        late.windows(4)
            .all(|four| four.contains(&'r') && four.contains(&'w'))
    );
}

#[test]
fn unreliable_connections_react_too() {
    let mut link = Link::with(1_000, |benches, [a, b]| {
        let [x, y] = benches;
        for (bench, node) in [(&mut *x, &mut *a), (&mut *y, &mut *b)] {
            node.qp = create(bench, node, QpType::Uc);
        }
        let (qa, qb) = (a.qp.number, b.qp.number);
        connect_unreliable(x, a, 2, qb);
        connect_unreliable(y, b, 1, qa);
    });
    configure(&mut link.x, &mut link.a, &react(1));
    slow_down(&mut link, 20);
    link.post(WqeOpcode::Write, 60_000);
    let start = link.now().0;
    let frames = link.settle();
    assert_eq!(frames.len(), 59);
    assert_eq!(link.a.poll().expect("it completes").status, 0);
    let took = frames.last().unwrap().0.0 - start;
    assert!(took > 500 * MICRO, "{took}");
}

fn connect_unreliable(bench: &mut Bench, node: &mut Node, peer: u8, remote: u32) {
    let qp = node.qp.number;
    let (mask, mut given) = to_init();
    given.access = vrnic_abi::admin::AccessFlags::REMOTE_WRITE.bits();
    node.driver.modify_ok(bench, qp, mask, &given);
    let (mask, given) = to_rtr(peer, remote);
    let reliable = QpMask::RESPONDER_RESOURCES | QpMask::MIN_RNR_TIMER;
    node.driver.modify_ok(bench, qp, mask - reliable, &given);
    let (_, given) = to_rts();
    let mask = QpMask::STATE | QpMask::SEND_PSN;
    node.driver.modify_ok(bench, qp, mask, &given);
}

#[test]
fn the_direct_path_meets_no_congestion() {
    let mut bench = Bench::default();
    let (mut a, mut b) = pair(&mut bench);
    let body = flags(CongestionFlags::all());
    configure(&mut bench, &mut a, &body);
    configure(&mut bench, &mut b, &body);
    let (remote, list) = ((b.memory, b.key), [a.segment(0, 500_000)]);
    a.qp.rdma(&a.driver.hw, WqeOpcode::Write, remote, &list);
    bench.run();
    assert_eq!(a.poll().unwrap().status, 0);
    assert_eq!(b.counter(&bench, Counter::NpEcnMarkedRocePackets), 0);
    assert_eq!(b.counter(&bench, Counter::NpCnpSent), 0);
    assert_eq!(rate(&bench, &a), 0);
}
