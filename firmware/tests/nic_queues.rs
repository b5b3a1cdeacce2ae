//! Completion queues that move into other buffers, and events that are moderated.
//!
//! The driver in `nic_bench` follows the rule of the datasheet (section 7.1); what it sees is
//! compared with what was posted.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nic_bench;

use nic_bench::*;
use vrnic_abi::admin::{AdminOpcode, CreateCq, ModifyCq, ObjectReference, ResizeCq, Status};
use vrnic_abi::eqe::EventType;
use vrnic_abi::object::{CqAttributes, EqAttributes, QpState};
use vrnic_abi::wqe::{WqeFlags, WqeOpcode};
use vrnic_firmware::types::Time;

/// Posts a request that completes at once.
fn nop(node: &mut Node) {
    let control = control(WqeOpcode::Nop, 0, 0);
    node.qp.post(&node.driver.hw, control, &[]);
}

/// A node whose queue pair completes into a queue of 2^`log_entries` entries, and a peer.
fn with_cq(bench: &mut Bench, log_entries: u8) -> (Node, Node) {
    let (mut a, mut b) = (Node::new(bench, 1), Node::new(bench, 2));
    a.cq = a.driver.cq(bench, &a.eq, log_entries);
    a.qp = a.driver.qp(bench, a.pd, &a.cq, &a.cq);
    join(bench, &mut a, &mut b);
    (a, b)
}

fn query(node: &mut Node, bench: &mut Bench) -> CqAttributes {
    let number = node.cq.number;
    node.driver.query(bench, AdminOpcode::QueryCq, number)
}

fn page_entries(node: &Node, bench: &Bench) -> u32 {
    let function = bench.nic.function(node.driver.id).unwrap();
    function.objects.page_entries
}

fn resize(node: &mut Node, bench: &mut Bench, log_entries: u8) {
    node.driver.resize_cq(bench, &mut node.cq, log_entries);
}

#[track_caller]
fn event(node: &mut Node) -> Option<u32> {
    let entry = node.eq.poll(&node.driver.hw)?;
    node.eq.free(&node.driver.hw);
    assert_eq!(entry.event, EventType::Completion.raw());
    Some(entry.object)
}

mod resize {
    use super::*;

    /// Whatever is posted, consumed and moved, all entries arrive in order, each buffer takes as
    /// many as it holds, and buffers that the queue has left are not written.
    #[test]
    fn entries_arrive_in_order_across_buffers() {
        for seed in 0..60 {
            println!("seed {seed}");
            let mut random = Random(seed);
            let mut bench = Bench::default();
            let (mut a, _b) = with_cq(&mut bench, 2);
            let (mut posted, mut taken) = (0u32, 0);
            let mut left: Vec<(u64, Vec<u8>)> = Vec::new();
            for _ in 0..200 {
                let cq = query(&mut a, &mut bench);
                let here = cq.producer.wrapping_sub(cq.base).min(posted - taken);
                match random.below(6) {
                    0 => {
                        let size = 64usize << a.cq.log_entries;
                        left.push((a.cq.base, a.hw().bytes(a.cq.base, size)));
                        let log_entries = 2 + random.below(4) as u8;
                        resize(&mut a, &mut bench, log_entries);
                    }
                    1 | 2 if posted - taken > 0 => {
                        let entry = a.poll().expect("an entry");
                        assert_eq!((entry.wqe_index, entry.status), (taken, 0));
                        taken += 1;
                    }
                    // The send ring has 64 blocks; the completion queue what its buffer holds.
                    _ if here < 1 << a.cq.log_entries && posted - taken < 60 => {
                        nop(&mut a);
                        posted += 1;
                        bench.run();
                    }
                    _ => {}
                }
            }
            while let Some(entry) = a.poll() {
                assert_eq!((entry.wqe_index, entry.status), (taken, 0));
                taken += 1;
            }
            assert_eq!(taken, posted);
            for (address, bytes) in left {
                assert!(a.hw().bytes(address, bytes.len()) == bytes, "written late");
            }
            assert_eq!(query(&mut a, &mut bench).failed, 0);
        }
    }

