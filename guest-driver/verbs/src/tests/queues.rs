//! Rings that are full, wrap around, move and fail; contexts.

use core::ffi::c_int;

use vrnic_ibverbs::*;

use super::app::*;
use super::kernel;

/// Exchanges `count` messages one by one.
#[track_caller]
fn exchange(app: &App, (a, b): (*mut ibv_qp, *mut ibv_qp), count: u64) {
    for number in 0..count {
        app.write(0, &number.to_ne_bytes());
        app.receive(b, number, app.sge(4096, 8));
        app.send(
            a,
            signaled(number | 1 << 32, wr_opcode::SEND),
            Some(app.sge(0, 8)),
        );
        let all = app.sorted();
        let ids: Vec<u64> = all.iter().map(|wc| wc.wr_id).collect();
        assert_eq!(ids, [number, number | 1 << 32]);
        assert_eq!(app.word(4096), number);
    }
}

#[test]
fn rings_wrap_around() {
    let app = App::new();
    let pair = app.pair(qp_type::RC);
    exchange(&app, pair, 200);
}

#[test]
fn a_full_queue_takes_no_more_until_something_completes() {
    let app = App::new();
    let (a, b) = app.pair(qp_type::RC);
    let mut posted = 0;
    let mut write = || {
        let mut write = signaled(posted, wr_opcode::RDMA_WRITE);
        write.wr.rdma.remote_addr = app.memory;
        write.wr.rdma.rkey = app.rkey();
        let error = app.try_send(a, write, Some(app.sge(0, 8)));
        posted += u64::from(error == 0);
        error
    };
    let mut error = 0;
    while error == 0 {
        error = write();
    }
    assert_eq!(error, libc::ENOMEM);
    assert!(posted >= 16);
    let mut received = 0;
    while app.try_receive(b, received, app.sge(0, 8)) == 0 {
        received += 1;
    }
    assert_eq!(received, 16);
    let completed = app.poll().len() as u64;
    let mut write = signaled(posted, wr_opcode::RDMA_WRITE);
    write.wr.rdma.remote_addr = app.memory;
    write.wr.rdma.rkey = app.rkey();
    assert_eq!(completed, posted);
    app.send(a, write, Some(app.sge(0, 8)));
    assert_eq!(app.one().wr_id, posted);
}

#[test]
fn unsignaled_requests_are_retired_by_later_ones() {
    let app = App::new();
    let (a, _b) = app.pair(qp_type::RC);
    for round in 0..50 {
        for number in 0..10 {
            let mut write = signaled(number, wr_opcode::RDMA_WRITE);
            write.wr.rdma.remote_addr = app.memory;
            write.wr.rdma.rkey = app.rkey();
            write.send_flags = if number == 9 { send_flag::SIGNALED } else { 0 };
            app.send(a, write, Some(app.sge(0, 8)));
        }
        assert_eq!(app.one().wr_id, 9, "round {round}");
    }
}

#[test]
fn a_queue_that_is_resized_loses_nothing() {
    let app = App::new();
    let (a, b) = app.pair(qp_type::RC);
    let resize = ops().resize_cq.unwrap();
    let mut next = 0;
    for entries in [128, 32, 256, 300, 64] {
        let first = next;
        for _ in 0..5 {
            app.receive(b, next, app.sge(4096, 8));
            app.send(
                a,
                signaled(next | 1 << 32, wr_opcode::SEND),
                Some(app.sge(0, 8)),
            );
            next += 1;
        }
        kernel::settle();
        assert_eq!(unsafe { resize(app.cq, entries) }, 0);
        assert!(unsafe { (*app.cq).cqe } >= entries);
        for _ in 0..5 {
            app.receive(b, next, app.sge(4096, 8));
            app.send(
                a,
                signaled(next | 1 << 32, wr_opcode::SEND),
                Some(app.sge(0, 8)),
            );
            next += 1;
        }
        let all = app.poll();
        for kind in [0, 1 << 32] {
            let ids = all
                .iter()
                .map(|wc| wc.wr_id)
                .filter(|id| id >> 32 == kind >> 32);
            assert!(ids.eq((first..next).map(|id| id | kind)));
        }
    }
    assert_eq!(unsafe { resize(app.cq, 1 << 30) }, libc::EINVAL);
}

#[test]
fn an_armed_queue_raises_an_event() {
    let app = App::new();
    let (a, b) = app.pair(qp_type::RC);
    let arm = |solicited| {
        assert_eq!(
            unsafe { ops().req_notify_cq.unwrap()(app.cq, solicited) },
            0
        )
    };
    arm(0);
    kernel::settle();
    app.receive(b, 1, app.sge(4096, 8));
    app.send(a, signaled(2, wr_opcode::SEND), Some(app.sge(0, 8)));
    assert_eq!(app.sorted().len(), 2);
    assert!(kernel::with(|kernel| kernel.device.events()) > 0);
    let before = kernel::with(|kernel| kernel.device.events());
    // Not armed: no event.
    exchange(&app, (a, b), 3);
    assert_eq!(kernel::with(|kernel| kernel.device.events()), before);
    // Armed for solicited ones: an ordinary one is none.
    arm(1);
    exchange(&app, (a, b), 2);
    assert_eq!(kernel::with(|kernel| kernel.device.events()), before);
    app.receive(b, 1, app.sge(4096, 8));
    let mut send = signaled(2, wr_opcode::SEND);
    send.send_flags |= send_flag::SOLICITED;
    app.send(a, send, Some(app.sge(0, 8)));
    app.sorted();
    assert_eq!(kernel::with(|kernel| kernel.device.events()), before + 1);
}

