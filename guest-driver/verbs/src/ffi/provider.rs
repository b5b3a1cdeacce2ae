//! Structures between `libibverbs` and its providers, private interface 34.

use core::ffi::{c_char, c_int, c_uint, c_void};

use vrnic_ibverbs::*;

/// Version of the private interface; part of the names of symbols and files.
pub(crate) const INTERFACE: &str = "IBVERBS_PRIVATE_34";

/// A device that was found in sysfs, of which only these are read.
#[repr(C)]
pub(crate) struct verbs_sysfs_dev {
    head: [u64; 14],
    pub(crate) ibdev_name: [c_char; 64],
    middle: [u64; 99],
    pub(crate) abi_ver: u32,
    time_created: [u64; 2],
}

/// A rule that says which devices a provider is for.
#[repr(C)]
pub(crate) struct verbs_match_ent {
    pub(crate) driver_data: *mut c_void,
    pub(crate) driver_id: u64,
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    pub(crate) kind: u8,
}

/// [`verbs_match_ent::kind`]: the end of the list.
pub(crate) const MATCH_SENTINEL: u8 = 0;
/// [`verbs_match_ent::kind`]: by PCI vendor and device.
pub(crate) const MATCH_PCI: u8 = 1;

/// What a provider is.
#[repr(C)]
pub(crate) struct verbs_device_ops {
    pub(crate) name: *const c_char,
    pub(crate) match_min_abi_version: u32,
    pub(crate) match_max_abi_version: u32,
    pub(crate) match_table: *const verbs_match_ent,
    pub(crate) static_providers: *const c_void,
    pub(crate) match_device: Option<unsafe extern "C" fn(*mut verbs_sysfs_dev) -> bool>,
    pub(crate) alloc_context:
        Option<unsafe extern "C" fn(*mut ibv_device, c_int, *mut c_void) -> *mut verbs_context>,
    pub(crate) import_context:
        Option<unsafe extern "C" fn(*mut ibv_device, c_int) -> *mut verbs_context>,
    pub(crate) alloc_device:
        Option<unsafe extern "C" fn(*mut verbs_sysfs_dev) -> *mut verbs_device>,
    pub(crate) uninit_device: Option<unsafe extern "C" fn(*mut verbs_device)>,
}

/// A device as the provider allocates and `libibverbs` fills it in.
#[repr(C)]
pub(crate) struct verbs_device {
    pub(crate) device: ibv_device,
    rest: [u64; 6],
}

#[repr(C)]
pub(crate) struct verbs_mr {
    pub(crate) ibv_mr: ibv_mr,
    mr_type: c_uint,
    access: c_int,
}

#[repr(C)]
pub(crate) struct verbs_xrcd {
    pub(crate) xrcd: ibv_xrcd,
    comp_mask: u32,
    pub(crate) handle: u32,
}

#[repr(C)]
pub(crate) struct verbs_srq {
    pub(crate) srq: ibv_srq,
    pub(crate) srq_type: c_uint,
    xrcd: *mut verbs_xrcd,
    pub(crate) cq: *mut ibv_cq,
    pub(crate) srq_num: u32,
}

#[repr(C)]
pub(crate) struct verbs_qp {
    pub(crate) qp_ex: ibv_qp_ex,
    pub(crate) comp_mask: u32,
    xrcd: *mut verbs_xrcd,
}

/// [`verbs_qp::comp_mask`]: the functions of `ibv_qp_ex` are there.
pub(crate) const QP_EX: u32 = 1 << 1;

/// A function that the provider does not have.
pub(crate) type Absent = Option<unsafe extern "C" fn()>;

