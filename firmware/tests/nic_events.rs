//! Completions, events, arming, flushing, and what happens when a queue cannot take more.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nic_bench;

use nic_bench::*;
use vrnic_abi::admin::{AdminOpcode, CreateQp, QpType};
use vrnic_abi::counter::Counter;
use vrnic_abi::cqe::CompletionStatus;
use vrnic_abi::doorbell;
use vrnic_abi::eqe::EventType;
use vrnic_abi::object::{CqAttributes, QpAttributes, QpState};
use vrnic_abi::registers as reg;
use vrnic_abi::wqe::{ControlSegment, WqeFlags, WqeOpcode};

/// Posts a request that completes at once.
fn nop(node: &mut Node) {
    let control = control(WqeOpcode::Nop, 0, 0);
    node.qp.post(&node.driver.hw, control, &[]);
}

fn interrupts(node: &Node) -> u32 {
    node.hw().interrupts.borrow()[usize::from(node.eq.vector)]
}

fn state(node: &mut Node, bench: &mut Bench) -> u8 {
    let qpn = node.qp.number;
    let qp: QpAttributes = node.driver.query(bench, AdminOpcode::QueryQp, qpn);
    qp.state
}

mod arming {
    use super::*;

    #[test]
    fn one_event_for_each_arm() {
        let mut bench = Bench::default();
        let (mut a, _b) = pair(&mut bench);
        nop(&mut a);
        bench.run();
        assert!(a.eq.poll(&a.driver.hw).is_none(), "not armed");
        a.eq.arm(&a.driver.hw);
        a.cq.arm(&a.driver.hw, false);
        bench.run();
        let event = a.eq.poll(&a.driver.hw).expect("an entry was there already");
        assert_eq!((event.event, event.object), (0, a.cq.number));
        assert_eq!(interrupts(&a), 1);
        nop(&mut a);
        bench.run();
        assert!(a.eq.poll(&a.driver.hw).is_none(), "one event only");
        while a.poll().is_some() {}
        a.cq.arm(&a.driver.hw, false);
        bench.run();
        assert!(a.eq.poll(&a.driver.hw).is_none(), "nothing new");
        nop(&mut a);
        bench.run();
        assert!(a.eq.poll(&a.driver.hw).is_some());
        assert_eq!(interrupts(&a), 1, "the event queue was not armed");
        a.eq.consumer -= 1;
        a.eq.arm(&a.driver.hw);
        bench.run();
        assert_eq!(interrupts(&a), 2, "an unconsumed event notifies at once");
    }

    /// A verbs program arms when it gets an event, and consumes then.
    #[test]
    fn what_an_event_was_about_makes_no_other_one() {
        let mut bench = Bench::default();
        let (mut a, _b) = pair(&mut bench);
        a.cq.arm(&a.driver.hw, false);
        bench.run();
        for late in [false, true, false] {
            nop(&mut a);
            bench.run();
            assert!(a.eq.poll(&a.driver.hw).is_some(), "armed");
            if late {
                nop(&mut a);
                bench.run();
                assert!(a.eq.poll(&a.driver.hw).is_none(), "not armed");
            }
            a.cq.arm(&a.driver.hw, false);
            bench.run();
            let event = a.eq.poll(&a.driver.hw).is_some();
            assert_eq!(event, late, "there is one written after the event: {late}");
            if event {
                a.cq.arm(&a.driver.hw, false);
                bench.run();
                assert!(a.eq.poll(&a.driver.hw).is_none(), "no more");
            }
            assert_eq!(
                std::iter::from_fn(|| a.poll()).count(),
                1 + usize::from(late)
            );
        }
    }

    /// The same for those who wait for solicited completions and errors only.
    #[test]
    fn an_error_that_was_announced_makes_no_other_event() {
        let mut bench = Bench::default();
        let (mut a, _b) = pair(&mut bench);
        let list = [a.segment(0, 64)];
        a.qp.receive(&a.driver.hw, &list);
        a.cq.arm(&a.driver.hw, true);
        bench.run();
        let qpn = a.qp.number;
        a.driver.set_state(&mut bench, qpn, QpState::Error);
        assert!(a.eq.poll(&a.driver.hw).is_some());
        a.cq.arm(&a.driver.hw, true);
        bench.run();
        assert!(a.eq.poll(&a.driver.hw).is_none(), "it was announced");
        assert_eq!(a.poll().unwrap().status, CompletionStatus::Flushed.raw());
    }