#[test]
fn an_event_is_not_told_again_when_the_queue_is_armed_before_it_is_polled() {
    let app = App::new();
    let (a, _b) = app.pair(qp_type::RC);
    let events = || kernel::with(|kernel| kernel.device.events());
    let arm = || assert_eq!(unsafe { ops().req_notify_cq.unwrap()(app.cq, 0) }, 0);
    let write = |id| {
        let mut write = signaled(id, wr_opcode::RDMA_WRITE);
        write.wr.rdma.remote_addr = app.memory;
        write.wr.rdma.rkey = app.rkey();
        app.send(a, write, Some(app.sge(0, 8)));
        kernel::settle();
    };
    let first = events();
    arm();
    // More rounds than the ring has entries.
    for round in 0..200 {
        write(u64::from(round));
        assert_eq!(events(), first + round + 1);
        arm();
        kernel::settle();
        assert_eq!(events(), first + round + 1, "told of once");
        assert_eq!(app.one().wr_id, u64::from(round));
    }
    // Two since the last arming: the event was about the first, so arming tells of the second.
    let before = events();
    write(1);
    write(2);
    assert_eq!(events(), before + 1);
    arm();
    kernel::settle();
    assert_eq!(events(), before + 2);
    assert_eq!(app.sorted().len(), 2);
}

#[test]
fn events_without_polling_lose_nothing() {
    let app = App::new();
    let (a, _b) = app.pair(qp_type::RC);
    let arm = || assert_eq!(unsafe { ops().req_notify_cq.unwrap()(app.cq, 0) }, 0);
    arm();
    for id in 0..16 {
        let mut write = signaled(id, wr_opcode::RDMA_WRITE);
        write.wr.rdma.remote_addr = app.memory;
        write.wr.rdma.rkey = app.rkey();
        app.send(a, write, Some(app.sge(0, 8)));
        kernel::settle();
        arm();
    }
    let ids: Vec<u64> = app.poll().iter().map(|wc| wc.wr_id).collect();
    assert_eq!(ids, (0..16).collect::<Vec<_>>());
}

#[test]
fn failed_queue_pairs_flush_and_work_again_after_a_reset() {
    let app = App::new();
    let (a, b) = app.pair(qp_type::RC);
    app.receive(a, 1, app.sge(0, 8));
    modify(a, qp_state::ERR);
    app.send(a, signaled(2, wr_opcode::SEND), Some(app.sge(0, 8)));
    app.receive(a, 3, app.sge(0, 8));
    let mut all = app.poll();
    all.sort_by_key(|wc| wc.wr_id);
    let flushed: Vec<_> = all.iter().map(|wc| (wc.wr_id, wc.status)).collect();
    assert_eq!(flushed, [1, 2, 3].map(|id| (id, wc_status::WR_FLUSH_ERR)));
    modify(a, qp_state::RESET);
    modify(b, qp_state::RESET);
    connect(a, b);
    connect(b, a);
    exchange(&app, (a, b), 40);
}

/// What posting a receive and a send request to `qp` says.
fn posts(app: &App, qp: *mut ibv_qp) -> (c_int, c_int) {
    let receive = app.try_receive(qp, 1, app.sge(0, 8));
    let send = app.try_send(qp, signaled(2, wr_opcode::SEND), Some(app.sge(0, 8)));
    (receive, send)
}

#[test]
fn requests_are_taken_in_the_states_that_let_them() {
    let app = App::new();
    let (a, b) = app.pair(qp_type::RC);
    exchange(&app, (a, b), 4);
    modify(a, qp_state::RESET);
    for qp in [a, app.qp(qp_type::RC)] {
        assert_eq!(posts(&app, qp), (libc::EINVAL, libc::EINVAL));
        initialize(qp);
        assert_eq!(posts(&app, qp), (0, libc::EINVAL));
        modify(qp, qp_state::ERR);
        assert_eq!(posts(&app, qp), (0, 0));
        let all = app.poll();
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|wc| wc.status == wc_status::WR_FLUSH_ERR));
    }
}

#[test]
fn a_queue_pair_tells_how_many_receives_it_takes() {
    let app = App::new();
    let mut attributes = app.attributes(qp_type::UD);
    (attributes.cap.max_recv_wr, attributes.cap.max_recv_sge) = (100, 3);
    let qp = unsafe { ops().create_qp.unwrap()(app.pd, &raw mut attributes) };
    assert!(!qp.is_null());
    assert_eq!(attributes.cap.max_recv_wr, 128);
    assert_eq!(attributes.cap.max_recv_sge, 4);
    connect(qp, qp);
    let posted = (0..).take_while(|&id| app.try_receive(qp, id, app.sge(0, 8)) == 0);
    assert_eq!(posted.count(), 128);
    assert_eq!(app.try_receive(qp, 0, app.sge(0, 8)), libc::ENOMEM);
}

