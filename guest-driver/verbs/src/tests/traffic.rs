//! Operations of all services, and what they complete with.

use core::ffi::c_int;

use vrnic_ibverbs::*;

use super::app::*;
use super::kernel;
use crate::ffi::provider::verbs_mr;

#[test]
fn sends_arrive_with_what_they_carry() {
    let app = App::new();
    for qp_type in [qp_type::RC, qp_type::UC] {
        let (a, b) = app.pair(qp_type);
        app.write(0, &pattern(1, 3000));
        app.receive(b, 7, app.sge(8192, 4000));
        let mut send = signaled(3, wr_opcode::SEND_WITH_IMM);
        send.imm_data = 0x0102_0304u32.to_be();
        app.send(a, send, Some(app.sge(0, 3000)));
        let all = app.sorted();
        assert_eq!(all.len(), 2);
        let (sent, received) = (all[0], all[1]);
        assert_eq!((sent.wr_id, sent.opcode), (3, wc_opcode::SEND));
        assert_eq!((received.wr_id, received.opcode), (7, wc_opcode::RECV));
        assert_eq!(received.byte_len, 3000);
        assert_eq!(received.wc_flags, wc_flag::WITH_IMM);
        assert_eq!(received.imm_data.to_ne_bytes(), [1, 2, 3, 4]);
        assert_eq!(received.qp_num, unsafe { (*b).qp_num });
        assert_eq!(app.read(8192, 3000), pattern(1, 3000));
        assert_eq!(app.read(8192 + 3000, 8), [POISON; 8]);
        app.write(8192, &[POISON; 3000]);
    }
}

#[test]
fn remote_memory_is_written_and_read() {
    let app = App::new();
    let (a, b) = app.pair(qp_type::RC);
    app.write(0, &pattern(9, 5000));
    let mut write = signaled(1, wr_opcode::RDMA_WRITE);
    write.wr.rdma = ibv_rdma_wr {
        remote_addr: app.memory + 10_000,
        rkey: app.rkey(),
    };
    app.send(a, write, Some(app.sge(0, 5000)));
    assert_eq!(app.one().opcode, wc_opcode::RDMA_WRITE);
    assert_eq!(app.read(10_000, 5000), pattern(9, 5000));
    let mut read = signaled(2, wr_opcode::RDMA_READ);
    read.wr.rdma = ibv_rdma_wr {
        remote_addr: app.memory + 10_001,
        rkey: app.rkey(),
    };
    app.send(a, read, Some(app.sge(20_000, 4000)));
    let wc = app.one();
    assert_eq!((wc.opcode, wc.byte_len), (wc_opcode::RDMA_READ, 4000));
    assert_eq!(app.read(20_000, 4000), pattern(10, 4000));
    app.receive(b, 5, app.sge(30_000, 0));
    let mut write = signaled(4, wr_opcode::RDMA_WRITE_WITH_IMM);
    write.imm_data = 77;
    write.wr.rdma.remote_addr = app.memory + 40_000;
    write.wr.rdma.rkey = app.rkey();
    app.send(a, write, Some(app.sge(0, 10)));
    let all = app.sorted();
    assert_eq!(all[1].opcode, wc_opcode::RECV_RDMA_WITH_IMM);
    assert_eq!((all[1].imm_data, all[1].byte_len), (77, 10));
    assert_eq!(app.read(40_000, 10), pattern(9, 10));
}

#[test]
fn atomics_change_remote_words() {
    let app = App::new();
    let (a, _b) = app.pair(qp_type::RC);
    app.write(64, &40u64.to_ne_bytes());
    let mut add = signaled(1, wr_opcode::ATOMIC_FETCH_AND_ADD);
    add.wr.atomic = ibv_atomic_wr {
        remote_addr: app.memory + 64,
        compare_add: 2,
        swap: 0,
        rkey: app.rkey(),
    };
    app.send(a, add, Some(app.sge(128, 8)));
    assert_eq!(app.one().opcode, wc_opcode::FETCH_ADD);
    assert_eq!((app.word(64), app.word(128)), (42, 40));
    let mut swap = signaled(2, wr_opcode::ATOMIC_CMP_AND_SWP);
    swap.wr.atomic = ibv_atomic_wr {
        remote_addr: app.memory + 64,
        compare_add: 42,
        swap: 99,
        rkey: app.rkey(),
    };
    app.send(a, swap, Some(app.sge(128, 8)));
    assert_eq!(app.one().opcode, wc_opcode::COMP_SWAP);
    assert_eq!((app.word(64), app.word(128)), (99, 42));
}