    #[test]
    fn room_is_that_of_the_present_buffer() {
        let mut bench = Bench::default();
        let (mut a, _b) = with_cq(&mut bench, 2);
        for round in 0..3 {
            for _ in 0..4 {
                nop(&mut a);
            }
            bench.run();
            let cq = query(&mut a, &mut bench);
            assert_eq!((cq.failed, cq.producer), (0, 4 * (round + 1)));
            resize(&mut a, &mut bench, 2);
            assert_eq!(query(&mut a, &mut bench).base, 4 * (round + 1));
        }
        // What is freed in earlier buffers makes no room in this one.
        for _ in 0..4 {
            a.poll().unwrap();
            nop(&mut a);
        }
        bench.run();
        assert_eq!(query(&mut a, &mut bench).failed, 0);
        nop(&mut a);
        bench.run();
        let cq = query(&mut a, &mut bench);
        assert_eq!((cq.failed, cq.producer, cq.consumer), (1, 16, 4));
        for taken in 4..16 {
            assert_eq!(a.poll().unwrap().wqe_index, taken);
        }
        assert!(a.poll().is_none());
    }

    #[test]
    fn a_queue_that_failed_stays_where_it_is() {
        let mut bench = Bench::default();
        let (mut a, _b) = with_cq(&mut bench, 2);
        for _ in 0..5 {
            nop(&mut a);
        }
        bench.run();
        let body = ResizeCq {
            cq: a.cq.number,
            log_entries: 4,
            buffer: a.driver.buffer(64 << 4),
            ..ResizeCq::default()
        };
        let completion = a.driver.command(&mut bench, AdminOpcode::ResizeCq, &body);
        assert_eq!(completion.status, Status::BadState.raw());
        assert_eq!(completion.syndrome, 8);
        let cq = query(&mut a, &mut bench);
        assert_eq!((cq.failed, cq.entries, cq.base), (1, 4, 0));
    }

    #[test]
    fn pages_of_the_old_buffer_are_given_back() {
        let mut bench = Bench::default();
        let (mut a, _b) = with_cq(&mut bench, 2);
        let before = page_entries(&a, &bench);
        for log_entries in [8, 10, 8, 7] {
            let buffer = a.driver.scattered(64 << log_entries);
            let body = ResizeCq {
                cq: a.cq.number,
                log_entries,
                buffer,
                ..ResizeCq::default()
            };
            a.driver.ok(&mut bench, AdminOpcode::ResizeCq, &body);
            let pages = (64 << log_entries) / 4096;
            assert_eq!(page_entries(&a, &bench), before + pages);
        }
        a.driver.resize_cq(&mut bench, &mut a.cq, 6);
        assert_eq!(page_entries(&a, &bench), before);
    }

    /// A list that is long is read in slices, while the queue goes on where it is, fails, or goes.
    #[test]
    fn what_happens_while_a_long_list_is_read() {
        /// What happens meanwhile.
        #[derive(Clone, Copy, PartialEq, Debug)]
        enum Meanwhile {
            Traffic,
            Failure,
            Destruction,
        }
        use Meanwhile::{Destruction, Failure, Traffic};
        for (meanwhile, status) in [
            (Traffic, Status::Success),
            (Failure, Status::BadState),
            (Destruction, Status::NoSuchObject),
        ] {
            let mut bench = Bench::default();
            let (mut a, _b) = with_cq(&mut bench, 3);
            let spare = a.driver.cq(&mut bench, &a.eq, 2);
            let before = page_entries(&a, &bench);
            let mut buffer = a.driver.buffer(64 << 6);
            // Many more pages than the ring needs.
            let pages = 3000u32;
            let list = a.driver.memory(u64::from(pages) * 8, true);
            for page in 0..u64::from(pages) {
                let at = if page == 0 {
                    buffer.address
                } else {
                    page << 13
                };
                a.hw().write(list + page * 8, &at);
            }
            let first = buffer.address;
            (buffer.address, buffer.list, buffer.pages) = (list, 1, pages);
            let cq = if meanwhile == Destruction {
                spare.number
            } else {
                a.cq.number
            };
            let body = ResizeCq {
                cq,
                log_entries: 6,
                buffer,
                ..ResizeCq::default()
            };
            let opcode = AdminOpcode::ResizeCq.raw();
            let id = a.driver.put(opcode, bytemuck::bytes_of(&body));
            a.driver.announce(&mut bench);
            bench.step();
            assert!(a.driver.take(&mut bench).is_none(), "{meanwhile:?}");
            let posted = match meanwhile {
                Traffic => 5,
                Failure => 9,
                Destruction => 0,
            };
            for _ in 0..posted {
                nop(&mut a);
            }
            if meanwhile == Destruction {
                let body = ObjectReference {
                    object: cq,
                    reserved: 0,
                };
                let opcode = AdminOpcode::DestroyCq.raw();
                a.driver.put(opcode, bytemuck::bytes_of(&body));
                a.driver.announce(&mut bench);
            }
            bench.run();
            let mut completion = a.driver.take(&mut bench).unwrap();
            if completion.id != id {
                assert_eq!(completion.status, 0, "the destruction");
                completion = a.driver.take(&mut bench).unwrap();
            }
            assert_eq!(completion.status, status.raw(), "{meanwhile:?}");
            if meanwhile != Traffic {
                assert_eq!(page_entries(&a, &bench), before);
                continue;
            }
            a.cq.moved(first, 6, completion.result0 as u32);
            for _ in 0..20 {
                nop(&mut a);
            }
            bench.run();
            for taken in 0..25 {
                assert_eq!(a.poll().unwrap().wqe_index, taken);
            }
        }
    }

