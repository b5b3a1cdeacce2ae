//! The extended interfaces of completion queues and queue pairs.

use core::ffi::c_void;

use vrnic_ibverbs::*;

use super::app::*;
use super::kernel;
use crate::ffi::provider::*;

/// All operations of reliable queue pairs.
const ALL: u64 = 0x1bff;

fn cq(app: &App, wc_flags: u64, flags: u32) -> *mut ibv_cq_ex {
    let mut attributes: ibv_cq_init_attr_ex = zeroed();
    attributes.cqe = 30;
    attributes.wc_flags = wc_flags;
    attributes.comp_mask = cq_attr::MASK_FLAGS;
    attributes.flags = flags;
    unsafe { ops().create_cq_ex.unwrap()(app.context, &raw mut attributes) }
}

fn qp(app: &App, qp_type: u32, send_ops_flags: u64) -> *mut ibv_qp_ex {
    let basic = app.attributes(qp_type);
    let mut attributes = ibv_qp_init_attr_ex {
        send_cq: basic.send_cq,
        recv_cq: basic.recv_cq,
        cap: basic.cap,
        qp_type,
        comp_mask: qp_attr::PD | qp_attr::SEND_OPS_FLAGS,
        pd: app.pd,
        send_ops_flags,
        ..zeroed()
    };
    unsafe { ops().create_qp_ex.unwrap()(app.context, &raw mut attributes).cast() }
}

/// Two extended queue pairs that are connected to each other.
#[track_caller]
fn pair(app: &App, qp_type: u32, operations: u64) -> (*mut ibv_qp_ex, *mut ibv_qp_ex) {
    let (a, b) = (qp(app, qp_type, operations), qp(app, qp_type, operations));
    assert!(!a.is_null() && !b.is_null());
    assert_eq!(unsafe { (*a.cast::<verbs_qp>()).comp_mask } & QP_EX, QP_EX);
    connect(a.cast(), b.cast());
    connect(b.cast(), a.cast());
    (a, b)
}

/// Posts what `build` builds, signaled; the answer is `errno`, or 0.
fn build(qp: *mut ibv_qp_ex, wr_id: u64, build: impl FnOnce(&ibv_qp_ex)) -> i32 {
    unsafe {
        (*qp).wr_start.unwrap()(qp);
        (*qp).wr_id = wr_id;
        (*qp).wr_flags = send_flag::SIGNALED;
        build(&*qp);
        (*qp).wr_complete.unwrap()(qp)
    }
}

