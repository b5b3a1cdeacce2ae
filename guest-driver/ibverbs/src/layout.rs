//! Sizes of the structures, and offsets of fields: those that a C compiler gives for the headers of
//! rdma-core 56.1.

use crate::structures::*;

assert_layout! {
    ibv_device: 664 { name @ 24 }
    ibv_context: 328 { ops @ 8, cmd_fd @ 264, async_fd @ 268, num_comp_vectors @ 272, mutex @ 280,
        abi_compat @ 320 }
    ibv_context_ops: 256 { alloc_mw @ 56, dealloc_mw @ 72, poll_cq @ 88, post_send @ 200,
        post_recv @ 208 }
    verbs_context: 648 { create_qp_ex @ 264, sz @ 312, context @ 320 }
    ibv_global_route: 24 { flow_label @ 16, sgid_index @ 20, traffic_class @ 22 }
    ibv_ah_attr: 32 { dlid @ 24, is_global @ 29, port_num @ 30 }
    ibv_pd: 16 { handle @ 8 }
    ibv_td: 8 {}
    ibv_parent_domain_init_attr: 48 { td @ 8, comp_mask @ 16 }
    ibv_mr: 48 { length @ 24, handle @ 32, lkey @ 36, rkey @ 40 }
    ibv_mw: 32 { pd @ 8, rkey @ 16, mw_type @ 24 }
    ibv_mw_bind_info: 32 { addr @ 8, length @ 16, mw_access_flags @ 24 }
    ibv_mw_bind: 48 { send_flags @ 8, bind_info @ 16 }
    ibv_ah: 24 { handle @ 16 }
    ibv_flow: 24 { context @ 8, handle @ 16 }
    ibv_xrcd: 8 {}
    ibv_srq: 128 { srq_context @ 8, pd @ 16, handle @ 24, mutex @ 32, cond @ 72, events_completed @ 120 }
    ibv_srq_attr: 12 { max_sge @ 4, srq_limit @ 8 }
    ibv_srq_init_attr: 24 { attr @ 8 }
    ibv_srq_init_attr_ex: 64 { attr @ 8, comp_mask @ 20, srq_type @ 24, pd @ 32, xrcd @ 40, cq @ 48 }
    ibv_cq: 128 { cqe @ 28, mutex @ 32, cond @ 72, comp_events_completed @ 120 }
    ibv_cq_ex: 288 { comp_mask @ 128, status @ 132, wr_id @ 136, start_poll @ 144, end_poll @ 160,
        read_opcode @ 168, read_imm_data @ 192, read_wc_flags @ 216, read_completion_ts @ 248,
        read_cvlan @ 256, read_completion_wallclock_ns @ 280 }
    ibv_cq_init_attr_ex: 56 { channel @ 16, comp_vector @ 24, wc_flags @ 32, comp_mask @ 40, flags @ 44,
        parent_domain @ 48 }
    ibv_wc: 48 { status @ 8, opcode @ 12, imm_data @ 24, wc_flags @ 36, pkey_index @ 40, slid @ 42,
        sl @ 44 }
    ibv_qp: 160 { pd @ 16, send_cq @ 24, srq @ 40, handle @ 48, qp_num @ 52, state @ 56, qp_type @ 60,
        mutex @ 64, cond @ 104, events_completed @ 152 }
    ibv_qp_ex: 360 { comp_mask @ 160, wr_id @ 168, wr_flags @ 176, wr_atomic_cmp_swp @ 184,
        wr_bind_mw @ 200, wr_rdma_read @ 216, wr_send @ 240, wr_set_ud_addr @ 272,
        wr_set_inline_data @ 288, wr_set_sge @ 304, wr_start @ 320, wr_abort @ 336,
        wr_atomic_write @ 344, wr_flush @ 352 }
    ibv_data_buf: 16 { length @ 8 }
    ibv_sge: 16 { address @ 0, length @ 8, lkey @ 12 }
    ibv_wr_operands: 32 {}
    ibv_rdma_wr: 16 { rkey @ 8 }
    ibv_atomic_wr: 32 { compare_add @ 8, swap @ 16, rkey @ 24 }
    ibv_ud_wr: 16 { remote_qpn @ 8, remote_qkey @ 12 }
    ibv_send_wr: 128 { next @ 8, sg_list @ 16, num_sge @ 24, opcode @ 28, send_flags @ 32,
        imm_data @ 36, wr @ 40, remote_srqn @ 72, bind_mw @ 80 }
    ibv_bind_mw_wr: 48 { rkey @ 8, bind_info @ 16 }
    ibv_recv_wr: 32 { next @ 8, sg_list @ 16, num_sge @ 24 }
    ibv_qp_init_attr: 64 { send_cq @ 8, cap @ 32, qp_type @ 52, sq_sig_all @ 56 }
    ibv_qp_init_attr_ex: 136 { cap @ 32, comp_mask @ 60, pd @ 64, xrcd @ 72, create_flags @ 80,
        rwq_ind_tbl @ 88, rx_hash_conf @ 96, source_qpn @ 120, send_ops_flags @ 128 }
    ibv_qp_attr: 144 { cap @ 36, ah_attr @ 56, pkey_index @ 120, rate_limit @ 136 }
    ibv_async_event: 16 { event_type @ 8 }
    ibv_device_attr_ex: 400 {}
}