#[test]
fn inline_data_is_taken_when_it_is_posted() {
    let app = App::new();
    let (a, b) = app.pair(qp_type::RC);
    app.receive(b, 1, app.sge(4096, 64));
    app.receive(b, 2, app.sge(5000, 64));
    let mut bytes = pattern(3, 60);
    let sge = |from: usize, length: u32, bytes: &[u8]| ibv_sge {
        address: bytes[from..].as_ptr() as u64,
        length,
        lkey: 0,
    };
    let mut send = signaled(10, wr_opcode::SEND);
    send.send_flags |= send_flag::INLINE;
    app.send(a, send, Some(sge(0, 60, &bytes)));
    let mut sges = [sge(10, 7, &bytes), sge(0, 3, &bytes)];
    let mut send = signaled(11, wr_opcode::SEND);
    send.send_flags |= send_flag::INLINE;
    (send.sg_list, send.num_sge) = (sges.as_mut_ptr(), 2);
    let mut bad = core::ptr::null_mut();
    let post = ops().post_send.unwrap();
    assert_eq!(unsafe { post(a, &raw mut send, &raw mut bad) }, 0);
    bytes.fill(0);
    assert_eq!(app.sorted().len(), 4);
    assert_eq!(app.read(4096, 60), pattern(3, 60));
    assert_eq!(app.read(5000, 7), pattern(13, 7));
    assert_eq!(app.read(5007, 3), pattern(3, 3));
    assert_eq!(app.read(5010, 1), [POISON]);
}

/// What a queue pair says that it has room for, though nobody asked, is there.
#[test]
fn room_for_inline_data_is_given_away() {
    let app = App::new();
    for (qp_type, segments, room) in [(qp_type::RC, 1, 32), (qp_type::RC, 7, 160)] {
        let mut attributes = app.attributes(qp_type);
        attributes.cap.max_inline_data = 0;
        attributes.cap.max_send_sge = segments;
        let a = unsafe { ops().create_qp.unwrap()(app.pd, &raw mut attributes) };
        assert!(!a.is_null());
        assert_eq!(attributes.cap.max_inline_data, room);
        let b = app.qp(qp_type);
        connect(a, b);
        connect(b, a);
        for round in 0..20 {
            let length = room as usize;
            let (bytes, offset) = (pattern(round, length), 4096 + 256 * usize::from(round));
            let mut write = signaled(1, wr_opcode::RDMA_WRITE);
            write.send_flags |= send_flag::INLINE;
            write.wr.rdma = ibv_rdma_wr {
                remote_addr: app.memory + offset as u64,
                rkey: app.rkey(),
            };
            let sge = ibv_sge {
                address: bytes.as_ptr() as u64,
                length: room,
                lkey: 0,
            };
            app.send(a, write, Some(sge));
            assert_eq!(app.one().opcode, wc_opcode::RDMA_WRITE);
            assert_eq!(app.read(offset, length), bytes);
            assert_eq!(app.read(offset + length, 8), [POISON; 8]);
            app.write(offset, &[POISON; 160][..length]);
        }
    }
}

#[test]
fn datagrams_name_their_sender() {
    let app = App::new();
    let (a, b) = app.pair(qp_type::UD);
    let ah = unsafe { ops().create_ah.unwrap()(app.pd, core::ptr::null_mut()) };
    app.write(0, &pattern(5, 100));
    app.receive(b, 1, app.sge(4096, 140));
    let mut send = signaled(2, wr_opcode::SEND);
    send.wr.ud = ibv_ud_wr {
        ah,
        remote_qpn: unsafe { (*b).qp_num },
        remote_qkey: QKEY,
    };
    app.send(a, send, Some(app.sge(0, 100)));
    let all = app.sorted();
    assert_eq!(all[0].byte_len, 140);
    assert_eq!(all[0].wc_flags, wc_flag::GRH);
    assert_eq!(all[0].src_qp, unsafe { (*a).qp_num });
    assert_eq!(app.read(4096 + 40, 100), pattern(5, 100));
    assert_eq!(unsafe { ops().destroy_ah.unwrap()(ah) }, 0);
    let nowhere = signaled(3, wr_opcode::SEND);
    assert_eq!(app.try_send(a, nowhere, Some(app.sge(0, 8))), libc::EINVAL);
}

#[test]
fn windows_are_bound_used_and_invalidated() {
    let app = App::new();
    let (a, b) = app.pair(qp_type::RC);
    for mw_type in [1, 2] {
        let mw = unsafe { ops().alloc_mw.unwrap()(app.pd, mw_type) };
        let bind_info = ibv_mw_bind_info {
            mr: app.mr,
            addr: app.memory + 1000,
            length: 100,
            // The right of the owner says nothing about a window, but applications name it.
            mw_access_flags: access::REMOTE_WRITE | access::LOCAL_WRITE,
        };
        let old = unsafe { (*mw).rkey };
        let key = old & !0xff | (old + 1) & 0xff;
        if mw_type == 1 {
            let mut bind = ibv_mw_bind {
                wr_id: 1,
                send_flags: send_flag::SIGNALED,
                bind_info,
            };
            assert_eq!(unsafe { ops().bind_mw.unwrap()(b, mw, &raw mut bind) }, 0);
            assert_eq!(unsafe { (*mw).rkey }, key);
        } else {
            let mut bind = signaled(1, wr_opcode::BIND_MW);
            bind.bind_mw = ibv_bind_mw_wr {
                mw,
                rkey: key,
                bind_info,
            };
            app.send(b, bind, None);
        }
        assert_eq!(app.one().opcode, wc_opcode::BIND_MW);
        app.write(0, &pattern(mw_type as u8, 20));
        let mut write = signaled(2, wr_opcode::RDMA_WRITE);
        write.wr.rdma.remote_addr = app.memory + 1010;
        write.wr.rdma.rkey = key;
        app.send(a, write, Some(app.sge(0, 20)));
        app.one();
        assert_eq!(app.read(1010, 20), pattern(mw_type as u8, 20));
        if mw_type == 2 {
            let mut invalidate = signaled(3, wr_opcode::LOCAL_INV);
            invalidate.imm_data = key;
            app.send(b, invalidate, None);
            assert_eq!(app.one().opcode, wc_opcode::LOCAL_INV);
            unsafe { (*mw).rkey = key };
        }
        assert_eq!(unsafe { ops().dealloc_mw.unwrap()(mw) }, 0);
    }
}