/// What a provider does for a context, in the order of the names; those that it does not do fail
/// with EOPNOTSUPP, or do nothing, in `libibverbs`.
#[repr(C)]
pub(crate) struct verbs_context_ops {
    pub(crate) advise_mr: Absent,
    pub(crate) alloc_dm: Absent,
    pub(crate) alloc_mw: Option<unsafe extern "C" fn(*mut ibv_pd, c_uint) -> *mut ibv_mw>,
    pub(crate) alloc_null_mr: Absent,
    pub(crate) alloc_parent_domain: Option<
        unsafe extern "C" fn(*mut ibv_context, *mut ibv_parent_domain_init_attr) -> *mut ibv_pd,
    >,
    pub(crate) alloc_pd: Option<unsafe extern "C" fn(*mut ibv_context) -> *mut ibv_pd>,
    pub(crate) alloc_td:
        Option<unsafe extern "C" fn(*mut ibv_context, *mut ibv_td_init_attr) -> *mut ibv_td>,
    pub(crate) async_event: Option<unsafe extern "C" fn(*mut ibv_context, *mut ibv_async_event)>,
    pub(crate) attach_counters_point_flow: Absent,
    pub(crate) attach_mcast:
        Option<unsafe extern "C" fn(*mut ibv_qp, *const ibv_gid, u16) -> c_int>,
    pub(crate) bind_mw:
        Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_mw, *mut ibv_mw_bind) -> c_int>,
    pub(crate) close_xrcd: Option<unsafe extern "C" fn(*mut ibv_xrcd) -> c_int>,
    pub(crate) cq_event: Absent,
    pub(crate) create_ah:
        Option<unsafe extern "C" fn(*mut ibv_pd, *mut ibv_ah_attr) -> *mut ibv_ah>,
    pub(crate) create_counters: Absent,
    pub(crate) create_cq: Option<
        unsafe extern "C" fn(*mut ibv_context, c_int, *mut ibv_comp_channel, c_int) -> *mut ibv_cq,
    >,
    pub(crate) create_cq_ex:
        Option<unsafe extern "C" fn(*mut ibv_context, *mut ibv_cq_init_attr_ex) -> *mut ibv_cq_ex>,
    pub(crate) create_flow:
        Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_flow_attr) -> *mut ibv_flow>,
    pub(crate) create_flow_action_esp: Absent,
    pub(crate) create_qp:
        Option<unsafe extern "C" fn(*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp>,
    pub(crate) create_qp_ex:
        Option<unsafe extern "C" fn(*mut ibv_context, *mut ibv_qp_init_attr_ex) -> *mut ibv_qp>,
    pub(crate) create_rwq_ind_table: Absent,
    pub(crate) create_srq:
        Option<unsafe extern "C" fn(*mut ibv_pd, *mut ibv_srq_init_attr) -> *mut ibv_srq>,
    pub(crate) create_srq_ex:
        Option<unsafe extern "C" fn(*mut ibv_context, *mut ibv_srq_init_attr_ex) -> *mut ibv_srq>,
    pub(crate) create_wq: Absent,
    pub(crate) dealloc_mw: Option<unsafe extern "C" fn(*mut ibv_mw) -> c_int>,
    pub(crate) dealloc_pd: Option<unsafe extern "C" fn(*mut ibv_pd) -> c_int>,
    pub(crate) dealloc_td: Option<unsafe extern "C" fn(*mut ibv_td) -> c_int>,
    pub(crate) dereg_mr: Option<unsafe extern "C" fn(*mut verbs_mr) -> c_int>,
    pub(crate) destroy_ah: Option<unsafe extern "C" fn(*mut ibv_ah) -> c_int>,
    pub(crate) destroy_counters: Absent,
    pub(crate) destroy_cq: Option<unsafe extern "C" fn(*mut ibv_cq) -> c_int>,
    pub(crate) destroy_flow: Option<unsafe extern "C" fn(*mut ibv_flow) -> c_int>,
    pub(crate) destroy_flow_action: Absent,
    pub(crate) destroy_qp: Option<unsafe extern "C" fn(*mut ibv_qp) -> c_int>,
    pub(crate) destroy_rwq_ind_table: Absent,
    pub(crate) destroy_srq: Option<unsafe extern "C" fn(*mut ibv_srq) -> c_int>,
    pub(crate) destroy_wq: Absent,
    pub(crate) detach_mcast:
        Option<unsafe extern "C" fn(*mut ibv_qp, *const ibv_gid, u16) -> c_int>,
    pub(crate) free_context: Option<unsafe extern "C" fn(*mut ibv_context)>,
    pub(crate) free_dm: Absent,
    pub(crate) get_srq_num: Option<unsafe extern "C" fn(*mut ibv_srq, *mut u32) -> c_int>,
    pub(crate) import_dm: Absent,
    pub(crate) import_mr: Absent,
    pub(crate) import_pd: Absent,
    pub(crate) modify_cq:
        Option<unsafe extern "C" fn(*mut ibv_cq, *mut ibv_modify_cq_attr) -> c_int>,
    pub(crate) modify_flow_action_esp: Absent,
    pub(crate) modify_qp:
        Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int>,
    pub(crate) modify_qp_rate_limit: Absent,
    pub(crate) modify_srq:
        Option<unsafe extern "C" fn(*mut ibv_srq, *mut ibv_srq_attr, c_int) -> c_int>,
    pub(crate) modify_wq: Absent,
    pub(crate) open_qp:
        Option<unsafe extern "C" fn(*mut ibv_context, *mut ibv_qp_open_attr) -> *mut ibv_qp>,
    pub(crate) open_xrcd:
        Option<unsafe extern "C" fn(*mut ibv_context, *mut ibv_xrcd_init_attr) -> *mut ibv_xrcd>,
    pub(crate) poll_cq: Option<unsafe extern "C" fn(*mut ibv_cq, c_int, *mut ibv_wc) -> c_int>,
    pub(crate) post_recv:
        Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_recv_wr, *mut *mut ibv_recv_wr) -> c_int>,
    pub(crate) post_send:
        Option<unsafe extern "C" fn(*mut ibv_qp, *mut ibv_send_wr, *mut *mut ibv_send_wr) -> c_int>,
    pub(crate) post_srq_ops: Absent,
    pub(crate) post_srq_recv: Option<
        unsafe extern "C" fn(*mut ibv_srq, *mut ibv_recv_wr, *mut *mut ibv_recv_wr) -> c_int,
    >,
    pub(crate) query_device_ex: Option<
        unsafe extern "C" fn(
            *mut ibv_context,
            *const ibv_query_device_ex_input,
            *mut ibv_device_attr_ex,
            usize,
        ) -> c_int,
    >,
    pub(crate) query_ece: Absent,
    pub(crate) query_port:
        Option<unsafe extern "C" fn(*mut ibv_context, u8, *mut ibv_port_attr) -> c_int>,
    pub(crate) query_qp: Option<
        unsafe extern "C" fn(*mut ibv_qp, *mut ibv_qp_attr, c_int, *mut ibv_qp_init_attr) -> c_int,
    >,
    pub(crate) query_qp_data_in_order: Absent,
    pub(crate) query_rt_values: Absent,
    pub(crate) query_srq: Option<unsafe extern "C" fn(*mut ibv_srq, *mut ibv_srq_attr) -> c_int>,
    pub(crate) read_counters: Absent,
    pub(crate) reg_dm_mr: Absent,
    pub(crate) reg_dmabuf_mr: Absent,
    pub(crate) reg_mr:
        Option<unsafe extern "C" fn(*mut ibv_pd, *mut c_void, usize, u64, c_int) -> *mut ibv_mr>,
    pub(crate) req_notify_cq: Option<unsafe extern "C" fn(*mut ibv_cq, c_int) -> c_int>,
    pub(crate) rereg_mr: Option<
        unsafe extern "C" fn(*mut verbs_mr, c_int, *mut ibv_pd, *mut c_void, usize, c_int) -> c_int,
    >,
    pub(crate) resize_cq: Option<unsafe extern "C" fn(*mut ibv_cq, c_int) -> c_int>,
    pub(crate) set_ece: Absent,
    pub(crate) unimport_dm: Absent,
    pub(crate) unimport_mr: Absent,
    pub(crate) unimport_pd: Absent,
}

