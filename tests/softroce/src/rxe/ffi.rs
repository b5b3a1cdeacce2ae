//! The part of `libibverbs.so.1`'s interface that is used here, declared by hand.
//!
//! Names, order and sizes are those of `infiniband/verbs.h`, whose binary interface has not changed
//! since its version 1.1; sizes and offsets that matter are asserted. Structures that the library
//! makes are declared as far as we read them, and only ever seen through pointers.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// `struct ibv_device`, whose contents are the library's.
#[repr(C)]
pub(super) struct Device {
    _opaque: [u8; 0],
}

/// `struct ibv_pd`.
#[repr(C)]
pub(super) struct Pd {
    _opaque: [u8; 0],
}

/// `struct ibv_cq`.
#[repr(C)]
pub(super) struct Cq {
    _opaque: [u8; 0],
}

/// `struct ibv_ah`.
#[repr(C)]
pub(super) struct Ah {
    _opaque: [u8; 0],
}

/// `struct ibv_context`, its beginning.
#[repr(C)]
pub(super) struct Context {
    pub(super) device: *mut Device,
    pub(super) ops: ContextOps,
}

/// `struct ibv_context_ops`: entries without a name here were replaced by functions of the library.
#[repr(C)]
pub(super) struct ContextOps {
    _before_mw: [*mut c_void; 7],
    pub(super) alloc_mw: unsafe extern "C" fn(*mut Pd, c_uint) -> *mut Mw,
    _bind_mw: *mut c_void,
    pub(super) dealloc_mw: unsafe extern "C" fn(*mut Mw) -> c_int,
    _create_cq: *mut c_void,
    pub(super) poll_cq: unsafe extern "C" fn(*mut Cq, c_int, *mut Wc) -> c_int,
    _before_post: [*mut c_void; 13],
    pub(super) post_send: unsafe extern "C" fn(*mut Qp, *mut SendWr, *mut *mut SendWr) -> c_int,
    pub(super) post_recv: unsafe extern "C" fn(*mut Qp, *mut RecvWr, *mut *mut RecvWr) -> c_int,
    _after: [*mut c_void; 5],
}

/// `struct ibv_mr`.
#[repr(C)]
pub(super) struct Mr {
    _context: *mut Context,
    _pd: *mut Pd,
    _addr: *mut c_void,
    _length: usize,
    _handle: u32,
    pub(super) lkey: u32,
    pub(super) rkey: u32,
}

/// `struct ibv_mw`.
#[repr(C)]
pub(super) struct Mw {
    _context: *mut Context,
    _pd: *mut Pd,
    pub(super) rkey: u32,
}

/// `struct ibv_qp`, its beginning.
#[repr(C)]
pub(super) struct Qp {
    pub(super) context: *mut Context,
    _qp_context: *mut c_void,
    _pd: *mut Pd,
    _send_cq: *mut Cq,
    _recv_cq: *mut Cq,
    _srq: *mut c_void,
    _handle: u32,
    pub(super) qp_num: u32,
}

/// `struct ibv_qp_cap`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct QpCap {
    pub(super) max_send_wr: u32,
    pub(super) max_recv_wr: u32,
    pub(super) max_send_sge: u32,
    pub(super) max_recv_sge: u32,
    pub(super) max_inline_data: u32,
}

/// `struct ibv_qp_init_attr`.
#[repr(C)]
pub(super) struct QpInitAttr {
    pub(super) qp_context: *mut c_void,
    pub(super) send_cq: *mut Cq,
    pub(super) recv_cq: *mut Cq,
    pub(super) srq: *mut c_void,
    pub(super) cap: QpCap,
    pub(super) qp_type: c_uint,
    pub(super) sq_sig_all: c_int,
}

/// `struct ibv_qp_init_attr_ex`.
#[repr(C)]
pub(super) struct QpInitAttrEx {
    pub(super) qp_context: *mut c_void,
    pub(super) send_cq: *mut Cq,
    pub(super) recv_cq: *mut Cq,
    pub(super) srq: *mut c_void,
    pub(super) cap: QpCap,
    pub(super) qp_type: c_uint,
    pub(super) sq_sig_all: c_int,
    pub(super) comp_mask: u32,
    pub(super) pd: *mut Pd,
    pub(super) unused: [u64; 7],
    pub(super) send_ops_flags: u64,
}