#[test]
fn every_operation_can_be_built() {
    let app = App::new();
    let (a, b) = pair(&app, qp_type::RC, ALL);
    let (key, memory) = (app.rkey(), app.memory);
    let sge = |qp: &ibv_qp_ex, offset: u64, length| unsafe {
        qp.wr_set_sge.unwrap()(a, key, memory + offset, length);
    };
    app.write(0, &pattern(1, 100));
    for id in 0..4 {
        app.receive(b.cast(), 100 + id, app.sge(50_000, 200));
    }
    // The atomics take the word at 8192 from 5 to 12 to 1.
    app.write(8192, &5u64.to_ne_bytes());
    let value = 0x1122_3344_5566_7788u64;
    let list = [app.sge(0, 10), app.sge(90, 10)];
    let pieces = [0usize, 50].map(|offset| ibv_data_buf {
        addr: (memory + offset as u64) as *mut c_void,
        length: 20,
    });
    let error = build(a, 1, |qp| unsafe {
        qp.wr_rdma_write.unwrap()(a, key, memory + 4096);
        sge(qp, 0, 100);
        (*a).wr_id = 2;
        qp.wr_rdma_write_imm.unwrap()(a, key, memory + 4200, 7);
        qp.wr_set_sge_list.unwrap()(a, 2, list.as_ptr());
        (*a).wr_id = 3;
        qp.wr_send.unwrap()(a);
        qp.wr_set_inline_data.unwrap()(a, memory as *mut c_void, 64);
        (*a).wr_id = 4;
        qp.wr_send_imm.unwrap()(a, 9);
        qp.wr_set_inline_data_list.unwrap()(a, 2, pieces.as_ptr());
        (*a).wr_id = 5;
        qp.wr_rdma_read.unwrap()(a, key, memory + 10);
        sge(qp, 12_000, 30);
        (*a).wr_id = 6;
        qp.wr_atomic_fetch_add.unwrap()(a, key, memory + 8192, 7);
        sge(qp, 12_100, 8);
        (*a).wr_id = 7;
        qp.wr_atomic_cmp_swp.unwrap()(a, key, memory + 8192, 12, 1);
        sge(qp, 12_108, 8);
        (*a).wr_id = 8;
        qp.wr_atomic_write.unwrap()(a, key, memory + 8200, (&raw const value).cast());
    });
    assert_eq!(error, 0);
    let all = app.sorted();
    let told: Vec<_> = all.iter().map(|wc| (wc.wr_id, wc.opcode)).collect();
    let sent = [
        wc_opcode::RDMA_WRITE,
        wc_opcode::RDMA_WRITE,
        wc_opcode::SEND,
        wc_opcode::SEND,
        wc_opcode::RDMA_READ,
        wc_opcode::FETCH_ADD,
        wc_opcode::COMP_SWAP,
        wc_opcode::ATOMIC_WRITE,
    ];
    let sent = sent.into_iter().zip(1..).map(|(opcode, id)| (id, opcode));
    let received = [
        wc_opcode::RECV_RDMA_WITH_IMM,
        wc_opcode::RECV,
        wc_opcode::RECV,
    ];
    let received = received
        .into_iter()
        .zip(100..)
        .map(|(opcode, id)| (id, opcode));
    assert_eq!(told, sent.chain(received).collect::<Vec<_>>());
    assert_eq!(app.read(4096, 100), pattern(1, 100));
    assert_eq!(
        app.read(4200, 20),
        [pattern(1, 10), pattern(91, 10)].concat()
    );
    assert_eq!((all[8].imm_data, all[10].imm_data), (7, 9));
    assert_eq!((all[9].byte_len, all[10].byte_len), (64, 40));
    assert_eq!(
        app.read(50_000, 40),
        [pattern(1, 20), pattern(51, 20)].concat()
    );
    assert_eq!(app.read(50_040, 24), pattern(41, 24));
    assert_eq!(app.read(12_000, 30), pattern(11, 30));
    assert_eq!((app.word(12_100), app.word(12_108)), (5, 12));
    assert_eq!((app.word(8192), app.word(8200)), (1, value));
}

#[test]
fn datagrams_and_their_destinations_can_be_built() {
    let app = App::new();
    let (a, b) = pair(&app, qp_type::UD, qp_ex::SEND | qp_ex::SEND_WITH_IMM);
    let ah = unsafe { ops().create_ah.unwrap()(app.pd, core::ptr::null_mut()) };
    app.write(0, &pattern(1, 50));
    app.receive(b.cast(), 1, app.sge(4096, 200));
    let number = unsafe { (*b).base.qp_num };
    let error = build(a, 2, |qp| unsafe {
        qp.wr_send.unwrap()(a);
        qp.wr_set_sge.unwrap()(a, app.rkey(), app.memory, 50);
        qp.wr_set_ud_addr.unwrap()(a, ah, number, QKEY);
    });
    assert_eq!(error, 0);
    assert_eq!(app.sorted().len(), 2);
    assert_eq!(app.read(4136, 50), pattern(1, 50));
    let nowhere = build(a, 2, |qp| unsafe { qp.wr_send.unwrap()(a) });
    assert_eq!(nowhere, libc::EINVAL);
}

