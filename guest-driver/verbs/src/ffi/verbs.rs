//! Structures of `infiniband/verbs.h`, and the numbers in them.

use core::ffi::{c_char, c_int, c_uint, c_void};

use super::assert_layout;
use super::provider::ibv_context;

/// A device, of which only the name is read.
#[repr(C)]
pub(crate) struct ibv_device {
    ops: [usize; 2],
    node_type: c_int,
    transport_type: c_int,
    pub(crate) name: [c_char; 64],
    names: [c_char; 576],
}

#[repr(C)]
pub(crate) struct ibv_pd {
    pub(crate) context: *mut ibv_context,
    pub(crate) handle: u32,
}

#[repr(C)]
pub(crate) struct ibv_td {
    pub(crate) context: *mut ibv_context,
}

#[repr(C)]
pub(crate) struct ibv_parent_domain_init_attr {
    pub(crate) pd: *mut ibv_pd,
    pub(crate) td: *mut ibv_td,
    pub(crate) comp_mask: u32,
    alloc: usize,
    free: usize,
    pd_context: *mut c_void,
}

#[repr(C)]
pub(crate) struct ibv_td_init_attr {
    pub(crate) comp_mask: u32,
}

#[repr(C)]
pub(crate) struct ibv_mr {
    pub(crate) context: *mut ibv_context,
    pub(crate) pd: *mut ibv_pd,
    pub(crate) addr: *mut c_void,
    pub(crate) length: usize,
    pub(crate) handle: u32,
    pub(crate) lkey: u32,
    pub(crate) rkey: u32,
}

