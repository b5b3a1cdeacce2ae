//! Shared receive queues, and XRC.

use vrnic_ibverbs::*;

use super::app::*;
use crate::ffi::provider::*;

/// Posts a receive to a shared queue; the answer is `errno`, or 0.
fn receive(srq: *mut ibv_srq, wr_id: u64, mut sge: ibv_sge) -> i32 {
    let mut request = ibv_recv_wr {
        wr_id,
        next: core::ptr::null_mut(),
        sg_list: &raw mut sge,
        num_sge: 1,
    };
    let mut bad = core::ptr::null_mut();
    unsafe { ops().post_srq_recv.unwrap()(srq, &raw mut request, &raw mut bad) }
}

fn sizes() -> ibv_srq_attr {
    ibv_srq_attr {
        max_wr: 6,
        max_sge: 2,
        srq_limit: 0,
    }
}

fn basic(app: &App) -> *mut ibv_srq {
    let mut attributes = ibv_srq_init_attr {
        srq_context: core::ptr::null_mut(),
        attr: sizes(),
    };
    let srq = unsafe { ops().create_srq.unwrap()(app.pd, &raw mut attributes) };
    assert!(!srq.is_null());
    assert_eq!((attributes.attr.max_wr, attributes.attr.max_sge), (8, 2));
    srq
}

/// A queue pair that receives from `srq`, and its peer.
fn pair(app: &App, srq: *mut ibv_srq) -> (*mut ibv_qp, *mut ibv_qp) {
    let a = app.qp(qp_type::RC);
    let mut attributes = app.attributes(qp_type::RC);
    attributes.srq = srq;
    let b = unsafe { ops().create_qp.unwrap()(app.pd, &raw mut attributes) };
    assert!(!b.is_null());
    connect(a, b);
    connect(b, a);
    (a, b)
}

#[test]
fn queue_pairs_share_receives() {
    let app = App::new();
    let srq = basic(&app);
    let pairs = [pair(&app, srq), pair(&app, srq)];
    for round in 0..40u64 {
        let (a, b) = pairs[round as usize % 2];
        assert_eq!(receive(srq, round, app.sge(4096, 8)), 0);
        app.write(0, &round.to_ne_bytes());
        app.send(
            a,
            signaled(round | 1 << 32, wr_opcode::SEND),
            Some(app.sge(0, 8)),
        );
        let all = app.sorted();
        assert_eq!(
            (all[0].wr_id, all[0].qp_num),
            (round, unsafe { (*b).qp_num })
        );
        assert_eq!(app.word(4096), round);
    }
    for id in 0..8 {
        assert_eq!(receive(srq, id, app.sge(4096, 8)), 0);
    }
    assert_eq!(receive(srq, 8, app.sge(4096, 8)), libc::ENOMEM);
    assert_eq!(app.try_receive(pairs[0].1, 1, app.sge(0, 8)), libc::EINVAL);
    assert_eq!(unsafe { ops().destroy_srq.unwrap()(srq) }, libc::EBUSY);
}

#[test]
fn receives_of_a_queue_pair_that_is_gone_free_their_places() {
    let app = App::new();
    let srq = basic(&app);
    for _ in 0..5 {
        let (a, b) = pair(&app, srq);
        for id in 0..8 {
            assert_eq!(receive(srq, id, app.sge(4096, 8)), 0);
            app.send(a, signaled(id, wr_opcode::SEND), Some(app.sge(0, 8)));
        }
        super::kernel::settle();
        for qp in [a, b] {
            assert_eq!(unsafe { ops().destroy_qp.unwrap()(qp) }, 0);
        }
        assert!(app.poll().is_empty());
    }
    assert_eq!(unsafe { ops().destroy_srq.unwrap()(srq) }, 0);
}

#[test]
fn xrc_initiators_reach_shared_queues_by_number() {
    let app = App::new();
    unsafe {
        let xrcd = ops().open_xrcd.unwrap()(app.context, core::ptr::null_mut());
        let mut attributes: ibv_srq_init_attr_ex = zeroed();
        attributes.attr = sizes();
        attributes.comp_mask = 0xf;
        attributes.srq_type = SRQ_TYPE_XRC;
        (attributes.pd, attributes.xrcd, attributes.cq) = (app.pd, xrcd, app.cq);
        let mut srqs = [core::ptr::null_mut(); 2];
        let mut numbers = [0; 2];
        for (srq, number) in srqs.iter_mut().zip(&mut numbers) {
            *srq = ops().create_srq_ex.unwrap()(app.context, &raw mut attributes);
            assert!(!srq.is_null());
            assert_eq!(ops().get_srq_num.unwrap()(*srq, number), 0);
        }
        let a = app.qp(qp_type::XRC_SEND);
        let mut target: ibv_qp_init_attr_ex = zeroed();
        target.qp_type = qp_type::XRC_RECV;
        target.comp_mask = qp_attr::PD | qp_attr::XRCD;
        (target.pd, target.xrcd) = (app.pd, xrcd);
        let b = ops().create_qp_ex.unwrap()(app.context, &raw mut target);
        assert!(!b.is_null());
        connect(a, b);
        connect(b, a);
        for round in 0..20u64 {
            let place = round as usize % 2;
            assert_eq!(receive(srqs[place], round, app.sge(4096, 8)), 0);
            app.write(0, &round.to_ne_bytes());
            let mut send = signaled(round | 1 << 32, wr_opcode::SEND);
            send.remote_srqn = numbers[place];
            app.send(a, send, Some(app.sge(0, 8)));
            let all = app.sorted();
            assert_eq!((all[0].wr_id, all[0].qp_num), (round, (*b).qp_num));
            assert_eq!(app.word(4096), round);
        }
        // What is left of a queue that is destroyed is not seen.
        assert_eq!(receive(srqs[0], 1, app.sge(4096, 8)), 0);
        let mut send = signaled(2, wr_opcode::SEND);
        send.remote_srqn = numbers[0];
        app.send(a, send, Some(app.sge(0, 8)));
        super::kernel::settle();
        assert_eq!(ops().destroy_srq.unwrap()(srqs[0]), 0);
        assert_eq!(app.one().wr_id, 2);
        for qp in [a, b] {
            assert_eq!(ops().destroy_qp.unwrap()(qp), 0);
        }
        assert_eq!(ops().destroy_srq.unwrap()(srqs[1]), 0);
        assert_eq!(ops().close_xrcd.unwrap()(xrcd), 0);
    }
}

/// The private structure and what applications see of it begin alike.
const _: () = assert!(core::mem::offset_of!(verbs_srq, srq) == 0);