#[test]
fn receives_after_a_failure_that_a_completion_told_of_are_flushed() {
    let app = App::new();
    let (a, b) = app.pair(qp_type::RC);
    app.receive(b, 1, app.sge(0, 4));
    // Too long for the receive: both ends fail.
    app.send(a, signaled(2, wr_opcode::SEND), Some(app.sge(0, 8)));
    let all = app.poll();
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|wc| wc.status != wc_status::SUCCESS));
    app.receive(b, 3, app.sge(0, 8));
    app.receive(a, 4, app.sge(0, 8));
    let mut ids: Vec<_> = app.poll().iter().map(|wc| (wc.wr_id, wc.status)).collect();
    ids.sort_unstable();
    assert_eq!(ids, [3, 4].map(|id| (id, wc_status::WR_FLUSH_ERR)));
}

#[test]
fn completions_of_a_queue_pair_that_is_gone_are_not_seen() {
    let app = App::new();
    for gone in [qp_state::RESET, u32::MAX] {
        let (a, b) = app.pair(qp_type::RC);
        let (c, d) = app.pair(qp_type::RC);
        for id in 0..4 {
            app.receive(b, id, app.sge(4096, 8));
            app.receive(d, 10 + id, app.sge(4096, 8));
            app.send(a, signaled(20 + id, wr_opcode::SEND), Some(app.sge(0, 8)));
            app.send(c, signaled(30 + id, wr_opcode::SEND), Some(app.sge(0, 8)));
        }
        kernel::settle();
        for qp in [a, b] {
            match gone {
                u32::MAX => assert_eq!(unsafe { ops().destroy_qp.unwrap()(qp) }, 0),
                state => modify(qp, state),
            }
        }
        let ids: Vec<u64> = app.sorted().iter().map(|wc| wc.wr_id).collect();
        assert_eq!(ids, [10, 11, 12, 13, 30, 31, 32, 33]);
        // The same numbers, or the same queue pairs, work again.
        let pair = if gone == u32::MAX {
            app.pair(qp_type::RC)
        } else {
            connect(a, b);
            connect(b, a);
            (a, b)
        };
        exchange(&app, pair, 70);
    }
}

#[test]
fn objects_are_destroyed_in_order_only() {
    let app = App::new();
    let (a, b) = app.pair(qp_type::RC);
    unsafe {
        assert_eq!(ops().destroy_cq.unwrap()(app.cq), libc::EBUSY);
        assert_eq!(ops().dealloc_pd.unwrap()(app.pd), libc::EBUSY);
        for qp in [a, b] {
            assert_eq!(ops().destroy_qp.unwrap()(qp), 0);
        }
        assert_eq!(ops().destroy_cq.unwrap()(app.cq), 0);
        assert_eq!(ops().dereg_mr.unwrap()(app.mr.cast()), 0);
        assert_eq!(ops().dealloc_pd.unwrap()(app.pd), 0);
        ops().free_context.unwrap()(app.context);
    }
}

#[test]
fn a_parent_domain_stands_for_its_parts() {
    let app = App::new();
    let mut none = ibv_td_init_attr { comp_mask: 0 };
    unsafe {
        let td = ops().alloc_td.unwrap()(app.context, &raw mut none);
        let mut parts: ibv_parent_domain_init_attr = zeroed();
        (parts.pd, parts.td) = (app.pd, td);
        let parent = ops().alloc_parent_domain.unwrap()(app.context, &raw mut parts);
        assert_eq!((*parent).handle, (*app.pd).handle);
        assert_eq!(ops().dealloc_pd.unwrap()(app.pd), libc::EBUSY);
        assert_eq!(ops().dealloc_td.unwrap()(td), libc::EBUSY);
        let inside = App { pd: parent, ..app };
        let pair = inside.pair(qp_type::RC);
        exchange(&inside, pair, 3);
        assert_eq!(ops().dealloc_pd.unwrap()(parent), 0);
        assert_eq!(ops().dealloc_td.unwrap()(td), 0);
    }
}

#[test]
fn a_kernel_driver_of_another_version_is_refused() {
    kernel::with(|kernel| kernel.version += 1);
    assert!(open().is_null());
    assert_eq!(
        std::io::Error::last_os_error().raw_os_error(),
        Some(libc::EOPNOTSUPP)
    );
}

#[test]
fn the_firmware_version_is_readable() {
    let app = App::new();
    let mut attributes: ibv_device_attr_ex = zeroed();
    let query = ops().query_device_ex.unwrap();
    let size = size_of::<ibv_device_attr_ex>();
    let none = core::ptr::null();
    assert_eq!(
        unsafe { query(app.context, none, &raw mut attributes, size) },
        0
    );
    let text = attributes.fw_ver.map(|byte| byte as u8);
    assert_eq!(text[..6], *b"1.2.3\0");
}