#[repr(C)]
pub(crate) struct ibv_mw {
    pub(crate) context: *mut ibv_context,
    pub(crate) pd: *mut ibv_pd,
    pub(crate) rkey: u32,
    pub(crate) handle: u32,
    pub(crate) mw_type: c_uint,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ibv_mw_bind_info {
    pub(crate) mr: *mut ibv_mr,
    pub(crate) addr: u64,
    pub(crate) length: u64,
    pub(crate) mw_access_flags: c_uint,
}

#[repr(C)]
pub(crate) struct ibv_mw_bind {
    pub(crate) wr_id: u64,
    pub(crate) send_flags: c_uint,
    pub(crate) bind_info: ibv_mw_bind_info,
}

#[repr(C)]
pub(crate) struct ibv_ah {
    pub(crate) context: *mut ibv_context,
    pub(crate) pd: *mut ibv_pd,
    pub(crate) handle: u32,
}

/// Where an address handle leads: only handed on.
pub(crate) type ibv_ah_attr = c_void;
/// A GID: only handed on.
pub(crate) type ibv_gid = c_void;
/// What an XRC domain is made from: only handed on.
pub(crate) type ibv_xrcd_init_attr = c_void;
/// Which queue pair is opened: only handed on.
pub(crate) type ibv_qp_open_attr = c_void;
/// Attributes of a port: only handed on.
pub(crate) type ibv_port_attr = c_void;
/// A rule for received frames: only handed on.
pub(crate) type ibv_flow_attr = c_void;
/// What a query of the device asks for: only handed on.
pub(crate) type ibv_query_device_ex_input = c_void;
/// A channel for completion events: only handed on.
pub(crate) type ibv_comp_channel = c_void;

#[repr(C)]
pub(crate) struct ibv_flow {
    comp_mask: u32,
    pub(crate) context: *mut ibv_context,
    pub(crate) handle: u32,
}

#[repr(C)]
pub(crate) struct ibv_xrcd {
    pub(crate) context: *mut ibv_context,
}

#[repr(C)]
pub(crate) struct ibv_srq {
    pub(crate) context: *mut ibv_context,
    pub(crate) srq_context: *mut c_void,
    pub(crate) pd: *mut ibv_pd,
    pub(crate) handle: u32,
    mutex: libc::pthread_mutex_t,
    cond: libc::pthread_cond_t,
    events_completed: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct ibv_srq_attr {
    pub(crate) max_wr: u32,
    pub(crate) max_sge: u32,
    pub(crate) srq_limit: u32,
}

#[repr(C)]
pub(crate) struct ibv_srq_init_attr {
    pub(crate) srq_context: *mut c_void,
    pub(crate) attr: ibv_srq_attr,
}

#[repr(C)]
pub(crate) struct ibv_srq_init_attr_ex {
    pub(crate) srq_context: *mut c_void,
    pub(crate) attr: ibv_srq_attr,
    pub(crate) comp_mask: u32,
    pub(crate) srq_type: c_uint,
    pub(crate) pd: *mut ibv_pd,
    pub(crate) xrcd: *mut ibv_xrcd,
    pub(crate) cq: *mut ibv_cq,
    tm_cap: [u32; 2],
}

#[repr(C)]
pub(crate) struct ibv_cq {
    pub(crate) context: *mut ibv_context,
    channel: *mut ibv_comp_channel,
    cq_context: *mut c_void,
    pub(crate) handle: u32,
    pub(crate) cqe: c_int,
    mutex: libc::pthread_mutex_t,
    cond: libc::pthread_cond_t,
    comp_events_completed: u32,
    async_events_completed: u32,
}

/// A function of the extended completion queue that reads a field of the current completion.
pub(crate) type Read<T> = unsafe extern "C" fn(*mut ibv_cq_ex) -> T;

#[repr(C)]
pub(crate) struct ibv_cq_ex {
    pub(crate) base: ibv_cq,
    comp_mask: u32,
    pub(crate) status: c_uint,
    pub(crate) wr_id: u64,
    pub(crate) start_poll:
        Option<unsafe extern "C" fn(*mut ibv_cq_ex, *mut ibv_poll_cq_attr) -> c_int>,
    pub(crate) next_poll: Option<Read<c_int>>,
    pub(crate) end_poll: Option<Read<()>>,
    pub(crate) read_opcode: Option<Read<c_uint>>,
    pub(crate) read_vendor_err: Option<Read<u32>>,
    pub(crate) read_byte_len: Option<Read<u32>>,
    pub(crate) read_imm_data: Option<Read<u32>>,
    pub(crate) read_qp_num: Option<Read<u32>>,
    pub(crate) read_src_qp: Option<Read<u32>>,
    pub(crate) read_wc_flags: Option<Read<c_uint>>,
    pub(crate) read_slid: Option<Read<u32>>,
    pub(crate) read_sl: Option<Read<u8>>,
    pub(crate) read_dlid_path_bits: Option<Read<u8>>,
    pub(crate) read_completion_ts: Option<Read<u64>>,
    pub(crate) read_cvlan: Option<Read<u16>>,
    read_flow_tag: Option<Read<u32>>,
    read_tm_info: Option<unsafe extern "C" fn(*mut ibv_cq_ex, *mut c_void)>,
    read_completion_wallclock_ns: Option<Read<u64>>,
}

#[repr(C)]
pub(crate) struct ibv_poll_cq_attr {
    pub(crate) comp_mask: u32,
}

#[repr(C)]
pub(crate) struct ibv_cq_init_attr_ex {
    pub(crate) cqe: u32,
    cq_context: *mut c_void,
    pub(crate) channel: *mut ibv_comp_channel,
    pub(crate) comp_vector: u32,
    pub(crate) wc_flags: u64,
    pub(crate) comp_mask: u32,
    pub(crate) flags: u32,
    pub(crate) parent_domain: *mut ibv_pd,
}

/// How a completion queue is moderated: only handed on.
pub(crate) type ibv_modify_cq_attr = c_void;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ibv_wc {
    pub(crate) wr_id: u64,
    pub(crate) status: c_uint,
    pub(crate) opcode: c_uint,
    pub(crate) vendor_err: u32,
    pub(crate) byte_len: u32,
    /// Immediate data in network byte order, or the invalidated key.
    pub(crate) imm_data: u32,
    pub(crate) qp_num: u32,
    pub(crate) src_qp: u32,
    pub(crate) wc_flags: c_uint,
    pub(crate) pkey_index: u16,
    pub(crate) slid: u16,
    pub(crate) sl: u8,
    pub(crate) dlid_path_bits: u8,
}

#[repr(C)]
pub(crate) struct ibv_qp {
    pub(crate) context: *mut ibv_context,
    pub(crate) qp_context: *mut c_void,
    pub(crate) pd: *mut ibv_pd,
    pub(crate) send_cq: *mut ibv_cq,
    pub(crate) recv_cq: *mut ibv_cq,
    pub(crate) srq: *mut ibv_srq,
    pub(crate) handle: u32,
    pub(crate) qp_num: u32,
    pub(crate) state: c_uint,
    pub(crate) qp_type: c_uint,
    mutex: libc::pthread_mutex_t,
    cond: libc::pthread_cond_t,
    events_completed: u32,
}

/// A function of the extended queue pair without arguments.
pub(crate) type Build = unsafe extern "C" fn(*mut ibv_qp_ex);

#[repr(C)]
pub(crate) struct ibv_qp_ex {
    pub(crate) base: ibv_qp,
    comp_mask: u64,
    pub(crate) wr_id: u64,
    pub(crate) wr_flags: c_uint,
    pub(crate) wr_atomic_cmp_swp: Option<unsafe extern "C" fn(*mut ibv_qp_ex, u32, u64, u64, u64)>,
    pub(crate) wr_atomic_fetch_add: Option<unsafe extern "C" fn(*mut ibv_qp_ex, u32, u64, u64)>,
    pub(crate) wr_bind_mw:
        Option<unsafe extern "C" fn(*mut ibv_qp_ex, *mut ibv_mw, u32, *const ibv_mw_bind_info)>,
    pub(crate) wr_local_inv: Option<unsafe extern "C" fn(*mut ibv_qp_ex, u32)>,
    pub(crate) wr_rdma_read: Option<unsafe extern "C" fn(*mut ibv_qp_ex, u32, u64)>,
    pub(crate) wr_rdma_write: Option<unsafe extern "C" fn(*mut ibv_qp_ex, u32, u64)>,
    pub(crate) wr_rdma_write_imm: Option<unsafe extern "C" fn(*mut ibv_qp_ex, u32, u64, u32)>,
    pub(crate) wr_send: Option<Build>,
    pub(crate) wr_send_imm: Option<unsafe extern "C" fn(*mut ibv_qp_ex, u32)>,
    pub(crate) wr_send_inv: Option<unsafe extern "C" fn(*mut ibv_qp_ex, u32)>,
    wr_send_tso: Option<unsafe extern "C" fn(*mut ibv_qp_ex, *mut c_void, u16, u16)>,
    pub(crate) wr_set_ud_addr: Option<unsafe extern "C" fn(*mut ibv_qp_ex, *mut ibv_ah, u32, u32)>,
    pub(crate) wr_set_xrc_srqn: Option<unsafe extern "C" fn(*mut ibv_qp_ex, u32)>,
    pub(crate) wr_set_inline_data: Option<unsafe extern "C" fn(*mut ibv_qp_ex, *mut c_void, usize)>,
    pub(crate) wr_set_inline_data_list:
        Option<unsafe extern "C" fn(*mut ibv_qp_ex, usize, *const ibv_data_buf)>,
    pub(crate) wr_set_sge: Option<unsafe extern "C" fn(*mut ibv_qp_ex, u32, u64, u32)>,
    pub(crate) wr_set_sge_list: Option<unsafe extern "C" fn(*mut ibv_qp_ex, usize, *const ibv_sge)>,
    pub(crate) wr_start: Option<Build>,
    pub(crate) wr_complete: Option<unsafe extern "C" fn(*mut ibv_qp_ex) -> c_int>,
    pub(crate) wr_abort: Option<Build>,
    pub(crate) wr_atomic_write:
        Option<unsafe extern "C" fn(*mut ibv_qp_ex, u32, u64, *const c_void)>,
    pub(crate) wr_flush: Option<unsafe extern "C" fn(*mut ibv_qp_ex, u32, u64, usize, u8, u8)>,
}

#[repr(C)]
pub(crate) struct ibv_data_buf {
    pub(crate) addr: *mut c_void,
    pub(crate) length: usize,
}

/// The driver's type has the layout of `ibv_sge`, so that lists are not copied.
pub(crate) type ibv_sge = vrnic_driver::Sge;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ibv_rdma_wr {
    pub(crate) remote_addr: u64,
    pub(crate) rkey: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ibv_atomic_wr {
    pub(crate) remote_addr: u64,
    pub(crate) compare_add: u64,
    pub(crate) swap: u64,
    pub(crate) rkey: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ibv_ud_wr {
    pub(crate) ah: *mut ibv_ah,
    pub(crate) remote_qpn: u32,
    pub(crate) remote_qkey: u32,
}

/// What a work request needs, by its operation and queue pair.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) union ibv_wr_operands {
    pub(crate) rdma: ibv_rdma_wr,
    pub(crate) atomic: ibv_atomic_wr,
    pub(crate) ud: ibv_ud_wr,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ibv_bind_mw_wr {
    pub(crate) mw: *mut ibv_mw,
    pub(crate) rkey: u32,
    pub(crate) bind_info: ibv_mw_bind_info,
}

#[repr(C)]
pub(crate) struct ibv_send_wr {
    pub(crate) wr_id: u64,
    pub(crate) next: *mut ibv_send_wr,
    pub(crate) sg_list: *mut ibv_sge,
    pub(crate) num_sge: c_int,
    pub(crate) opcode: c_uint,
    pub(crate) send_flags: c_uint,
    /// Immediate data in network byte order, or the key to invalidate.
    pub(crate) imm_data: u32,
    pub(crate) wr: ibv_wr_operands,
    pub(crate) remote_srqn: u32,
    pub(crate) bind_mw: ibv_bind_mw_wr,
}

#[repr(C)]
pub(crate) struct ibv_recv_wr {
    pub(crate) wr_id: u64,
    pub(crate) next: *mut ibv_recv_wr,
    pub(crate) sg_list: *mut ibv_sge,
    pub(crate) num_sge: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ibv_qp_cap {
    pub(crate) max_send_wr: u32,
    pub(crate) max_recv_wr: u32,
    pub(crate) max_send_sge: u32,
    pub(crate) max_recv_sge: u32,
    pub(crate) max_inline_data: u32,
}

#[repr(C)]
pub(crate) struct ibv_qp_init_attr {
    pub(crate) qp_context: *mut c_void,
    pub(crate) send_cq: *mut ibv_cq,
    pub(crate) recv_cq: *mut ibv_cq,
    pub(crate) srq: *mut ibv_srq,
    pub(crate) cap: ibv_qp_cap,
    pub(crate) qp_type: c_uint,
    pub(crate) sq_sig_all: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ibv_qp_init_attr_ex {
    pub(crate) qp_context: *mut c_void,
    pub(crate) send_cq: *mut ibv_cq,
    pub(crate) recv_cq: *mut ibv_cq,
    pub(crate) srq: *mut ibv_srq,
    pub(crate) cap: ibv_qp_cap,
    pub(crate) qp_type: c_uint,
    pub(crate) sq_sig_all: c_int,
    pub(crate) comp_mask: u32,
    pub(crate) pd: *mut ibv_pd,
    pub(crate) xrcd: *mut ibv_xrcd,
    pub(crate) create_flags: u32,
    pub(crate) max_tso_header: u16,
    pub(crate) rwq_ind_tbl: *mut c_void,
    pub(crate) rx_hash_conf: [u64; 3],
    pub(crate) source_qpn: u32,
    pub(crate) send_ops_flags: u64,
}

/// Attributes of a queue pair, of which only the state is looked at.
#[repr(C)]
pub(crate) struct ibv_qp_attr {
    pub(crate) qp_state: c_uint,
    cur_qp_state: c_uint,
    path: [u32; 7],
    pub(crate) cap: ibv_qp_cap,
    rest: [u64; 11],
}

/// An asynchronous event; which object it is about depends on its type.
#[repr(C)]
pub(crate) struct ibv_async_event {
    pub(crate) element: *mut c_void,
    pub(crate) event_type: c_uint,
}

/// Attributes of a device, of which only the firmware's version is written here.
#[repr(C)]
pub(crate) struct ibv_device_attr_ex {
    pub(crate) fw_ver: [c_char; 64],
    rest: [u64; 42],
}

assert_layout! {
    ibv_device: 664 { name @ 24 }
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
    ibv_qp_attr: 144 { cap @ 36 }
    ibv_async_event: 16 { event_type @ 8 }
    ibv_device_attr_ex: 400 {}
}

/// Types of queue pairs.
pub(crate) mod qp_type {
    pub(crate) const RC: u32 = 2;
    pub(crate) const UC: u32 = 3;
    pub(crate) const UD: u32 = 4;
    pub(crate) const RAW_PACKET: u32 = 8;
    pub(crate) const XRC_SEND: u32 = 9;
    pub(crate) const XRC_RECV: u32 = 10;
}

/// States of queue pairs.
pub(crate) mod qp_state {
    pub(crate) const RESET: u32 = 0;
    pub(crate) const RTS: u32 = 3;
    pub(crate) const ERR: u32 = 6;
}

/// Operations of send work requests.
pub(crate) mod wr_opcode {
    pub(crate) const RDMA_WRITE: u32 = 0;
    pub(crate) const RDMA_WRITE_WITH_IMM: u32 = 1;
    pub(crate) const SEND: u32 = 2;
    pub(crate) const SEND_WITH_IMM: u32 = 3;
    pub(crate) const RDMA_READ: u32 = 4;
    pub(crate) const ATOMIC_CMP_AND_SWP: u32 = 5;
    pub(crate) const ATOMIC_FETCH_AND_ADD: u32 = 6;
    pub(crate) const LOCAL_INV: u32 = 7;
    pub(crate) const BIND_MW: u32 = 8;
    pub(crate) const SEND_WITH_INV: u32 = 9;
}

/// Flags of send work requests.
pub(crate) mod send_flag {
    pub(crate) const FENCE: u32 = 1 << 0;
    pub(crate) const SIGNALED: u32 = 1 << 1;
    pub(crate) const SOLICITED: u32 = 1 << 2;
    pub(crate) const INLINE: u32 = 1 << 3;
    pub(crate) const IP_CSUM: u32 = 1 << 4;
}

/// What completed.
pub(crate) mod wc_opcode {
    pub(crate) const SEND: u32 = 0;
    pub(crate) const RDMA_WRITE: u32 = 1;
    pub(crate) const RDMA_READ: u32 = 2;
    pub(crate) const COMP_SWAP: u32 = 3;
    pub(crate) const FETCH_ADD: u32 = 4;
    pub(crate) const BIND_MW: u32 = 5;
    pub(crate) const LOCAL_INV: u32 = 6;
    pub(crate) const FLUSH: u32 = 8;
    pub(crate) const ATOMIC_WRITE: u32 = 9;
    pub(crate) const RECV: u32 = 1 << 7;
    pub(crate) const RECV_RDMA_WITH_IMM: u32 = RECV + 1;
}

/// How it completed.
pub(crate) mod wc_status {
    pub(crate) const SUCCESS: u32 = 0;
    pub(crate) const LOC_LEN_ERR: u32 = 1;
    pub(crate) const LOC_QP_OP_ERR: u32 = 2;
    pub(crate) const LOC_PROT_ERR: u32 = 4;
    pub(crate) const WR_FLUSH_ERR: u32 = 5;
    pub(crate) const MW_BIND_ERR: u32 = 6;
    pub(crate) const BAD_RESP_ERR: u32 = 7;
    pub(crate) const LOC_ACCESS_ERR: u32 = 8;
    pub(crate) const REM_INV_REQ_ERR: u32 = 9;
    pub(crate) const REM_ACCESS_ERR: u32 = 10;
    pub(crate) const REM_OP_ERR: u32 = 11;
    pub(crate) const RETRY_EXC_ERR: u32 = 12;
    pub(crate) const RNR_RETRY_EXC_ERR: u32 = 13;
    pub(crate) const REM_ABORT_ERR: u32 = 16;
    pub(crate) const GENERAL_ERR: u32 = 21;
}

/// Flags of a completion.
pub(crate) mod wc_flag {
    pub(crate) const GRH: u32 = 1 << 0;
    pub(crate) const WITH_IMM: u32 = 1 << 1;
    pub(crate) const IP_CSUM_OK: u32 = 1 << 2;
    pub(crate) const WITH_INV: u32 = 1 << 3;
}

/// Fields of completions that an extended completion queue is to have.
pub(crate) mod wc_ex {
    pub(crate) const BYTE_LEN: u64 = 1 << 0;
    pub(crate) const IMM: u64 = 1 << 1;
    pub(crate) const QP_NUM: u64 = 1 << 2;
    pub(crate) const SRC_QP: u64 = 1 << 3;
    pub(crate) const SLID: u64 = 1 << 4;
    pub(crate) const SL: u64 = 1 << 5;
    pub(crate) const DLID_PATH_BITS: u64 = 1 << 6;
    pub(crate) const COMPLETION_TIMESTAMP: u64 = 1 << 7;
    pub(crate) const CVLAN: u64 = 1 << 8;
}

/// Flags of extended completion queues.
pub(crate) mod cq_attr {
    pub(crate) const MASK_FLAGS: u32 = 1 << 0;
    pub(crate) const MASK_PD: u32 = 1 << 1;
    pub(crate) const SINGLE_THREADED: u32 = 1 << 0;
}

/// Fields of `ibv_qp_init_attr_ex` that mean something.
pub(crate) mod qp_attr {
    pub(crate) const PD: u32 = 1 << 0;
    pub(crate) const XRCD: u32 = 1 << 1;
    pub(crate) const CREATE_FLAGS: u32 = 1 << 2;
    pub(crate) const SEND_OPS_FLAGS: u32 = 1 << 6;
    /// A flag in `create_flags`.
    pub(crate) const CVLAN_STRIPPING: u32 = 1 << 9;
}

/// Operations that an extended queue pair is to have.
pub(crate) mod qp_ex {
    pub(crate) const RDMA_WRITE: u64 = 1 << 0;
    pub(crate) const RDMA_WRITE_WITH_IMM: u64 = 1 << 1;
    pub(crate) const SEND: u64 = 1 << 2;
    pub(crate) const SEND_WITH_IMM: u64 = 1 << 3;
    pub(crate) const RDMA_READ: u64 = 1 << 4;
    pub(crate) const ATOMIC_CMP_AND_SWP: u64 = 1 << 5;
    pub(crate) const ATOMIC_FETCH_AND_ADD: u64 = 1 << 6;
    pub(crate) const LOCAL_INV: u64 = 1 << 7;
    pub(crate) const BIND_MW: u64 = 1 << 8;
    pub(crate) const SEND_WITH_INV: u64 = 1 << 9;
    pub(crate) const FLUSH: u64 = 1 << 11;
    pub(crate) const ATOMIC_WRITE: u64 = 1 << 12;
}

/// Attributes that `ibv_modify_qp` is given.
pub(crate) mod qp_mask {
    use core::ffi::c_int;

    pub(crate) const STATE: c_int = 1 << 0;
    pub(crate) const RATE_LIMIT: c_int = 1 << 25;
}

/// Rights to memory.
pub(crate) mod access {
    pub(crate) const REMOTE_WRITE: u32 = 1 << 1;
    pub(crate) const REMOTE_READ: u32 = 1 << 2;
    pub(crate) const REMOTE_ATOMIC: u32 = 1 << 3;
    pub(crate) const ZERO_BASED: u32 = 1 << 5;
}

/// Types of asynchronous events that tell of a queue pair in the error state.
pub(crate) mod event {
    pub(crate) const QP_FATAL: u32 = 1;
    pub(crate) const QP_REQ_ERR: u32 = 2;
    pub(crate) const QP_ACCESS_ERR: u32 = 3;
}

/// Whether `ibv_parent_domain_init_attr` says nothing that the provider does not know: a context
/// for allocators may be given, but no allocators.
pub(crate) const PARENT_DOMAIN_KNOWN: u32 = 1 << 1;

/// `ibv_srq_init_attr_ex`: a queue for tag matching is wanted.
pub(crate) const SRQ_TYPE_BASIC: u32 = 0;
/// `ibv_srq_init_attr_ex`: a queue for XRC is wanted.
pub(crate) const SRQ_TYPE_XRC: u32 = 1;
/// `ibv_srq_init_attr_ex`: `srq_type` means something.
pub(crate) const SRQ_MASK_TYPE: u32 = 1 << 0;
