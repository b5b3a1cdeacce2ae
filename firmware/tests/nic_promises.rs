//! Promises of the datasheet that hold whatever else goes wrong: what a failed function still does,
//! how much one step takes, what a reset shows, who is heard.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nic_bench;

use nic_bench::*;

mod a_failed_function {
    use super::*;
    use vrnic_abi::wqe::WqeOpcode;

    /// The event queue cannot be written when the completion queue is armed, and the same look at
    /// the doorbells finds a WRITE after that.
    #[test]
    fn processes_nothing_any_more() {
        let mut bench = Bench::default();
        let (mut a, b) = pair(&mut bench);
        a.qp.post(&a.driver.hw, control(WqeOpcode::Nop, 0, 0), &[]);
        bench.run();
        *a.hw().ram.hole.borrow_mut() = Some(a.eq.base..a.eq.base + 4096);
        a.driver.hw.write(a.memory, &0u64);
        let (remote, list) = ((b.memory, b.key), [a.segment(0, 8)]);
        a.cq.arm(&a.driver.hw, false);
        a.qp.rdma(&a.driver.hw, WqeOpcode::Write, remote, &list);
        bench.run();
        assert_eq!(a.driver.state(), 2);
        assert_eq!(b.hw().bytes(b.memory, 8), [PATTERN; 8]);
        assert!(bench.wire.sent.is_empty());
    }

    /// The same look finds another completion queue armed, whose event queue can be written.
    #[test]
    fn writes_no_further_events() {
        let mut bench = Bench::default();
        let mut a = Node::new(&mut bench, 1);
        let mut b = Node::new(&mut bench, 2);
        let mut eq = a.driver.eq(&mut bench, 4, 5);
        let mut cq = a.driver.cq(&mut bench, &eq, 4);
        // Sends complete into the first queue, and a receive into the second.
        a.qp = a.driver.qp(&mut bench, a.pd, &a.cq, &cq);
        join(&mut bench, &mut a, &mut b);
        a.qp.receive(&a.driver.hw, &[]);
        a.qp.post(&a.driver.hw, control(WqeOpcode::Nop, 0, 0), &[]);
        b.qp.send(&b.driver.hw, WqeOpcode::Send, 0, &[]);
        bench.run();
        *a.hw().ram.hole.borrow_mut() = Some(a.eq.base..a.eq.base + 4096);
        a.cq.arm(&a.driver.hw, false);
        cq.arm(&a.driver.hw, false);
        bench.run();
        assert_eq!(a.driver.state(), 2);
        assert!(cq.poll(&a.driver.hw).is_some(), "there was a reason");
        assert!(eq.poll(&a.driver.hw).is_none());
    }
}

mod a_step {
    use super::*;
    use vrnic_abi::admin::{AdminOpcode, Buffer, CreateQp};
    use vrnic_abi::object::{QpAttributes, QpState};
    use vrnic_abi::wqe::WqeOpcode;
    use vrnic_firmware::nic::Progress;
    use vrnic_firmware::types::State;

    /// Many queue pairs with full receive queues share a completion queue that fails.
    #[test]
    fn is_bounded_when_a_completion_queue_fails() {
        const QPS: usize = 100;
        let mut bench = Bench::default();
        let mut a = Node::new(&mut bench, 1);
        let small = a.driver.cq(&mut bench, &a.eq, 2);
        let buffer = a.driver.buffer(64 << 6 | 4096);
        for _ in 0..QPS {
            let body = CreateQp {
                pd: a.pd,
                send_cq: small.number,
                receive_cq: small.number,
                buffer: Buffer { pages: 2, ..buffer },
                log_send_blocks: 6,
                log_receive_entries: 6,
                log_receive_segments: 2,
                ..CreateQp::default()
            };
            let made = a.driver.command(&mut bench, AdminOpcode::CreateQp, &body);
            let (qpn, slots) = (made.result0 as u32, made.result1 as u32);
            let (mask, given) = to_init();
            a.driver.modify_ok(&mut bench, qpn, mask, &given);
            a.hw().store_slot(0, slots >> 16, 64);
        }
        let mut b = Node::new(&mut bench, 2);
        a.qp = a.driver.qp(&mut bench, a.pd, &small, &small);
        join(&mut bench, &mut a, &mut b);
        for _ in 0..5 {
            a.qp.post(&a.driver.hw, control(WqeOpcode::Nop, 0, 0), &[]);
        }
        let mut most = 0;
        loop {
            let before = a.hw().ram.accesses.get();
            let progress = bench.step();
            most = most.max(a.hw().ram.accesses.get() - before);
            if progress == Progress::Idle {
                break;
            }
        }
        let function = bench.nic.function(a.driver.id).unwrap();
        let failed = function.qps.iter();
        let failed = failed.filter(|(_, qp)| qp.transport.state() == State::Error);
        assert_eq!(failed.count(), QPS + 1);
        assert!(most < 20 * 64, "{most} accesses in a step");
    }