    #[test]
    fn solicited_only() {
        let mut bench = Bench::default();
        let (mut a, mut b) = pair(&mut bench);
        b.eq.arm(&b.driver.hw);
        for solicited in [false, true, false] {
            let list = [b.segment(0, 64)];
            b.qp.receive(&b.driver.hw, &list);
            let mut head = control(WqeOpcode::Send, 0, 0);
            if solicited {
                head.flags |= WqeFlags::SOLICITED.bits();
            }
            b.cq.arm(&b.driver.hw, true);
            bench.run();
            a.qp.post(&a.driver.hw, head, &[]);
            bench.run();
            assert_eq!(b.eq.poll(&b.driver.hw).is_some(), solicited);
            let entry = b.poll().unwrap();
            assert_eq!(entry.flags & 1 == 1, solicited);
        }
        // Errors count as solicited.
        let list = [b.segment(0, 64)];
        b.qp.receive(&b.driver.hw, &list);
        let qpn = b.qp.number;
        b.driver.set_state(&mut bench, qpn, QpState::Error);
        let entry = b.poll().unwrap();
        assert_eq!(entry.status, CompletionStatus::Flushed.raw());
        assert_eq!(b.eq.poll(&b.driver.hw).unwrap().event, 0);
    }

    /// A driver that sleeps until an event when it has found its completion queue empty after
    /// arming never sleeps while there is a completion, and is woken only for one.
    #[test]
    fn no_event_is_lost_and_none_is_spurious() {
        for seed in 0..100 {
            println!("seed {seed}");
            let mut random = Random(seed);
            let mut bench = Bench::default();
            let (mut a, _b) = pair(&mut bench);
            let (mut posted, mut taken) = (0, 0);
            let mut asleep = false;
            let mut arms = 0;
            let mut events = 0;
            a.eq.arm(&a.driver.hw);
            for _ in 0..300 {
                match random.below(4) {
                    0 if posted - taken < 32 => {
                        nop(&mut a);
                        posted += 1;
                    }
                    1 => {
                        bench.step();
                    }
                    2 if !asleep => {
                        while a.poll().is_some() {
                            taken += 1;
                        }
                        a.cq.arm(&a.driver.hw, false);
                        arms += 1;
                        if random.percent(50) {
                            bench.step();
                        }
                        match a.poll() {
                            Some(_) => taken += 1,
                            None => asleep = true,
                        }
                    }
                    _ => {}
                }
                if interrupts(&a) > 0 {
                    a.hw().interrupts.borrow_mut()[3] = 0;
                    while a.eq.poll(&a.driver.hw).is_some() {
                        events += 1;
                        asleep = false;
                    }
                    a.eq.arm(&a.driver.hw);
                }
            }
            bench.run();
            while a.eq.poll(&a.driver.hw).is_some() {
                events += 1;
                asleep = false;
            }
            assert!(events <= arms, "{events} events for {arms} arms");
            let waiting = a.poll().is_some();
            assert!(!(asleep && waiting), "asleep with a completion");
        }
    }
}

mod overflow {
    use super::*;

    #[test]
    fn of_a_completion_queue_fails_its_queue_pairs() {
        let mut bench = Bench::default();
        let mut a = Node::new(&mut bench, 1);
        let mut b = Node::new(&mut bench, 2);
        let small = a.driver.cq(&mut bench, &a.eq, 2);
        let pd = a.pd;
        let other = a.qp;
        a.qp = a.driver.qp(&mut bench, pd, &small, &small);
        join(&mut bench, &mut a, &mut b);
        for _ in 0..5 {
            nop(&mut a);
        }
        bench.run();
        let event = a.eq.poll(&a.driver.hw).unwrap();
        assert_eq!(event.event, EventType::CqError.raw());
        assert_eq!(event.object, small.number);
        assert_eq!(state(&mut a, &mut bench), QpState::Error.raw());
        let cq: CqAttributes = a
            .driver
            .query(&mut bench, AdminOpcode::QueryCq, small.number);
        assert_eq!((cq.failed, cq.producer), (1, 4));
        assert_eq!(a.driver.state(), 1);
        a.qp = other;
        assert_eq!(state(&mut a, &mut bench), QpState::Reset.raw());
    }