/// The end of `struct verbs_context`, which lies before the `struct ibv_context` that it ends with.
#[repr(C)]
pub(super) struct VerbsContext {
    pub(super) create_qp_ex: unsafe extern "C" fn(*mut Context, *mut QpInitAttrEx) -> *mut Qp,
    _between: [*mut c_void; 5],
    /// Size of the whole structure.
    pub(super) sz: usize,
    pub(super) context: Context,
}

/// `struct ibv_qp_ex`, its beginning.
#[repr(C)]
pub(super) struct QpEx {
    _base: [u64; 20],
    _comp_mask: u64,
    pub(super) wr_id: u64,
    pub(super) wr_flags: c_uint,
    _before_start: [*mut c_void; 17],
    pub(super) wr_start: unsafe extern "C" fn(*mut QpEx),
    pub(super) wr_complete: unsafe extern "C" fn(*mut QpEx) -> c_int,
    _wr_abort: *mut c_void,
    pub(super) wr_atomic_write: unsafe extern "C" fn(*mut QpEx, u32, u64, *const c_void),
}

/// `struct ibv_ah_attr`, with its `struct ibv_global_route`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
pub(super) struct AhAttr {
    pub(super) dgid: [u8; 16],
    pub(super) flow_label: u32,
    pub(super) sgid_index: u8,
    pub(super) hop_limit: u8,
    pub(super) traffic_class: u8,
    pub(super) reserved: u8,
    pub(super) dlid: u16,
    pub(super) sl: u8,
    pub(super) src_path_bits: u8,
    pub(super) static_rate: u8,
    pub(super) is_global: u8,
    pub(super) port_num: u8,
}

/// `struct ibv_qp_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct QpAttr {
    pub(super) qp_state: c_uint,
    pub(super) cur_qp_state: c_uint,
    pub(super) path_mtu: c_uint,
    pub(super) path_mig_state: c_uint,
    pub(super) qkey: u32,
    pub(super) rq_psn: u32,
    pub(super) sq_psn: u32,
    pub(super) dest_qp_num: u32,
    pub(super) qp_access_flags: c_uint,
    pub(super) cap: QpCap,
    pub(super) ah_attr: AhAttr,
    pub(super) alt_ah_attr: AhAttr,
    pub(super) pkey_index: u16,
    pub(super) alt_pkey_index: u16,
    pub(super) en_sqd_async_notify: u8,
    pub(super) sq_draining: u8,
    pub(super) max_rd_atomic: u8,
    pub(super) max_dest_rd_atomic: u8,
    pub(super) min_rnr_timer: u8,
    pub(super) port_num: u8,
    pub(super) timeout: u8,
    pub(super) retry_cnt: u8,
    pub(super) rnr_retry: u8,
    pub(super) alt_port_num: u8,
    pub(super) alt_timeout: u8,
    pub(super) rate_limit: u32,
}

/// `struct ibv_sge`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Sge {
    pub(super) addr: u64,
    pub(super) length: u32,
    pub(super) lkey: u32,
}

/// The union `wr` of `struct ibv_send_wr`, as its largest member's words: `rdma` is remote address
/// and key, `atomic` remote address, compare or add, swap and key, `ud` address handle, and queue
/// pair number and Q_Key in one word.
pub(super) type WrUnion = [u64; 4];

/// `struct ibv_send_wr`.
#[repr(C)]
pub(super) struct SendWr {
    pub(super) wr_id: u64,
    pub(super) next: *mut SendWr,
    pub(super) sg_list: *mut Sge,
    pub(super) num_sge: c_int,
    pub(super) opcode: c_uint,
    pub(super) send_flags: c_uint,
    /// Immediate data in network byte order, or the key to invalidate.
    pub(super) imm_data: u32,
    pub(super) wr: WrUnion,
    pub(super) xrc_srqn: u32,
    pub(super) bind: BindMw,
}

/// The member `bind_mw` of `struct ibv_send_wr`, with its `struct ibv_mw_bind_info`.
#[repr(C)]
pub(super) struct BindMw {
    pub(super) mw: *mut Mw,
    pub(super) rkey: u32,
    pub(super) mr: *mut Mr,
    pub(super) addr: u64,
    pub(super) length: u64,
    pub(super) mw_access_flags: c_uint,
}

