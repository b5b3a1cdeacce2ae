//! The distribution's verbs library, loaded when it is used: this program is built on machines that
//! need not have it.

use libloading::Library;

use anyhow::{Context, Result};

use super::ffi;

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

functions! {
    get_device_list: ffi::GetDeviceList = b"ibv_get_device_list\0",
    free_device_list: ffi::FreeDeviceList = b"ibv_free_device_list\0",
    get_device_name: ffi::GetDeviceName = b"ibv_get_device_name\0",
    open_device: ffi::OpenDevice = b"ibv_open_device\0",
    alloc_pd: ffi::AllocPd = b"ibv_alloc_pd\0",
    reg_mr: ffi::RegMr = b"ibv_reg_mr\0",
    create_cq: ffi::CreateCq = b"ibv_create_cq\0",
    create_qp: ffi::CreateQp = b"ibv_create_qp\0",
    qp_to_qp_ex: ffi::QpToQpEx = b"ibv_qp_to_qp_ex\0",
    modify_qp: ffi::ModifyQp = b"ibv_modify_qp\0",
    destroy_qp: ffi::DestroyQp = b"ibv_destroy_qp\0",
    create_ah: ffi::CreateAh = b"ibv_create_ah\0",
    destroy_ah: ffi::DestroyAh = b"ibv_destroy_ah\0",
    query_gid: ffi::QueryGid = b"ibv_query_gid\0",
    wc_status_str: ffi::WcStatusStr = b"ibv_wc_status_str\0",
}
