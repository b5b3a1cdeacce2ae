//! The functions of `libibverbs` that providers call.
//!
//! They belong to a private interface whose structures change from version to version, and with
//! them the version of the symbols. The provider is not linked against `libibverbs`: it looks for
//! the functions in the library that has loaded it, at the version that it was written for, and
//! refuses another one with a line that says so.

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ffi::CString;

use vrnic_ibverbs::*;

use crate::ffi::provider::*;

/// Declares [`Library`] and how it is found.
macro_rules! library {
    ($($(#[$doc:meta])* $name:ident $symbol:literal: fn($($argument:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        /// The functions, by what they do.
        pub(crate) struct Library {
            $($(#[$doc])* pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Library {
            /// Asks `find` for each symbol; fails with the name of the first that is not there.
            ///
            /// # Safety
            /// `find` returns functions that have the type of those of rdma-core 56.
            unsafe fn find(
                mut find: impl FnMut(&'static CStr) -> Option<*mut c_void>,
            ) -> Result<Self, &'static CStr> {
                Ok(Self {
                    $($name: {
                        let address = find($symbol).ok_or($symbol)?;
                        // SAFETY: the caller vouches for the type.
                        unsafe {
                            core::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($argument),*) $(-> $result)?,
                            >(address)
                        }
                    },)*
                })
            }
        }
    };
}

library! {
    /// Makes the provider known.
    register_driver c"verbs_register_driver_34": fn(*const verbs_device_ops);
    /// Allocates a context of a size; the last argument is a driver's number, 0 for none.
    init_and_alloc_context c"_verbs_init_and_alloc_context":
        fn(*mut ibv_device, c_int, usize, *mut verbs_context, u32) -> *mut c_void;
    /// Undoes what initialization did, but for the memory.
    uninit_context c"verbs_uninit_context": fn(*mut verbs_context);
    /// Gives a context its functions.
    set_ops c"verbs_set_ops": fn(*mut verbs_context, *const verbs_context_ops);
    get_context c"ibv_cmd_get_context":
        fn(*mut verbs_context, *mut c_void, usize, *mut c_void, usize) -> c_int;
    query_device c"ibv_cmd_query_device_any": fn(
        *mut ibv_context, *const ibv_query_device_ex_input, *mut ibv_device_attr_ex, usize,
        *mut c_void, *mut usize,
    ) -> c_int;
    query_port c"ibv_cmd_query_port":
        fn(*mut ibv_context, u8, *mut ibv_port_attr, *mut c_void, usize) -> c_int;
    alloc_pd c"ibv_cmd_alloc_pd":
        fn(*mut ibv_context, *mut ibv_pd, *mut c_void, usize, *mut c_void, usize) -> c_int;
    dealloc_pd c"ibv_cmd_dealloc_pd": fn(*mut ibv_pd) -> c_int;
    open_xrcd c"ibv_cmd_open_xrcd": fn(
        *mut ibv_context, *mut verbs_xrcd, c_int, *mut ibv_xrcd_init_attr, *mut c_void, usize,
        *mut c_void, usize,
    ) -> c_int;
    close_xrcd c"ibv_cmd_close_xrcd": fn(*mut verbs_xrcd) -> c_int;
    reg_mr c"ibv_cmd_reg_mr": fn(
        *mut ibv_pd, *mut c_void, usize, u64, c_int, *mut verbs_mr, *mut c_void, usize,
        *mut c_void, usize,
    ) -> c_int;
    rereg_mr c"ibv_cmd_rereg_mr": fn(
        *mut verbs_mr, u32, *mut c_void, usize, u64, c_int, *mut ibv_pd, *mut c_void, usize,
        *mut c_void, usize,
    ) -> c_int;
    dereg_mr c"ibv_cmd_dereg_mr": fn(*mut verbs_mr) -> c_int;
    alloc_mw c"ibv_cmd_alloc_mw": fn(
        *mut ibv_pd, c_uint, *mut ibv_mw, *mut c_void, usize, *mut c_void, usize,
    ) -> c_int;
    dealloc_mw c"ibv_cmd_dealloc_mw": fn(*mut ibv_mw) -> c_int;
    create_cq c"ibv_cmd_create_cq": fn(
        *mut ibv_context, c_int, *mut ibv_comp_channel, c_int, *mut ibv_cq, *mut c_void, usize,
        *mut c_void, usize,
    ) -> c_int;
    resize_cq c"ibv_cmd_resize_cq":
        fn(*mut ibv_cq, c_int, *mut c_void, usize, *mut c_void, usize) -> c_int;
    modify_cq c"ibv_cmd_modify_cq":
        fn(*mut ibv_cq, *mut ibv_modify_cq_attr, *mut c_void, usize) -> c_int;
    destroy_cq c"ibv_cmd_destroy_cq": fn(*mut ibv_cq) -> c_int;
    create_srq c"ibv_cmd_create_srq": fn(
        *mut ibv_pd, *mut ibv_srq, *mut ibv_srq_init_attr, *mut c_void, usize, *mut c_void, usize,
    ) -> c_int;
    create_srq_ex c"ibv_cmd_create_srq_ex": fn(
        *mut ibv_context, *mut verbs_srq, *mut ibv_srq_init_attr_ex, *mut c_void, usize,
        *mut c_void, usize,
    ) -> c_int;
    modify_srq c"ibv_cmd_modify_srq":
        fn(*mut ibv_srq, *mut ibv_srq_attr, c_int, *mut c_void, usize) -> c_int;
    query_srq c"ibv_cmd_query_srq":
        fn(*mut ibv_srq, *mut ibv_srq_attr, *mut c_void, usize) -> c_int;
    destroy_srq c"ibv_cmd_destroy_srq": fn(*mut ibv_srq) -> c_int;
    create_qp c"ibv_cmd_create_qp_ex": fn(
        *mut ibv_context, *mut verbs_qp, *mut ibv_qp_init_attr_ex, *mut c_void, usize,
        *mut c_void, usize,
    ) -> c_int;
    /// The same with flags.
    create_qp_ex c"ibv_cmd_create_qp_ex2": fn(
        *mut ibv_context, *mut verbs_qp, *mut ibv_qp_init_attr_ex, *mut c_void, usize,
        *mut c_void, usize,
    ) -> c_int;
    open_qp c"ibv_cmd_open_qp": fn(
        *mut ibv_context, *mut verbs_qp, c_int, *mut ibv_qp_open_attr, *mut c_void, usize,
        *mut c_void, usize,
    ) -> c_int;
    query_qp c"ibv_cmd_query_qp": fn(
        *mut ibv_qp, *mut ibv_qp_attr, c_int, *mut ibv_qp_init_attr, *mut c_void, usize,
    ) -> c_int;
    modify_qp c"ibv_cmd_modify_qp":
        fn(*mut ibv_qp, *mut ibv_qp_attr, c_int, *mut c_void, usize) -> c_int;
    /// The same with a limit of the rate.
    modify_qp_ex c"ibv_cmd_modify_qp_ex": fn(
        *mut ibv_qp, *mut ibv_qp_attr, c_int, *mut c_void, usize, *mut c_void, usize,
    ) -> c_int;
    destroy_qp c"ibv_cmd_destroy_qp": fn(*mut ibv_qp) -> c_int;
    create_ah c"ibv_cmd_create_ah":
        fn(*mut ibv_pd, *mut ibv_ah, *mut ibv_ah_attr, *mut c_void, usize) -> c_int;
    destroy_ah c"ibv_cmd_destroy_ah": fn(*mut ibv_ah) -> c_int;
    attach_mcast c"ibv_cmd_attach_mcast": fn(*mut ibv_qp, *const ibv_gid, u16) -> c_int;
    detach_mcast c"ibv_cmd_detach_mcast": fn(*mut ibv_qp, *const ibv_gid, u16) -> c_int;
    create_flow c"ibv_cmd_create_flow":
        fn(*mut ibv_qp, *mut ibv_flow, *mut ibv_flow_attr, *mut c_void, usize) -> c_int;
    destroy_flow c"ibv_cmd_destroy_flow": fn(*mut ibv_flow) -> c_int;
    /// Keeps pages out of children, if the application has asked for that.
    dontfork_range c"ibv_dontfork_range": fn(*mut c_void, usize) -> c_int;
    dofork_range c"ibv_dofork_range": fn(*mut c_void, usize) -> c_int;
}

/// Why there is no library.
pub(crate) enum Missing {
    /// No `libibverbs` is in the process, so that nobody asks for a provider.
    Library,
    /// The library that is there does not fit.
    Symbol {
        /// What it lacks.
        symbol: &'static CStr,
        /// Which one it is.
        file: String,
    },
}

/// Name by which programs are linked against the library.
const NAME: &CStr = c"libibverbs.so.1";
/// A function that every version has.
const LANDMARK: &CStr = c"ibv_get_device_list";

impl Library {
    /// The library that is in this process.
    pub(crate) fn of_process() -> Result<Self, Missing> {
        // SAFETY: a string; the library is only found, not loaded.
        let handle = unsafe { libc::dlopen(NAME.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if handle.is_null() {
            return Err(Missing::Library);
        }
        let version = CString::new(INTERFACE).unwrap_or_default();
        let find = |symbol: &'static CStr| {
            // SAFETY: a handle and two strings.
            let private = unsafe { libc::dlvsym(handle, symbol.as_ptr(), version.as_ptr()) };
            let address = if private.is_null() && is_public(symbol) {
                // SAFETY: a handle and a string.
                unsafe { libc::dlsym(handle, symbol.as_ptr()) }
            } else {
                private
            };
            (!address.is_null()).then_some(address)
        };
        // SAFETY: the version of the private symbols stands for the types of all of them, the
        // public ones have had theirs from their beginning.
        unsafe { Self::find(find) }.map_err(|symbol| Missing::Symbol {
            symbol,
            file: file(handle),
        })
    }
}

/// Whether applications can call the function too, so that its type never changes.
fn is_public(symbol: &CStr) -> bool {
    [c"ibv_dontfork_range", c"ibv_dofork_range"].contains(&symbol)
}

/// The library's file, whose name ends in its version.
fn file(handle: *mut c_void) -> String {
    let mut info = libc::Dl_info {
        dli_fname: core::ptr::null::<c_char>(),
        dli_fbase: core::ptr::null_mut(),
        dli_sname: core::ptr::null(),
        dli_saddr: core::ptr::null_mut(),
    };
    // SAFETY: a handle and a string.
    let address = unsafe { libc::dlsym(handle, LANDMARK.as_ptr()) };
    // SAFETY: any address may be asked for; the name that is found is a string of the loader's.
    let name = unsafe {
        if libc::dladdr(address, &raw mut info) == 0 || info.dli_fname.is_null() {
            return String::from("libibverbs");
        }
        CStr::from_ptr(info.dli_fname)
    };
    let name = name.to_string_lossy().into_owned();
    match std::fs::canonicalize(&name) {
        Ok(path) => path.display().to_string(),
        Err(_) => name,
    }
}
