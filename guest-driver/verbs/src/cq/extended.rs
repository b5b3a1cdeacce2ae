//! The extended interface of completion queues: one completion at a time, field by field.
//!
//! `start_poll` takes the queue's lock and `end_poll` gives it back; between them the application
//! reads fields of the current completion. Timestamps are nanoseconds of the device's clock. Their
//! translation into the time of day needs that clock now, which the device does not tell, so it is
//! not offered; nor are flow tags and tag matching.

use core::ffi::c_int;

use vrnic_driver::Completion;
use vrnic_ibverbs::*;

use super::{Cq, Wanted, create, wc};
use crate::{fail, memory};

/// Fields that completions have.
const FIELDS: u64 = wc_ex::BYTE_LEN
    | wc_ex::IMM
    | wc_ex::QP_NUM
    | wc_ex::SRC_QP
    | wc_ex::SLID
    | wc_ex::SL
    | wc_ex::DLID_PATH_BITS
    | wc_ex::COMPLETION_TIMESTAMP
    | wc_ex::CVLAN;

/// # Safety
/// The context is open; what the attributes name is alive, or null.
pub(crate) unsafe extern "C" fn create_cq_ex(
    context: *mut ibv_context,
    attributes: *mut ibv_cq_init_attr_ex,
) -> *mut ibv_cq_ex {
    // SAFETY: the caller's attributes are alive during the call.
    let attributes = unsafe { &*attributes };
    let mask = attributes.comp_mask;
    let has_flags = mask & cq_attr::MASK_FLAGS != 0;
    if mask & !(cq_attr::MASK_FLAGS | cq_attr::MASK_PD) != 0
        || (has_flags && attributes.flags & !cq_attr::SINGLE_THREADED != 0)
        || attributes.wc_flags & !FIELDS != 0
    {
        return fail(libc::EOPNOTSUPP);
    }
    let mut single = has_flags && attributes.flags & cq_attr::SINGLE_THREADED != 0;
    if mask & cq_attr::MASK_PD != 0 {
        // SAFETY: as the caller says.
        single |= unsafe { memory::is_single_threaded(attributes.parent_domain) };
    }
    let wanted = Wanted {
        entries: attributes.cqe,
        channel: attributes.channel,
        vector: attributes.comp_vector as c_int,
        single,
    };
    // SAFETY: as the caller says.
    match unsafe { create(context, &wanted) } {
        Ok(mut cq) => {
            set_functions(cq.ibv.get_mut());
            Box::into_raw(cq).cast()
        }
        Err(error) => fail(error),
    }
}

/// Sets the functions; a field that was not asked for can be read all the same.
fn set_functions(cq: &mut ibv_cq_ex) {
    cq.start_poll = Some(start_poll);
    cq.next_poll = Some(next_poll);
    cq.end_poll = Some(end_poll);
    cq.read_opcode = Some(read_opcode);
    cq.read_vendor_err = Some(read_vendor_err);
    cq.read_byte_len = Some(read_byte_len);
    cq.read_imm_data = Some(read_imm_data);
    cq.read_qp_num = Some(read_qp_num);
    cq.read_src_qp = Some(read_src_qp);
    cq.read_wc_flags = Some(read_wc_flags);
    cq.read_slid = Some(read_slid);
    cq.read_sl = Some(read_sl);
    cq.read_dlid_path_bits = Some(read_dlid_path_bits);
    cq.read_completion_ts = Some(read_completion_ts);
    cq.read_cvlan = Some(read_cvlan);
}

/// Makes `completion` the current one.
///
/// # Safety
/// `cq` is alive, and the caller has its lock.
#[inline]
unsafe fn set_current(cq: *mut ibv_cq_ex, own: &Cq, completion: Completion) {
    // SAFETY: as the caller says.
    unsafe {
        (*cq).wr_id = completion.wr_id;
        (*cq).status = wc::status(&completion);
        own.current.get().write(completion);
    }
}

/// The current completion.
///
/// # Safety
/// `cq` is alive, and the caller is between `start_poll` and `end_poll`.
#[inline]
unsafe fn current<'a>(cq: *mut ibv_cq_ex) -> &'a Completion {
    // SAFETY: as the caller says.
    unsafe { &*Cq::of(cq.cast()).current.get() }
}

/// # Safety
/// `cq` is alive.
unsafe extern "C" fn start_poll(cq: *mut ibv_cq_ex, attributes: *mut ibv_poll_cq_attr) -> c_int {
    // SAFETY: the caller's attributes are alive during the call.
    if unsafe { (*attributes).comp_mask } != 0 {
        return libc::EINVAL;
    }
    // SAFETY: as the caller says.
    let own = unsafe { Cq::of(cq.cast()) };
    let mut queue = own.queue.lock();
    let Some(completion) = queue.next() else {
        queue.publish();
        return libc::ENOENT;
    };
    // SAFETY: as the caller says, and the lock is held.
    unsafe { set_current(cq, own, completion) };
    queue.keep();
    0
}

/// # Safety
/// `cq` is alive, and the caller is between `start_poll` and `end_poll`.
unsafe extern "C" fn next_poll(cq: *mut ibv_cq_ex) -> c_int {
    // SAFETY: as the caller says.
    let own = unsafe { Cq::of(cq.cast()) };
    // SAFETY: kept by `start_poll`.
    let mut queue = unsafe { own.queue.kept() };
    let next = queue.next();
    queue.keep();
    match next {
        Some(completion) => {
            // SAFETY: as the caller says, and the lock is held.
            unsafe { set_current(cq, own, completion) };
            0
        }
        None => libc::ENOENT,
    }
}

/// # Safety
/// `cq` is alive, and `start_poll` has succeeded.
unsafe extern "C" fn end_poll(cq: *mut ibv_cq_ex) {
    // SAFETY: as the caller says.
    let own = unsafe { Cq::of(cq.cast()) };
    // SAFETY: kept by `start_poll`.
    unsafe { own.queue.kept() }.publish();
}

/// Defines functions that read a field of the current completion.
macro_rules! read {
    ($($name:ident: $type:ty = $field:expr;)*) => {
        $(
            /// # Safety
            /// `cq` is alive, and the caller is between `start_poll` and `end_poll`.
            unsafe extern "C" fn $name(cq: *mut ibv_cq_ex) -> $type {
                // SAFETY: as the caller says.
                let completion = unsafe { current(cq) };
                let read: fn(&Completion) -> $type = $field;
                read(completion)
            }
        )*
    };
}

read! {
    read_opcode: u32 = wc::opcode;
    read_vendor_err: u32 = |completion| completion.syndrome;
    read_byte_len: u32 = |completion| completion.byte_length;
    read_imm_data: u32 = wc::immediate;
    read_qp_num: u32 = |completion| completion.qpn;
    read_src_qp: u32 = |completion| completion.source_qpn;
    read_wc_flags: u32 = wc::flags;
    read_slid: u32 = |_| 0;
    read_sl: u8 = wc::service_level;
    read_dlid_path_bits: u8 = |_| 0;
    read_completion_ts: u64 = |completion| completion.timestamp;
    read_cvlan: u16 = |completion| completion.vlan_tag;
}
