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