    #[test]
    fn consumption_without_a_mark_is_seen_in_time() {
        let mut bench = Bench::default();
        let (mut a, mut b) = (Node::new(&mut bench, 1), Node::new(&mut bench, 2));
        a.cq = a.driver.cq(&mut bench, &a.eq, 2);
        a.qp = a.driver.qp(&mut bench, a.pd, &a.cq, &a.cq);
        join(&mut bench, &mut a, &mut b);
        for _ in 0..100 {
            for _ in 0..4 {
                nop(&mut a);
            }
            bench.run();
            for _ in 0..4 {
                assert_eq!(a.poll().unwrap().status, 0);
            }
        }
    }

    #[test]
    fn of_memory_fails_the_completion_queue_only() {
        let mut bench = Bench::default();
        let (mut a, _b) = pair(&mut bench);
        *a.hw().ram.hole.borrow_mut() = Some(a.cq.base..a.cq.base + 64);
        nop(&mut a);
        bench.run();
        let event = a.eq.poll(&a.driver.hw).unwrap();
        assert_eq!(event.event, EventType::CqError.raw());
        assert_eq!(state(&mut a, &mut bench), QpState::Error.raw());
        assert_eq!(a.driver.state(), 1);
    }

    #[test]
    fn of_an_event_queue_holds_events_back() {
        let mut bench = Bench::default();
        let mut a = Node::new(&mut bench, 1);
        let eq = a.driver.eq(&mut bench, 4, 5);
        let mut b = Node::new(&mut bench, 2);
        // Forty completion queues with an entry each, and an event queue for sixteen.
        let mut pairs = Vec::new();
        for _ in 0..40 {
            let cq = a.driver.cq(&mut bench, &eq, 2);
            let qp = a.driver.qp(&mut bench, a.pd, &cq, &cq);
            pairs.push((cq, qp));
        }
        let mut eq = eq;
        for (cq, qp) in pairs {
            (a.cq, a.qp) = (cq, qp);
            join(&mut bench, &mut a, &mut b);
            let qb = b.qp.number;
            b.driver.set_state(&mut bench, qb, QpState::Reset);
            nop(&mut a);
            a.cq.arm(&a.driver.hw, false);
            bench.run();
            // Arming again while the event is held does not double it.
            a.cq.arm(&a.driver.hw, false);
            bench.run();
        }
        assert!(bench.nic.prepare_sleep());
        assert!(bench.nic.next_timeout().is_some(), "room is looked for");
        bench.nic.wake();
        let mut seen = Vec::new();
        for _ in 0..20 {
            for _ in 0..3 {
                seen.extend(eq.poll(&a.driver.hw).map(|event| event.object));
            }
            eq.free(&a.driver.hw);
            bench.run();
        }
        while let Some(event) = eq.poll(&a.driver.hw) {
            seen.push(event.object);
        }
        let mut unique = seen.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), 40);
        assert!(seen.len() <= 80);
        assert_eq!(a.driver.state(), 1);
    }

    /// One user's objects fail all at once while nobody consumes events.
    #[test]
    fn of_the_event_queue_by_many_failures_is_not_fatal() {
        const TARGETS: u32 = 6000;
        let mut bench = Bench::default();
        let mut a = Node::new(&mut bench, 1);
        let xrcd = a.driver.ok(&mut bench, AdminOpcode::AllocXrcd, &0u64) as u32;
        let body = CreateQp {
            pd: a.pd,
            qp_type: QpType::XrcTarget.raw(),
            xrcd,
            ..CreateQp::default()
        };
        let mut targets = Vec::new();
        for _ in 0..TARGETS {
            let qp = a.driver.ok(&mut bench, AdminOpcode::CreateQp, &body) as u32;
            a.driver.set_state(&mut bench, qp, QpState::Error);
            targets.push(qp);
        }
        assert_eq!(a.driver.state(), 1);
        let mut seen = Vec::new();
        while seen.len() < targets.len() {
            let event = a.eq.poll(&a.driver.hw).expect("none is lost");
            assert_eq!(event.event, EventType::LastWqeReached.raw());
            seen.push(event.object);
            a.eq.free(&a.driver.hw);
            bench.run();
        }
        assert_eq!(seen, targets);
        assert_eq!(a.driver.state(), 1);
    }

    #[test]
    fn an_event_queue_that_cannot_be_written_is_fatal() {
        let mut bench = Bench::default();
        let (mut a, mut b) = pair(&mut bench);
        *a.hw().ram.hole.borrow_mut() = Some(a.eq.base..a.eq.base + 4096);
        nop(&mut a);
        a.cq.arm(&a.driver.hw, false);
        bench.run();
        assert_eq!(a.driver.state(), 2);
        let code = a.hw().register(&reg::HEALTH_CODE);
        assert_eq!(code, u32::from(reg::HealthCode::EventDmaFailed.raw()));
        assert_eq!(a.hw().register(&reg::HEALTH_OBJECT), a.eq.number);
        assert!(interrupts(&a) > 0, "the driver is woken");
        assert_eq!(b.driver.state(), 1);
        // It is deaf until it is reset.
        b.hw().write(b.memory, &[1u8; 64]);
        let list = [b.segment(0, 64)];
        let before = a.hw().ram.accesses.get();
        b.qp.rdma(&b.driver.hw, WqeOpcode::Write, (a.memory, a.key), &list);
        nop(&mut a);
        let own = a.hw().ram.accesses.get() - before;
        bench.run();
        assert_eq!(a.hw().ram.accesses.get(), before + own);
    }
}