/// `struct ibv_recv_wr`.
#[repr(C)]
pub(super) struct RecvWr {
    pub(super) wr_id: u64,
    pub(super) next: *mut RecvWr,
    pub(super) sg_list: *mut Sge,
    pub(super) num_sge: c_int,
}

/// `struct ibv_wc`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wc {
    pub(super) wr_id: u64,
    pub(super) status: c_uint,
    pub(super) opcode: c_uint,
    pub(super) vendor_err: u32,
    pub(super) byte_len: u32,
    /// Immediate data in network byte order, or the key that was invalidated.
    pub(super) imm_data: u32,
    pub(super) qp_num: u32,
    pub(super) src_qp: u32,
    pub(super) wc_flags: c_uint,
    pub(super) pkey_index: u16,
    pub(super) slid: u16,
    pub(super) sl: u8,
    pub(super) dlid_path_bits: u8,
}

// The numbers are those that a C compiler gives for the header of rdma-core 56.
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(Context, ops) == 8);
    assert!(size_of::<ContextOps>() == 256);
    assert!(offset_of!(ContextOps, alloc_mw) == 56);
    assert!(offset_of!(ContextOps, dealloc_mw) == 72);
    assert!(offset_of!(ContextOps, poll_cq) == 88);
    assert!(offset_of!(ContextOps, post_send) == 200);
    assert!(offset_of!(Mr, lkey) == 36);
    assert!(offset_of!(Mw, rkey) == 16);
    assert!(offset_of!(Qp, qp_num) == 52);
    assert!(size_of::<QpInitAttr>() == 64);
    assert!(size_of::<QpInitAttrEx>() == 136);
    assert!(offset_of!(QpInitAttrEx, comp_mask) == 60);
    assert!(offset_of!(QpInitAttrEx, send_ops_flags) == 128);
    assert!(offset_of!(VerbsContext, sz) == 48);
    assert!(offset_of!(VerbsContext, context) == 56);
    assert!(offset_of!(QpEx, wr_id) == 168);
    assert!(offset_of!(QpEx, wr_start) == 320);
    assert!(offset_of!(QpEx, wr_atomic_write) == 344);
    assert!(size_of::<AhAttr>() == 32);
    assert!(size_of::<QpAttr>() == 144);
    assert!(offset_of!(QpAttr, ah_attr) == 56);
    assert!(offset_of!(QpAttr, pkey_index) == 120);
    assert!(offset_of!(QpAttr, rate_limit) == 136);
    assert!(size_of::<SendWr>() == 128);
    assert!(offset_of!(SendWr, wr) == 40);
    assert!(offset_of!(SendWr, bind) == 80);
    assert!(offset_of!(BindMw, mr) == 16);
    assert!(offset_of!(BindMw, mw_access_flags) == 40);
    assert!(size_of::<RecvWr>() == 32);
    assert!(size_of::<Wc>() == 48);
    assert!(offset_of!(Wc, wc_flags) == 36);
};

/// Functions of the library, by the names that it exports.
pub(super) type GetDeviceList = unsafe extern "C" fn(*mut c_int) -> *mut *mut Device;
pub(super) type FreeDeviceList = unsafe extern "C" fn(*mut *mut Device);
pub(super) type GetDeviceName = unsafe extern "C" fn(*mut Device) -> *const c_char;
pub(super) type OpenDevice = unsafe extern "C" fn(*mut Device) -> *mut Context;
pub(super) type AllocPd = unsafe extern "C" fn(*mut Context) -> *mut Pd;
pub(super) type RegMr = unsafe extern "C" fn(*mut Pd, *mut c_void, usize, c_int) -> *mut Mr;
pub(super) type CreateCq =
    unsafe extern "C" fn(*mut Context, c_int, *mut c_void, *mut c_void, c_int) -> *mut Cq;
pub(super) type CreateQp = unsafe extern "C" fn(*mut Pd, *mut QpInitAttr) -> *mut Qp;
pub(super) type ModifyQp = unsafe extern "C" fn(*mut Qp, *mut QpAttr, c_int) -> c_int;
pub(super) type DestroyQp = unsafe extern "C" fn(*mut Qp) -> c_int;
pub(super) type CreateAh = unsafe extern "C" fn(*mut Pd, *mut AhAttr) -> *mut Ah;
pub(super) type DestroyAh = unsafe extern "C" fn(*mut Ah) -> c_int;
pub(super) type QueryGid = unsafe extern "C" fn(*mut Context, u8, c_int, *mut [u8; 16]) -> c_int;
pub(super) type QpToQpEx = unsafe extern "C" fn(*mut Qp) -> *mut QpEx;
pub(super) type WcStatusStr = unsafe extern "C" fn(c_uint) -> *const c_char;