    #[test]
    fn an_armed_queue_notifies_across_a_move() {
        let mut bench = Bench::default();
        let (mut a, _b) = with_cq(&mut bench, 2);
        a.cq.arm(&a.driver.hw, false);
        bench.run();
        resize(&mut a, &mut bench, 4);
        assert_eq!(query(&mut a, &mut bench).armed, 1);
        assert_eq!(event(&mut a), None);
        nop(&mut a);
        bench.run();
        assert_eq!(event(&mut a), Some(a.cq.number));
        // An entry that no event was about and that stays behind in the old buffer is reason enough for
        // the next event; one that was announced is not.
        nop(&mut a);
        bench.run();
        resize(&mut a, &mut bench, 2);
        a.cq.arm(&a.driver.hw, false);
        bench.run();
        assert_eq!(event(&mut a), Some(a.cq.number));
        resize(&mut a, &mut bench, 3);
        a.cq.arm(&a.driver.hw, false);
        bench.run();
        assert_eq!(event(&mut a), None);
        assert!(a.poll().is_some() && a.poll().is_some() && a.poll().is_none());
    }
}

mod moderation {
    use super::*;

    fn moderate(node: &mut Node, bench: &mut Bench, period: u16, count: u16) {
        let body = ModifyCq {
            cq: node.cq.number,
            moderation_period: period,
            moderation_count: count,
            ..ModifyCq::default()
        };
        node.driver.ok(bench, AdminOpcode::ModifyCq, &body);
        let cq = query(node, bench);
        assert_eq!((cq.moderation_period, cq.moderation_count), (period, count));
    }

    fn arm(node: &mut Node, bench: &mut Bench) {
        while node.poll().is_some() {}
        node.cq.arm(&node.driver.hw, false);
        bench.run();
    }

    fn post(node: &mut Node, bench: &mut Bench, count: u32) {
        for _ in 0..count {
            nop(node);
        }
        bench.run();
    }

    /// Lets `micros` pass; timers of queue pairs do not run here.
    fn wait(bench: &mut Bench, micros: u64) {
        bench.now = Time(bench.now.0 + micros * 1000);
        bench.run();
    }

    #[test]
    fn the_event_comes_with_the_count() {
        let mut bench = Bench::default();
        let (mut a, _b) = with_cq(&mut bench, 5);
        moderate(&mut a, &mut bench, 0, 3);
        for _ in 0..3 {
            arm(&mut a, &mut bench);
            post(&mut a, &mut bench, 2);
            wait(&mut bench, 1_000_000);
            assert_eq!(event(&mut a), None);
            post(&mut a, &mut bench, 1);
            assert_eq!(event(&mut a), Some(a.cq.number));
            post(&mut a, &mut bench, 4);
            assert_eq!(event(&mut a), None, "not armed");
        }
    }

    #[test]
    fn the_event_comes_in_time() {
        let mut bench = Bench::default();
        let (mut a, _b) = with_cq(&mut bench, 5);
        moderate(&mut a, &mut bench, 500, 100);
        for _ in 0..3 {
            arm(&mut a, &mut bench);
            wait(&mut bench, 10_000);
            let posted = bench.now;
            post(&mut a, &mut bench, 2);
            assert_eq!(event(&mut a), None);
            let due = bench.nic.next_timeout().expect("a timer");
            let after = due.0 - posted.0;
            assert!((500_000..=510_000).contains(&after), "{after}");
            bench.now = Time(due.0 - 2_000);
            bench.step();
            assert_eq!(event(&mut a), None);
            bench.now = due;
            bench.run();
            assert_eq!(event(&mut a), Some(a.cq.number));
            assert_eq!(event(&mut a), None);
            assert_eq!(bench.nic.next_timeout(), None, "no timer is left");
        }
    }