mod work_queues {
    use super::*;

    #[test]
    fn flushed_in_order_and_late_ones_too() {
        let mut bench = Bench::default();
        let (mut a, _b) = pair(&mut bench);
        let list = [a.segment(0, 64)];
        a.qp.receive(&a.driver.hw, &list);
        let qpn = a.qp.number;
        a.driver.set_state(&mut bench, qpn, QpState::Error);
        assert_eq!(a.poll().unwrap().status, CompletionStatus::Flushed.raw());
        nop(&mut a);
        nop(&mut a);
        a.qp.receive(&a.driver.hw, &list);
        a.hw().mark(0, a.qp.receive_slot);
        bench.run();
        let ends: Vec<_> = std::iter::from_fn(|| a.poll())
            .map(|entry| (entry.flags, entry.wqe_index, entry.status))
            .collect();
        assert_eq!(ends, [(8, 0, 4), (8, 1, 4), (0, 1, 4)]);
    }

    #[test]
    fn reset_starts_over() {
        let mut bench = Bench::default();
        let (mut a, mut b) = pair(&mut bench);
        nop(&mut a);
        bench.run();
        let (qa, qb) = (a.qp.number, b.qp.number);
        a.driver.set_state(&mut bench, qa, QpState::Reset);
        b.driver.set_state(&mut bench, qb, QpState::Reset);
        a.qp.posted = 0;
        join(&mut bench, &mut a, &mut b);
        a.poll().unwrap();
        assert!(a.poll().is_none());
        nop(&mut a);
        bench.run();
        assert_eq!(a.poll().unwrap().wqe_index, 0);
    }

    #[test]
    fn malformed_requests_fail_the_queue_pair() {
        let good = ControlSegment {
            segments: 1,
            ..control(WqeOpcode::Nop, 0, 0)
        };
        let cases = [
            ControlSegment { index: 77, ..good },
            ControlSegment {
                opcode: 0x77,
                ..good
            },
            ControlSegment {
                segments: 0,
                ..good
            },
            ControlSegment {
                segments: 8,
                ..good
            },
            ControlSegment {
                flags: 0xff,
                ..good
            },
        ];
        for case in cases {
            let mut bench = Bench::default();
            let (mut a, _b) = pair(&mut bench);
            a.hw().write(a.qp.send_page, &case);
            a.qp.posted = 1;
            a.qp.ring(&a.driver.hw);
            nop(&mut a);
            bench.run();
            let status = CompletionStatus::LocalQpOperation.raw();
            assert_eq!(a.poll().unwrap().status, status);
            assert_eq!(a.poll().unwrap().status, CompletionStatus::Flushed.raw());
            assert_eq!(state(&mut a, &mut bench), QpState::Error.raw());
        }
    }