#[test]
fn what_is_wrong_or_aborted_takes_everything_with_it() {
    let app = App::new();
    let (a, b) = pair(&app, qp_type::RC, ALL);
    let write = |qp: &ibv_qp_ex| unsafe {
        qp.wr_rdma_write.unwrap()(a, app.rkey(), app.memory + 4096);
        qp.wr_set_sge.unwrap()(a, app.rkey(), app.memory, 8);
    };
    for _ in 0..40 {
        let error = build(a, 1, |qp| {
            write(qp);
            // More than its requests have room for.
            unsafe {
                qp.wr_send.unwrap()(a);
                qp.wr_set_inline_data.unwrap()(a, app.memory as *mut c_void, 97);
            }
            write(qp);
        });
        assert_eq!(error, libc::EINVAL);
        unsafe {
            (*a).wr_start.unwrap()(a);
            write(&*a);
            write(&*a);
            (*a).wr_abort.unwrap()(a);
        }
    }
    assert!(app.poll().is_empty());
    assert_eq!(app.read(4096, 8), [POISON; 8]);
    app.receive(b.cast(), 1, app.sge(0, 8));
    assert_eq!(build(a, 3, write), 0);
    assert_eq!(app.one().wr_id, 3);
    modify(a.cast(), qp_state::RESET);
    assert_eq!(build(a, 4, write), libc::EINVAL);
    assert!(app.poll().is_empty());
}

#[test]
fn operations_that_a_service_lacks_are_refused() {
    let app = App::new();
    let refused = [
        (qp_type::UD, qp_ex::RDMA_WRITE),
        (qp_type::UC, qp_ex::RDMA_READ),
        (qp_type::RAW_PACKET, qp_ex::SEND_WITH_IMM),
        (qp_type::RC, 1 << 10),
        (qp_type::RC, 1 << 40),
    ];
    for (qp_type, operation) in refused {
        assert!(qp(&app, qp_type, operation).is_null());
        let error = std::io::Error::last_os_error().raw_os_error();
        assert_eq!(error, Some(libc::EOPNOTSUPP));
    }
}

#[test]
fn completions_are_read_field_by_field() {
    let app = App::new();
    for flags in [0, cq_attr::SINGLE_THREADED] {
        let cq = cq(&app, 0x1ff, flags);
        assert!(!cq.is_null());
        let inside = App {
            cq: cq.cast(),
            ..app
        };
        let (a, b) = inside.pair(qp_type::RC);
        let mut none = ibv_poll_cq_attr { comp_mask: 0 };
        unsafe {
            assert_eq!((*cq).start_poll.unwrap()(cq, &raw mut none), libc::ENOENT);
        }
        for round in 0..30 {
            inside.receive(b, 1, inside.sge(4096, 100));
            let mut send = signaled(2, wr_opcode::SEND_WITH_IMM);
            send.imm_data = round;
            inside.send(a, send, Some(inside.sge(0, 33)));
            kernel::settle();
            unsafe { read(cq, b, round) };
        }
    }
    assert!(cq(&app, 1 << 9, 0).is_null());
    assert!(cq(&app, 1 << 11, 0).is_null());
}

/// Reads the completions of a send and of its receive by `b`.
unsafe fn read(cq: *mut ibv_cq_ex, b: *mut ibv_qp, immediate: u32) {
    let mut none = ibv_poll_cq_attr { comp_mask: 0 };
    unsafe {
        let start = (*cq).start_poll.unwrap();
        assert_eq!(start(cq, &raw mut none), 0);
        let mut seen = 0;
        loop {
            assert_eq!((*cq).status, wc_status::SUCCESS);
            seen |= (*cq).wr_id;
            if (*cq).wr_id == 1 {
                assert_eq!((*cq).read_opcode.unwrap()(cq), wc_opcode::RECV);
                assert_eq!((*cq).read_byte_len.unwrap()(cq), 33);
                assert_eq!((*cq).read_imm_data.unwrap()(cq), immediate);
                assert_eq!((*cq).read_wc_flags.unwrap()(cq), wc_flag::WITH_IMM);
                assert_eq!((*cq).read_qp_num.unwrap()(cq), (*b).qp_num);
                assert!((*cq).read_completion_ts.unwrap()(cq) >= 1000);
            } else {
                assert_eq!((*cq).read_opcode.unwrap()(cq), wc_opcode::SEND);
            }
            if (*cq).next_poll.unwrap()(cq) != 0 {
                break;
            }
        }
        (*cq).end_poll.unwrap()(cq);
        assert_eq!(seen, 3);
    }
}