    #[test]
    fn at_creation() {
        let mut bench = Bench::default();
        let (mut a, mut b) = (Node::new(&mut bench, 1), Node::new(&mut bench, 2));
        let body = CreateCq {
            buffer: a.driver.buffer(64 << 4),
            log_entries: 4,
            eq: a.eq.number,
            moderation_period: 7,
            moderation_count: 2,
            ..CreateCq::default()
        };
        let completion = a.driver.command(&mut bench, AdminOpcode::CreateCq, &body);
        assert_eq!(completion.status, 0);
        a.cq.number = completion.result0 as u32;
        a.cq.slot = completion.result1 as u32;
        (a.cq.base, a.cq.log_entries) = (body.buffer.address, 4);
        a.qp = a.driver.qp(&mut bench, a.pd, &a.cq, &a.cq);
        join(&mut bench, &mut a, &mut b);
        let cq = query(&mut a, &mut bench);
        assert_eq!((cq.moderation_period, cq.moderation_count), (7, 2));
        arm(&mut a, &mut bench);
        nop(&mut a);
        bench.step();
        bench.step();
        assert_eq!(event(&mut a), None);
        wait(&mut bench, 7);
        assert_eq!(event(&mut a), Some(a.cq.number));
    }

    /// An error is announced at once, and a solicited completion only to those who wait for one.
    #[test]
    fn what_counts() {
        let mut bench = Bench::default();
        let (mut a, mut b) = with_cq(&mut bench, 5);
        std::mem::swap(&mut a, &mut b);
        moderate(&mut b, &mut bench, 100, 2);
        let mut send = |bench: &mut Bench, b: &mut Node, solicited: bool| {
            let list = [b.segment(0, 64)];
            b.qp.receive(&b.driver.hw, &list);
            let mut head = control(WqeOpcode::Send, 0, 0);
            if solicited {
                head.flags |= WqeFlags::SOLICITED.bits();
            }
            a.qp.post(&a.driver.hw, head, &[]);
            bench.run();
        };
        b.cq.arm(&b.driver.hw, true);
        bench.run();
        for _ in 0..4 {
            send(&mut bench, &mut b, false);
        }
        send(&mut bench, &mut b, true);
        assert_eq!(event(&mut b), None);
        send(&mut bench, &mut b, true);
        assert_eq!(event(&mut b), Some(b.cq.number));
        // A solicited completion that waits is announced at once, if no event was about it.
        send(&mut bench, &mut b, true);
        assert_eq!(event(&mut b), None);
        b.cq.arm(&b.driver.hw, true);
        bench.run();
        assert_eq!(event(&mut b), Some(b.cq.number));
        b.cq.arm(&b.driver.hw, true);
        bench.run();
        assert_eq!(event(&mut b), None);
        arm(&mut b, &mut bench);
        let list = [b.segment(0, 64)];
        b.qp.receive(&b.driver.hw, &list);
        let qpn = b.qp.number;
        b.driver.set_state(&mut bench, qpn, QpState::Error);
        assert_eq!(event(&mut b), Some(b.cq.number), "flushed");
    }

    #[test]
    fn a_pending_event_survives_changes_of_the_queue() {
        let mut bench = Bench::default();
        let (mut a, _b) = with_cq(&mut bench, 5);
        moderate(&mut a, &mut bench, 60_000, 0);
        arm(&mut a, &mut bench);
        post(&mut a, &mut bench, 1);
        let due = bench.nic.next_timeout().unwrap();
        resize(&mut a, &mut bench, 6);
        assert_eq!(query(&mut a, &mut bench).armed, 1);
        assert_eq!(bench.nic.next_timeout(), Some(due));
        // Arming again with an entry left does not put it off.
        wait(&mut bench, 10_000);
        a.cq.arm(&a.driver.hw, false);
        bench.run();
        assert_eq!(event(&mut a), None);
        bench.now = due;
        bench.run();
        assert_eq!(event(&mut a), Some(a.cq.number));
        // A shorter time holds at once, and 0 means now.
        arm(&mut a, &mut bench);
        post(&mut a, &mut bench, 1);
        moderate(&mut a, &mut bench, 1_000, 0);
        assert_eq!(event(&mut a), None);
        wait(&mut bench, 1_000);
        assert_eq!(event(&mut a), Some(a.cq.number));
        arm(&mut a, &mut bench);
        post(&mut a, &mut bench, 1);
        moderate(&mut a, &mut bench, 0, 0);
        assert_eq!(event(&mut a), Some(a.cq.number));
    }