impl verbs_context_ops {
    /// No functions.
    pub(crate) const NONE: Self = Self {
        advise_mr: None,
        alloc_dm: None,
        alloc_mw: None,
        alloc_null_mr: None,
        alloc_parent_domain: None,
        alloc_pd: None,
        alloc_td: None,
        async_event: None,
        attach_counters_point_flow: None,
        attach_mcast: None,
        bind_mw: None,
        close_xrcd: None,
        cq_event: None,
        create_ah: None,
        create_counters: None,
        create_cq: None,
        create_cq_ex: None,
        create_flow: None,
        create_flow_action_esp: None,
        create_qp: None,
        create_qp_ex: None,
        create_rwq_ind_table: None,
        create_srq: None,
        create_srq_ex: None,
        create_wq: None,
        dealloc_mw: None,
        dealloc_pd: None,
        dealloc_td: None,
        dereg_mr: None,
        destroy_ah: None,
        destroy_counters: None,
        destroy_cq: None,
        destroy_flow: None,
        destroy_flow_action: None,
        destroy_qp: None,
        destroy_rwq_ind_table: None,
        destroy_srq: None,
        destroy_wq: None,
        detach_mcast: None,
        free_context: None,
        free_dm: None,
        get_srq_num: None,
        import_dm: None,
        import_mr: None,
        import_pd: None,
        modify_cq: None,
        modify_flow_action_esp: None,
        modify_qp: None,
        modify_qp_rate_limit: None,
        modify_srq: None,
        modify_wq: None,
        open_qp: None,
        open_xrcd: None,
        poll_cq: None,
        post_recv: None,
        post_send: None,
        post_srq_ops: None,
        post_srq_recv: None,
        query_device_ex: None,
        query_ece: None,
        query_port: None,
        query_qp: None,
        query_qp_data_in_order: None,
        query_rt_values: None,
        query_srq: None,
        read_counters: None,
        reg_dm_mr: None,
        reg_dmabuf_mr: None,
        reg_mr: None,
        req_notify_cq: None,
        rereg_mr: None,
        resize_cq: None,
        set_ece: None,
        unimport_dm: None,
        unimport_mr: None,
        unimport_pd: None,
    };
}