    /// A queue pair that comes to a failed completion queue later fails with its first completion.
    #[test]
    fn does_not_lose_completions_quietly() {
        let mut bench = Bench::default();
        let (mut a, mut b) = (Node::new(&mut bench, 1), Node::new(&mut bench, 2));
        *a.hw().ram.hole.borrow_mut() = Some(a.cq.base..a.cq.base + 4096);
        let other = a.driver.qp(&mut bench, a.pd, &a.cq, &a.cq);
        join(&mut bench, &mut a, &mut b);
        a.qp.post(&a.driver.hw, control(WqeOpcode::Nop, 0, 0), &[]);
        bench.run();
        a.qp = other;
        let qb = b.qp.number;
        b.driver.set_state(&mut bench, qb, QpState::Reset);
        join(&mut bench, &mut a, &mut b);
        a.qp.post(&a.driver.hw, control(WqeOpcode::Nop, 0, 0), &[]);
        bench.run();
        let qp: QpAttributes = a
            .driver
            .query(&mut bench, AdminOpcode::QueryQp, a.qp.number);
        assert_eq!(qp.state, QpState::Error.raw());
    }
}

mod a_reset {
    use super::*;
    use vrnic_abi::registers as reg;

    #[test]
    fn is_counted_when_all_registers_hold_their_initial_values() {
        let mut bench = Bench::default();
        let a = Node::new(&mut bench, 1);
        a.hw().published.borrow_mut().clear();
        a.driver
            .write_register(&mut bench, &reg::RESET, reg::RESET_VALUE);
        let published = a.hw().published.borrow();
        let at = |register: &vrnic_abi::Register| {
            let offset = register.offset;
            let found = published.iter().enumerate();
            let found = found.filter(|(_, (o, _))| *o == offset);
            found.map(|(at, _)| at).collect::<Vec<_>>()
        };
        assert_eq!(at(&reg::DEVICE_STATUS), [published.len() - 1]);
        let magic: Vec<u32> = at(&reg::MAGIC).iter().map(|at| published[*at].1).collect();
        assert_eq!(magic, [reg::MAGIC_VALUE]);
    }
}

mod the_heartbeat {
    use super::*;
    use vrnic_abi::admin::AdminOpcode;
    use vrnic_abi::object::QpAttributes;
    use vrnic_abi::registers as reg;
    use vrnic_abi::wqe::WqeOpcode;

    #[test]
    fn goes_on_while_a_message_is_outstanding() {
        let mut bench = Bench::default();
        let (mut a, mut b) = (Node::new(&mut bench, 1), Node::new(&mut bench, 2));
        let (qa, qb) = (a.qp.number, b.qp.number);
        for (mask, given) in [to_init(), to_rtr(9, qb), to_rts()] {
            // A peer that is not there, and 68 seconds for its answer.
            let given = QpAttributes {
                timeout: 24,
                ..given
            };
            a.driver.modify_ok(&mut bench, qa, mask, &given);
        }
        b.driver.destroy(&mut bench, AdminOpcode::DestroyQp, qb);
        a.qp.send(&a.driver.hw, WqeOpcode::Send, 0, &[]);
        bench.run();
        let heartbeat = |a: &Node| a.hw().register(&reg::HEARTBEAT);
        for _ in 0..10 {
            let (before, then) = (heartbeat(&a), bench.now.0);
            assert!(bench.skip(), "there is a next time");
            bench.run();
            assert!(heartbeat(&a) > before);
            assert!(bench.now.0 - then <= 1_010_000_000, "within a second");
        }
    }
}

mod a_packet {
    use super::*;
    use vrnic_abi::admin::{AdminOpcode, GidType, SetGid};
    use vrnic_abi::counter::Counter;
    use vrnic_firmware::pdu::{Body, Pdu, Place, SendTail, Service};
    use vrnic_firmware::transport::Path;
    use vrnic_firmware::types::{Psn, Qpn};
    use vrnic_firmware::wire;

    /// The function has an address in two VLANs, and a queue pair in one of them.
    #[test]
    fn of_another_vlan_is_not_for_the_queue_pair() {
        let mut bench = Bench::default();
        let mut b = Node::new(&mut bench, 2);
        let body = SetGid {
            index: 1,
            gid_type: GidType::RoceV2.raw(),
            vlan: 20,
            gid: gid(2).0,
            ..SetGid::default()
        };
        b.driver.ok(&mut bench, AdminOpcode::SetGid, &body);
        let qpn = b.qp.number;
        b.driver.connect(&mut bench, qpn, 7, 77);
        b.qp.receive(&b.driver.hw, &[]);
        for (vlan, received) in [(20, 0), (0, 1)] {
            let frame = send(vlan, qpn);
            bench.nic.receive(bench.now, &frame, &mut bench.wire);
            assert_eq!(b.counter(&bench, Counter::RxSendRequests), received);
            assert_eq!(b.counter(&bench, Counter::RxWrongSource), 1);
        }
    }