#[test]
fn rights_change_under_the_same_key() {
    let app = App::new();
    let key = app.rkey();
    let target = |offset: u64| {
        let mut write = signaled(1, wr_opcode::RDMA_WRITE);
        write.wr.rdma.remote_addr = app.memory + offset;
        write.wr.rdma.rkey = key;
        write
    };
    app.write(0, &pattern(3, 20));
    for (access, allowed) in [
        (access::LOCAL_WRITE, false),
        (access::LOCAL_WRITE | access::REMOTE_WRITE, true),
    ] {
        let mr = app.mr.cast::<verbs_mr>();
        let (pd, access) = (core::ptr::null_mut(), access as c_int);
        let rereg = ops().rereg_mr.unwrap();
        let again = unsafe { rereg(mr, 1 << 2, pd, core::ptr::null_mut(), 0, access) };
        assert_eq!(again, 0);
        assert_eq!(app.rkey(), key);
        let (a, _b) = app.pair(qp_type::RC);
        app.send(a, target(1000), Some(app.sge(0, 20)));
        let all = app.poll();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].status == wc_status::SUCCESS, allowed);
        let expected = if allowed {
            pattern(3, 20)
        } else {
            vec![POISON; 20]
        };
        assert_eq!(app.read(1000, 20), expected);
    }
}

#[test]
fn sends_with_invalidate_tell_which_key() {
    let app = App::new();
    let (a, b) = app.pair(qp_type::RC);
    let mw = unsafe { ops().alloc_mw.unwrap()(app.pd, 2) };
    let key = unsafe { (*mw).rkey };
    let mut bind = signaled(1, wr_opcode::BIND_MW);
    bind.bind_mw.mw = mw;
    bind.bind_mw.rkey = key;
    bind.bind_mw.bind_info = ibv_mw_bind_info {
        mr: app.mr,
        addr: app.memory,
        length: 8,
        mw_access_flags: access::REMOTE_READ,
    };
    app.send(b, bind, None);
    app.one();
    app.receive(b, 2, app.sge(100, 8));
    let mut send = signaled(3, wr_opcode::SEND_WITH_INV);
    send.imm_data = key;
    app.send(a, send, Some(app.sge(0, 8)));
    let all = app.sorted();
    assert_eq!(all[0].wc_flags, wc_flag::WITH_INV);
    assert_eq!(all[0].imm_data, key);
}

#[test]
fn what_a_queue_pair_cannot_do_is_refused_and_named() {
    let app = App::new();
    let (a, _) = app.pair(qp_type::UC);
    let read = signaled(1, wr_opcode::RDMA_READ);
    assert_eq!(app.try_send(a, read, Some(app.sge(0, 8))), libc::EINVAL);
    let unknown = signaled(1, 11);
    assert_eq!(app.try_send(a, unknown, None), libc::EINVAL);
    let mut long = signaled(1, wr_opcode::SEND);
    long.send_flags |= send_flag::INLINE;
    assert_eq!(app.try_send(a, long, Some(app.sge(0, 97))), libc::EINVAL);
    let mut checksums = signaled(1, wr_opcode::SEND);
    checksums.send_flags |= send_flag::IP_CSUM;
    assert_eq!(
        app.try_send(a, checksums, Some(app.sge(0, 8))),
        libc::EINVAL
    );
    // The second of three: the first is posted, the third is not looked at.
    let mut third = signaled(3, wr_opcode::SEND);
    let mut second = signaled(2, 11);
    let mut first = signaled(1, wr_opcode::SEND);
    second.next = &raw mut third;
    first.next = &raw mut second;
    let mut bad = core::ptr::null_mut();
    let post = ops().post_send.unwrap();
    assert_eq!(
        unsafe { post(a, &raw mut first, &raw mut bad) },
        libc::EINVAL
    );
    assert_eq!(bad, &raw mut second);
    assert_eq!(app.one().wr_id, 1);
    kernel::settle();
}
