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