    #[test]
    fn a_pending_event_goes_with_the_queue() {
        let mut bench = Bench::default();
        let (mut a, _b) = with_cq(&mut bench, 5);
        moderate(&mut a, &mut bench, 1_000, 0);
        arm(&mut a, &mut bench);
        post(&mut a, &mut bench, 1);
        let (qpn, cqn) = (a.qp.number, a.cq.number);
        a.driver.destroy(&mut bench, AdminOpcode::DestroyQp, qpn);
        a.driver.destroy(&mut bench, AdminOpcode::DestroyCq, cqn);
        wait(&mut bench, 1_000_000);
        assert_eq!(event(&mut a), None);
        assert_eq!(bench.nic.next_timeout(), None, "no timer is left");
    }

    /// A driver that sleeps until an event when it has found its queue empty after arming is woken
    /// for every completion, no later than moderation allows, and with fewer events than arms.
    #[test]
    fn no_event_is_lost() {
        for seed in 0..100 {
            println!("seed {seed}");
            let mut random = Random(seed);
            let mut bench = Bench::default();
            let (mut a, _b) = with_cq(&mut bench, 6);
            let period = 1 + random.below(50) as u16;
            moderate(&mut a, &mut bench, period, random.below(6) as u16);
            let (mut posted, mut taken, mut arms, mut events) = (0u32, 0, 0, 0);
            let mut since = None;
            for _ in 0..300 {
                match random.below(5) {
                    0 if posted - taken < 32 => {
                        nop(&mut a);
                        posted += 1;
                        bench.step();
                        since = since.or(Some(bench.now));
                    }
                    1 => {
                        while a.poll().is_some() {
                            taken += 1;
                        }
                        since = None;
                        a.cq.arm(&a.driver.hw, false);
                        arms += 1;
                        bench.step();
                    }
                    2 => wait(&mut bench, random.below(40)),
                    3 if random.percent(10) => resize(&mut a, &mut bench, 6),
                    _ => {
                        bench.step();
                    }
                }
                while event(&mut a).is_some() {
                    events += 1;
                    since = None;
                    while a.poll().is_some() {
                        taken += 1;
                    }
                    a.cq.arm(&a.driver.hw, false);
                    arms += 1;
                    bench.step();
                }
                if let (Some(since), true) = (since, arms > 0) {
                    let late = since.0 + (u64::from(period) + 50) * 1000;
                    assert!(bench.now.0 <= late, "an entry waits since {since:?}");
                }
            }
            while bench.skip() {
                bench.run();
            }
            events += std::iter::from_fn(|| event(&mut a)).count();
            assert!(events <= arms, "{events} events for {arms} arms");
        }
    }
}

mod event_queues {
    use super::*;

    #[test]
    fn are_described() {
        let mut bench = Bench::default();
        let mut a = Node::new(&mut bench, 1);
        let eq = a.driver.eq(&mut bench, 4, 9);
        let ask = |a: &mut Node, bench: &mut Bench| -> EqAttributes {
            a.driver.query(bench, AdminOpcode::QueryEq, eq.number)
        };
        let found = ask(&mut a, &mut bench);
        let wanted = EqAttributes {
            entries: 16,
            vector: 9,
            ..EqAttributes::default()
        };
        assert_eq!(bytemuck::bytes_of(&found), bytemuck::bytes_of(&wanted));
        a.driver
            .destroy(&mut bench, AdminOpcode::SetAsyncEq, eq.number);
        for up in [false, true].repeat(9) {
            bench.nic.set_link(up);
        }
        let found = ask(&mut a, &mut bench);
        assert_eq!((found.producer, found.held, found.users), (16, 2, 1));
        let mut eq = eq;
        eq.consumer = 16;
        eq.arm(&a.driver.hw);
        bench.run();
        let number = eq.number;
        let found: EqAttributes = a.driver.query(&mut bench, AdminOpcode::QueryEq, number);
        assert_eq!((found.producer, found.consumer, found.held), (18, 16, 0));
        assert_eq!(found.armed, 0, "two events wait");
        eq.consumer = 18;
        eq.arm(&a.driver.hw);
        bench.run();
        let found: EqAttributes = a.driver.query(&mut bench, AdminOpcode::QueryEq, number);
        assert_eq!((found.consumer, found.armed), (18, 1));
    }
}
