//! The distribution's verbs library, loaded when it is used: this program is built on machines that
//! need not have it.

use std::ffi::{c_char, c_int, c_uint, c_void};

use anyhow::{Context, Result};
use libloading::Library;
use vrnic_ibverbs::*;

/// Declares the table of functions and how it is filled.
macro_rules! functions {
    ($($name:ident: $kind:ty = $symbol:literal,)+) => {
        /// The library's functions.
        pub(super) struct Verbs {
            $(pub(super) $name: $kind,)+
            /// The functions are the library's: it stays as long as they do.
            _library: Library,
        }

        impl Verbs {
            /// Loads the library.
            pub(super) fn load() -> Result<Self> {
                // SAFETY: The library's initialization has no preconditions.
                let library = unsafe { Library::new("libibverbs.so.1") };
                let library = library.context("there is no libibverbs.so.1")?;
                Ok(Self {
                    $($name: {
                        // SAFETY: The type is that of the function with this name in
                        // infiniband/verbs.h.
                        let function = unsafe { library.get::<$kind>($symbol) };
                        *function.context("the verbs library lacks a function")?
                    },)+
                    _library: library,
                })
            }
        }
    };
}

type CreateCq = unsafe extern "C" fn(
    *mut ibv_context,
    c_int,
    *mut c_void,
    *mut ibv_comp_channel,
    c_int,
) -> *mut ibv_cq;

functions! {
    get_device_list: unsafe extern "C" fn(*mut c_int) -> *mut *mut ibv_device
        = b"ibv_get_device_list\0",
    free_device_list: unsafe extern "C" fn(*mut *mut ibv_device) = b"ibv_free_device_list\0",
    get_device_name: unsafe extern "C" fn(*mut ibv_device) -> *const c_char
        = b"ibv_get_device_name\0",
    open_device: unsafe extern "C" fn(*mut ibv_device) -> *mut ibv_context = b"ibv_open_device\0",
    alloc_pd: unsafe extern "C" fn(*mut ibv_context) -> *mut ibv_pd = b"ibv_alloc_pd\0",
    reg_mr: unsafe extern "C" fn(*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr
        = b"ibv_reg_mr\0",
    create_cq: CreateCq = b"ibv_create_cq\0",
    create_qp: unsafe extern "C" fn(*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp
        = b"ibv_create_qp\0",
    qp_to_qp_ex: unsafe extern "C" fn(*mut ibv_qp) -> *mut ibv_qp_ex = b"ibv_qp_to_qp_ex\0",
    modify_qp: unsafe extern "C" fn(*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int
        = b"ibv_modify_qp\0",
    destroy_qp: unsafe extern "C" fn(*mut ibv_qp) -> c_int = b"ibv_destroy_qp\0",
    create_ah: unsafe extern "C" fn(*mut ibv_pd, *mut ibv_ah_attr) -> *mut ibv_ah
        = b"ibv_create_ah\0",
    destroy_ah: unsafe extern "C" fn(*mut ibv_ah) -> c_int = b"ibv_destroy_ah\0",
    query_gid: unsafe extern "C" fn(*mut ibv_context, u8, c_int, *mut ibv_gid) -> c_int
        = b"ibv_query_gid\0",
    wc_status_str: unsafe extern "C" fn(c_uint) -> *const c_char = b"ibv_wc_status_str\0",
}