assert_layout! {
    verbs_sysfs_dev: 992 { ibdev_name @ 112, abi_ver @ 968 }
    verbs_match_ent: 24 { driver_id @ 8, vendor @ 16, device @ 18, kind @ 20 }
    verbs_device_ops: 72 { match_min_abi_version @ 8, match_table @ 16, match_device @ 32,
        alloc_context @ 40, alloc_device @ 56, uninit_device @ 64 }
    verbs_device: 712 {}
    verbs_mr: 56 { mr_type @ 48, access @ 52 }
    verbs_xrcd: 16 { comp_mask @ 8, handle @ 12 }
    verbs_srq: 160 { srq_type @ 128, xrcd @ 136, cq @ 144, srq_num @ 152 }
    verbs_qp: 376 { comp_mask @ 360, xrcd @ 368 }
    verbs_context_ops: 608 { alloc_mw @ 16, alloc_pd @ 40, async_event @ 56, attach_mcast @ 72,
        bind_mw @ 80, close_xrcd @ 88, create_ah @ 104, create_cq @ 120, create_cq_ex @ 128,
        create_flow @ 136, create_qp @ 152, create_qp_ex @ 160, create_srq @ 176,
        create_srq_ex @ 184, dealloc_mw @ 200, dealloc_pd @ 208, dealloc_td @ 216, dereg_mr @ 224,
        destroy_ah @ 232, destroy_cq @ 248, destroy_flow @ 256, destroy_qp @ 272,
        destroy_srq @ 288, detach_mcast @ 304, free_context @ 312, get_srq_num @ 328,
        modify_cq @ 360, modify_qp @ 376, modify_srq @ 392, open_qp @ 408, open_xrcd @ 416,
        poll_cq @ 424, post_recv @ 432, post_send @ 440, post_srq_recv @ 456,
        query_device_ex @ 464, query_port @ 480, query_qp @ 488, query_srq @ 512, reg_mr @ 544,
        req_notify_cq @ 552, rereg_mr @ 560, resize_cq @ 568, unimport_pd @ 600 }
}