/// `IBV_ACCESS_LOCAL_WRITE`.
pub(super) const LOCAL_WRITE: c_uint = 1;
/// `IBV_ACCESS_REMOTE_*`: write, read, atomic.
pub(super) const REMOTE_ACCESS: c_uint = 2 | 4 | 8;
/// `IBV_ACCESS_MW_BIND`.
pub(super) const MW_BIND: c_uint = 16;
/// `IBV_QP_INIT_ATTR_PD` and `IBV_QP_INIT_ATTR_SEND_OPS_FLAGS`.
pub(super) const INIT_ATTR_MASK: u32 = 1 | 1 << 6;
/// `IBV_QP_EX_WITH_ATOMIC_WRITE`.
pub(super) const EXTENDED: u64 = 1 << 12;
/// `IBV_MW_TYPE_2`.
pub(super) const MW_TYPE_2: c_uint = 2;

/// `enum ibv_qp_state`.
pub(super) mod state {
    pub(crate) const INIT: u32 = 1;
    pub(crate) const RTR: u32 = 2;
    pub(crate) const RTS: u32 = 3;
}

/// `enum ibv_qp_type`.
pub(super) mod qp_type {
    pub(crate) const RC: u32 = 2;
    pub(crate) const UC: u32 = 3;
    pub(crate) const UD: u32 = 4;
}

/// `enum ibv_qp_attr_mask`.
pub(super) mod mask {
    pub(crate) const STATE: i32 = 1;
    pub(crate) const ACCESS_FLAGS: i32 = 1 << 3;
    pub(crate) const PKEY_INDEX: i32 = 1 << 4;
    pub(crate) const PORT: i32 = 1 << 5;
    pub(crate) const QKEY: i32 = 1 << 6;
    pub(crate) const AV: i32 = 1 << 7;
    pub(crate) const PATH_MTU: i32 = 1 << 8;
    pub(crate) const TIMEOUT: i32 = 1 << 9;
    pub(crate) const RETRY_CNT: i32 = 1 << 10;
    pub(crate) const RNR_RETRY: i32 = 1 << 11;
    pub(crate) const RQ_PSN: i32 = 1 << 12;
    pub(crate) const MAX_QP_RD_ATOMIC: i32 = 1 << 13;
    pub(crate) const MIN_RNR_TIMER: i32 = 1 << 15;
    pub(crate) const SQ_PSN: i32 = 1 << 16;
    pub(crate) const MAX_DEST_RD_ATOMIC: i32 = 1 << 17;
    pub(crate) const DEST_QPN: i32 = 1 << 20;
}

/// `enum ibv_wr_opcode`.
pub(super) mod opcode {
    pub(crate) const RDMA_WRITE: u32 = 0;
    pub(crate) const RDMA_WRITE_WITH_IMM: u32 = 1;
    pub(crate) const SEND: u32 = 2;
    pub(crate) const SEND_WITH_IMM: u32 = 3;
    pub(crate) const RDMA_READ: u32 = 4;
    pub(crate) const ATOMIC_CMP_AND_SWP: u32 = 5;
    pub(crate) const ATOMIC_FETCH_AND_ADD: u32 = 6;
    pub(crate) const BIND_MW: u32 = 8;
    pub(crate) const SEND_WITH_INV: u32 = 9;
}

/// `IBV_SEND_SIGNALED`.
pub(super) const SIGNALED: c_uint = 1 << 1;
/// `IBV_WC_RECV_RDMA_WITH_IMM`.
pub(super) const WC_RECV_RDMA_WITH_IMM: c_uint = 129;
/// `IBV_WC_WITH_IMM`.
pub(super) const WC_WITH_IMM: c_uint = 1 << 1;
/// `IBV_WC_WITH_INV`, and the bit that `rdma_rxe` sets for it: the kernel's own number, which the
/// provider hands on, and which in user space would be about a checksum.
pub(super) const WC_WITH_INV: c_uint = 1 << 3 | 1 << 2;