    /// Packets of other transport services than the queue pair's are counted and change nothing.
    #[test]
    fn speak_their_own_service_only() {
        let mut bench = Bench::default();
        let mut b = Node::new(&mut bench, 2);
        let qpn = b.qp.number;
        b.driver.connect(&mut bench, qpn, 7, 77);
        b.qp.receive(&b.driver.hw, &[]);
        let source = Qpn::new(77);
        let others = [
            Service::Unreliable,
            Service::Datagram { qkey: 0, source },
            Service::Extended { srqn: 0 },
        ];
        for (service, refused) in others.into_iter().zip(1..) {
            let frame = send_as(service, 0, qpn);
            bench.nic.receive(bench.now, &frame, &mut bench.wire);
            assert_eq!(b.counter(&bench, Counter::RxWrongService), refused);
            assert_eq!(b.counter(&bench, Counter::RxSendRequests), 0);
        }
        let frame = send_as(Service::Reliable, 0, qpn);
        bench.nic.receive(bench.now, &frame, &mut bench.wire);
        assert_eq!(b.counter(&bench, Counter::RxSendRequests), 1);
    }

    /// An empty SEND from function 7 to queue pair `qpn` of function 2.
    fn send(vlan: u16, qpn: u32) -> Vec<u8> {
        send_as(Service::Reliable, vlan, qpn)
    }

    fn send_as(service: Service, vlan: u16, qpn: u32) -> Vec<u8> {
        let path = Path {
            source: gid(7),
            source_mac: mac(7),
            destination: gid(2),
            destination_mac: mac(2),
            vlan,
            pkey: 0xffff,
            hop_limit: 64,
            ..Path::default()
        };
        let pdu = Pdu {
            destination: Qpn::new(qpn),
            service,
            psn: Psn::new(0xff_fff0),
            packets: 1,
            length: 0,
            ack_request: true,
            solicited: false,
            body: Body::Send {
                place: Place::Only,
                tail: SendTail::None,
            },
        };
        let mut frame = vec![0; wire::frame_length(&path, &pdu)];
        wire::emit(&path, &pdu, 1, &[], &mut frame).unwrap();
        frame
    }
}

mod commands {
    use super::*;
    use vrnic_abi::admin::{AdminOpcode, ObjectOutput, OutputBuffer};
    use vrnic_abi::object::{DeviceAttributes, QpAttributes, QpMask, QpState};

    /// A driver that knows a shorter structure than the device.
    #[test]
    fn write_as_much_as_fits() {
        let mut bench = Bench::default();
        let mut a = Node::new(&mut bench, 1);
        for length in [8, 12, 40, 255] {
            let address = a.driver.memory(4096, false);
            let output = OutputBuffer {
                address,
                length,
                reserved: 0,
            };
            a.driver.ok(&mut bench, AdminOpcode::QueryDevice, &output);
            let all: DeviceAttributes = {
                let address = a.driver.memory(4096, false);
                let length = 4096;
                let output = OutputBuffer {
                    address,
                    length,
                    reserved: 0,
                };
                a.driver.ok(&mut bench, AdminOpcode::QueryDevice, &output);
                assert_eq!(a.hw().bytes(address + 256, 8), [PATTERN; 8]);
                a.hw().read(address)
            };
            let at = length as usize;
            let written = a.hw().bytes(address, 256);
            assert_eq!(written[..at], bytemuck::bytes_of(&all)[..at]);
            assert!(written[at..].iter().all(|byte| *byte == PATTERN));
            let body = ObjectOutput {
                object: a.qp.number,
                reserved: 0,
                output,
            };
            a.driver.ok(&mut bench, AdminOpcode::QueryQp, &body);
        }
    }

    /// Attributes that the mask does not name are not looked at.
    #[test]
    fn look_only_at_what_the_mask_names() {
        let mut bench = Bench::default();
        let (mut a, b) = pair(&mut bench);
        let (qa, qb) = (a.qp.number, b.qp.number);
        let udp = |bench: &Bench, a: &Node| {
            let function = bench.nic.function(a.driver.id).unwrap();
            function.qps.get(qa).unwrap().transport.path().udp_source
        };
        let before = udp(&bench, &a);
        a.driver.set_state(&mut bench, qa, QpState::Sqd);
        let (_, given) = to_rtr(2, qb);
        let given = QpAttributes {
            remote_qpn: u32::MAX,
            ..given
        };
        a.driver
            .modify_ok(&mut bench, qa, QpMask::PRIMARY_PATH, &given);
        assert_eq!(udp(&bench, &a), before);
    }
}