    #[test]
    fn a_ring_that_cannot_be_read_fails_the_queue_pair() {
        let mut bench = Bench::default();
        let (mut a, _b) = pair(&mut bench);
        *a.hw().ram.hole.borrow_mut() = Some(a.qp.send_page..a.qp.send_page + 64);
        a.qp.posted = 1;
        a.qp.ring(&a.driver.hw);
        bench.run();
        let status = CompletionStatus::LocalQpOperation.raw();
        assert_eq!(a.poll().unwrap().status, status);
        assert_eq!(a.driver.state(), 1);
    }

    #[test]
    fn doorbells_that_make_no_sense() {
        let mut bench = Bench::default();
        let (mut a, _b) = pair(&mut bench);
        let qpn = a.qp.number;
        nop(&mut a);
        nop(&mut a);
        bench.run();
        for value in [
            doorbell::send_queue(3, qpn ^ 1),
            doorbell::send_queue(1, qpn),
        ] {
            a.hw().store_slot(0, a.qp.send_slot, value);
            a.hw().mark(0, a.qp.send_slot);
            bench.run();
        }
        // Behind what was completed: the distance is negative, so the ring cannot hold it.
        assert_eq!(a.counter(&bench, Counter::BadDoorbell), 2);
        assert_eq!(state(&mut a, &mut bench), QpState::Error.raw());
        while a.poll().is_some() {}

        let mut bench = Bench::default();
        let (mut a, _b) = pair(&mut bench);
        let value = doorbell::send_queue(65, a.qp.number);
        a.hw().store_slot(0, a.qp.send_slot, value);
        a.hw().mark(0, a.qp.send_slot);
        bench.run();
        let event = a.eq.poll(&a.driver.hw).unwrap();
        assert_eq!(event.event, EventType::QpFatal.raw());
        assert_eq!(state(&mut a, &mut bench), QpState::Error.raw());
    }

    #[test]
    fn the_reserved_key_needs_privilege() {
        use vrnic_abi::wqe::RESERVED_LKEY;
        let mut bench = Bench::default();
        let (mut a, b) = pair(&mut bench);
        let list = [data(a.memory, 64, RESERVED_LKEY)];
        a.qp.rdma(&a.driver.hw, WqeOpcode::Write, (b.memory, b.key), &list);
        bench.run();
        let status = CompletionStatus::LocalProtection.raw();
        assert_eq!(a.poll().unwrap().status, status);
    }

    #[test]
    fn another_domain_cannot_be_reached() {
        let mut bench = Bench::default();
        let (mut a, mut b) = pair(&mut bench);
        let pd = b.driver.ok(&mut bench, AdminOpcode::AllocPd, &0u64) as u32;
        let memory = b.memory;
        let key = b.driver.mr(&mut bench, pd, memory, 4096);
        let list = [a.segment(0, 64)];
        a.qp.rdma(&a.driver.hw, WqeOpcode::Write, (memory, key), &list);
        bench.run();
        let status = CompletionStatus::RemoteAccess.raw();
        assert_eq!(a.poll().unwrap().status, status);
        assert_eq!(b.hw().bytes(memory, 64), [PATTERN; 64]);
    }
}

mod port {
    use super::*;

    #[test]
    fn link_changes_are_events() {
        let mut bench = Bench::default();
        let mut a = Node::new(&mut bench, 1);
        bench.nic.set_link(false);
        bench.nic.set_link(false);
        bench.nic.set_link(true);
        let events: Vec<_> = std::iter::from_fn(|| a.eq.poll(&a.driver.hw))
            .map(|event| (event.event, event.object))
            .collect();
        let wanted = [EventType::PortDown.raw(), EventType::PortUp.raw()];
        assert_eq!(events, wanted.map(|event| (event, 1)));
    }
}
