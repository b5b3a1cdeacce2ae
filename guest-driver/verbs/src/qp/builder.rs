//! The extended interface of queue pairs: work requests built call by call.
//!
//! `wr_start` takes the lock of sending. A call that names an operation begins a request, calls
//! that name data or a destination add to it, and the next one that begins or ends something
//! writes it into the ring. `wr_complete` then tells the device of all of them, or if one of them
//! was wrong of none; `wr_abort` takes all of them back.

use core::ffi::{c_int, c_void};

use vrnic_abi::admin::QpType;
use vrnic_abi::wqe::{FlushExtent, FlushPlacement, MAX_INLINE, MAX_SGE, WqeFlags};
use vrnic_driver::{Data, Operation, PostError, Remote, SendRequest, Sge, Target};
use vrnic_ibverbs::*;

use super::post::bytes;
use super::{Qp, Sender, request};
use crate::ffi::provider::*;
use crate::lock::Guard;

/// Where the data of the request is.
#[derive(Clone, Copy)]
enum Kind {
    /// In that many of the builder's segments.
    Sges(usize),
    /// In that many of the builder's bytes.
    Inline(usize),
}

/// A request that is being built.
pub(super) struct Builder {
    pub(super) qp_type: QpType,
    /// Requests of the queue pair are for its peer.
    pub(super) is_connected: bool,
    /// There is one.
    open: bool,
    /// Why the requests since `wr_start` cannot be posted, or 0.
    error: c_int,
    wr_id: u64,
    flags: WqeFlags,
    operation: Operation,
    target: Target,
    data: Kind,
    sges: [Sge; MAX_SGE],
    inline: [u8; MAX_INLINE],
}

impl Builder {
    pub(super) fn new(qp_type: QpType) -> Self {
        Self {
            qp_type,
            is_connected: matches!(qp_type, QpType::Rc | QpType::Uc),
            open: false,
            error: 0,
            wr_id: 0,
            flags: WqeFlags::empty(),
            operation: Operation::Nop,
            target: request::default_target(qp_type),
            data: Kind::Sges(0),
            sges: [Sge::default(); MAX_SGE],
            inline: [0; MAX_INLINE],
        }
    }

    /// Copies pieces of the application's memory one behind the other.
    ///
    /// # Safety
    /// They can be read.
    pub(super) unsafe fn gather(&mut self, sges: &[Sge]) -> Result<&[u8], PostError> {
        let mut length = 0;
        for sge in sges {
            // SAFETY: as the caller says.
            let piece = unsafe { bytes(sge.address as *const u8, sge.length as usize) };
            length = self.append(length, piece)?;
        }
        self.inline.get(..length).ok_or(PostError::TooLarge)
    }

    /// Copies `piece` behind the `length` bytes that are there, and returns how many there are then.
    #[inline]
    fn append(&mut self, length: usize, piece: &[u8]) -> Result<usize, PostError> {
        let place = self.inline.get_mut(length..);
        let place = place.and_then(|place| place.get_mut(..piece.len()));
        place.ok_or(PostError::TooLarge)?.copy_from_slice(piece);
        Ok(length + piece.len())
    }

    fn set_error(&mut self, error: PostError) {
        if self.error == 0 {
            self.error = request::errno(error);
        }
    }
}

impl Sender {
    /// Writes the request that is being built, if there is one.
    #[inline]
    fn flush(&mut self) {
        let builder = &mut self.builder;
        if !core::mem::take(&mut builder.open) {
            return;
        }
        let data = match builder.data {
            Kind::Sges(count) => builder.sges.get(..count).map(Data::Sges),
            Kind::Inline(length) => builder.inline.get(..length).map(Data::Inline),
        };
        let request = SendRequest {
            wr_id: builder.wr_id,
            operation: Operation::Nop,
            target: Target::Peer,
            data: data.unwrap_or_default(),
            flags: builder.flags,
        };
        let queue = &mut self.queue;
        // What most requests do has code of its own.
        let result = match builder.operation {
            operation @ Operation::Send if builder.is_connected => queue.write(&SendRequest {
                operation,
                ..request
            }),
            operation @ Operation::Write(_) if builder.is_connected => queue.write(&SendRequest {
                operation,
                ..request
            }),
            operation @ Operation::Read(_) if builder.is_connected => queue.write(&SendRequest {
                operation,
                ..request
            }),
            operation => queue.write(&SendRequest {
                operation,
                target: builder.target,
                ..request
            }),
        };
        if let Err(error) = result {
            builder.set_error(error);
        }
    }

    /// Begins a request.
    #[inline]
    fn begin(&mut self, wr_id: u64, flags: u32, operation: Operation) {
        self.flush();
        let builder = &mut self.builder;
        builder.open = true;
        builder.wr_id = wr_id;
        builder.flags = request::flags(flags);
        builder.operation = operation;
        builder.target = request::default_target(builder.qp_type);
        builder.data = Kind::Sges(0);
    }
}

/// Sets the functions.
pub(super) fn set_functions(qp: &mut verbs_qp) {
    qp.comp_mask |= QP_EX;
    let qp = &mut qp.qp_ex;
    qp.wr_atomic_cmp_swp = Some(wr_atomic_cmp_swp);
    qp.wr_atomic_fetch_add = Some(wr_atomic_fetch_add);
    qp.wr_bind_mw = Some(wr_bind_mw);
    qp.wr_local_inv = Some(wr_local_inv);
    qp.wr_rdma_read = Some(wr_rdma_read);
    qp.wr_rdma_write = Some(wr_rdma_write);
    qp.wr_rdma_write_imm = Some(wr_rdma_write_imm);
    qp.wr_send = Some(wr_send);
    qp.wr_send_imm = Some(wr_send_imm);
    qp.wr_send_inv = Some(wr_send_inv);
    qp.wr_set_ud_addr = Some(wr_set_ud_addr);
    qp.wr_set_xrc_srqn = Some(wr_set_xrc_srqn);
    qp.wr_set_inline_data = Some(wr_set_inline_data);
    qp.wr_set_inline_data_list = Some(wr_set_inline_data_list);
    qp.wr_set_sge = Some(wr_set_sge);
    qp.wr_set_sge_list = Some(wr_set_sge_list);
    qp.wr_start = Some(wr_start);
    qp.wr_complete = Some(wr_complete);
    qp.wr_abort = Some(wr_abort);
    qp.wr_atomic_write = Some(wr_atomic_write);
    qp.wr_flush = Some(wr_flush);
}

/// Hands the sender of `qp` to `f`; the lock stays with the thread.
///
/// # Safety
/// `qp` is alive and has these functions, and the thread is between `wr_start` and its end.
#[inline]
unsafe fn with(qp: *mut ibv_qp_ex, f: impl FnOnce(&mut Sender)) {
    // SAFETY: as the caller says.
    if let Some(queues) = unsafe { Qp::queues(qp.cast()) } {
        // SAFETY: kept by `wr_start`.
        let mut sender = unsafe { queues.send.kept() };
        f(&mut sender);
        sender.keep();
    }
}

/// Begins a request.
///
/// # Safety
/// As [`with`].
#[inline]
unsafe fn begin(qp: *mut ibv_qp_ex, operation: Operation) {
    // SAFETY: as the caller says.
    unsafe {
        let (wr_id, flags) = ((*qp).wr_id, (*qp).wr_flags);
        with(qp, |sender| sender.begin(wr_id, flags, operation));
    }
}

/// Ends the thread's use of the sender, after `f`.
///
/// # Safety
/// As [`with`].
#[inline]
unsafe fn end(qp: *mut ibv_qp_ex, f: impl FnOnce(&mut Guard<'_, Sender>) -> c_int) -> c_int {
    // SAFETY: as the caller says.
    match unsafe { Qp::queues(qp.cast()) } {
        // SAFETY: kept by `wr_start`.
        Some(queues) => f(&mut unsafe { queues.send.kept() }),
        None => libc::EINVAL,
    }
}

/// # Safety
/// `qp` is alive.
unsafe extern "C" fn wr_start(qp: *mut ibv_qp_ex) {
    // SAFETY: as the caller says.
    if let Some(queues) = unsafe { Qp::queues(qp.cast()) } {
        let mut sender = queues.send.lock();
        let ready = sender.queue.ready;
        sender.builder.error = if ready { 0 } else { libc::EINVAL };
        sender.builder.open = false;
        sender.keep();
    }
}

/// # Safety
/// As [`with`].
unsafe extern "C" fn wr_complete(qp: *mut ibv_qp_ex) -> c_int {
    let complete = |sender: &mut Guard<'_, Sender>| {
        sender.flush();
        if sender.builder.error == 0 {
            sender.queue.announce();
        } else {
            sender.queue.retract();
        }
        sender.builder.error
    };
    // SAFETY: as the caller says.
    unsafe { end(qp, complete) }
}

/// # Safety
/// As [`with`].
unsafe extern "C" fn wr_abort(qp: *mut ibv_qp_ex) {
    let abort = |sender: &mut Guard<'_, Sender>| {
        sender.queue.retract();
        0
    };
    // SAFETY: as the caller says.
    unsafe { end(qp, abort) };
}

/// Defines functions that begin a request.
macro_rules! operations {
    ($($name:ident($($argument:ident: $type:ty),*) $operation:expr;)*) => {
        $(
            /// # Safety
            /// As [`with`].
            unsafe extern "C" fn $name(qp: *mut ibv_qp_ex $(, $argument: $type)*) {
                // SAFETY: as the caller says.
                unsafe { begin(qp, $operation) };
            }
        )*
    };
}

operations! {
    wr_atomic_cmp_swp(rkey: u32, address: u64, compare: u64, swap: u64) Operation::CompareSwap {
        remote: Remote { address, rkey },
        compare,
        swap,
    };
    wr_atomic_fetch_add(rkey: u32, address: u64, add: u64) Operation::FetchAdd {
        remote: Remote { address, rkey },
        add,
    };
    wr_local_inv(key: u32) Operation::LocalInvalidate(key);
    wr_rdma_read(rkey: u32, address: u64) Operation::Read(Remote { address, rkey });
    wr_rdma_write(rkey: u32, address: u64) Operation::Write(Remote { address, rkey });
    wr_rdma_write_imm(rkey: u32, address: u64, immediate: u32)
        Operation::WriteImmediate(Remote { address, rkey }, u32::from_be(immediate));
    wr_send() Operation::Send;
    wr_send_imm(immediate: u32) Operation::SendImmediate(u32::from_be(immediate));
    wr_send_inv(key: u32) Operation::SendInvalidate(key);
}

/// # Safety
/// As [`with`]; what is named is alive.
unsafe extern "C" fn wr_bind_mw(
    qp: *mut ibv_qp_ex,
    mw: *mut ibv_mw,
    key: u32,
    info: *const ibv_mw_bind_info,
) {
    // SAFETY: as the caller says.
    match unsafe { request::bind(mw, key, &*info) } {
        // SAFETY: as the caller says.
        Some(operation) => unsafe { begin(qp, operation) },
        // SAFETY: as the caller says.
        None => unsafe {
            with(qp, |sender| {
                sender.builder.set_error(PostError::Unsupported)
            })
        },
    }
}

/// # Safety
/// As [`with`]; there are 8 bytes at `value`.
unsafe extern "C" fn wr_atomic_write(
    qp: *mut ibv_qp_ex,
    rkey: u32,
    address: u64,
    value: *const c_void,
) {
    // SAFETY: as the caller says.
    unsafe {
        let value = value.cast::<u64>().read_unaligned();
        let remote = Remote { address, rkey };
        begin(qp, Operation::AtomicWrite { remote, value });
    }
}

/// # Safety
/// As [`with`].
unsafe extern "C" fn wr_flush(
    qp: *mut ibv_qp_ex,
    rkey: u32,
    address: u64,
    length: usize,
    placement: u8,
    level: u8,
) {
    let parts = (
        u32::try_from(length).ok(),
        FlushPlacement::from_bits(placement),
        FlushExtent::from_raw(level),
    );
    let (Some(length), Some(placement), Some(extent)) = parts else {
        // SAFETY: as the caller says.
        return unsafe { with(qp, |sender| sender.builder.set_error(PostError::TooLarge)) };
    };
    let operation = Operation::Flush {
        remote: Remote { address, rkey },
        length,
        placement,
        extent,
    };
    // SAFETY: as the caller says.
    unsafe { begin(qp, operation) };
}

/// # Safety
/// As [`with`]; the handle is alive.
unsafe extern "C" fn wr_set_ud_addr(
    qp: *mut ibv_qp_ex,
    ah: *mut ibv_ah,
    remote_qpn: u32,
    qkey: u32,
) {
    // SAFETY: as the caller says.
    unsafe {
        let target = request::datagram(ah, remote_qpn, qkey);
        with(qp, |sender| sender.builder.target = target);
    }
}

/// # Safety
/// As [`with`].
unsafe extern "C" fn wr_set_xrc_srqn(qp: *mut ibv_qp_ex, number: u32) {
    let target = Target::SharedReceiveQueue(number);
    // SAFETY: as the caller says.
    unsafe { with(qp, |sender| sender.builder.target = target) };
}

/// # Safety
/// As [`with`].
unsafe extern "C" fn wr_set_sge(qp: *mut ibv_qp_ex, lkey: u32, address: u64, length: u32) {
    let set = |sender: &mut Sender| {
        let [first, ..] = &mut sender.builder.sges;
        *first = Sge {
            address,
            length,
            lkey,
        };
        sender.builder.data = Kind::Sges(1);
    };
    // SAFETY: as the caller says.
    unsafe { with(qp, set) };
}

/// # Safety
/// As [`with`]; the list is alive.
unsafe extern "C" fn wr_set_sge_list(qp: *mut ibv_qp_ex, count: usize, list: *const ibv_sge) {
    let set = |sender: &mut Sender| {
        let builder = &mut sender.builder;
        let Some(places) = builder.sges.get_mut(..count) else {
            return builder.set_error(PostError::TooLarge);
        };
        for (index, place) in places.iter_mut().enumerate() {
            // SAFETY: as the caller says.
            *place = unsafe { *list.add(index) };
        }
        builder.data = Kind::Sges(count);
    };
    // SAFETY: as the caller says.
    unsafe { with(qp, set) };
}

/// # Safety
/// As [`with`]; the bytes can be read.
unsafe extern "C" fn wr_set_inline_data(qp: *mut ibv_qp_ex, address: *mut c_void, length: usize) {
    let set = |sender: &mut Sender| {
        let builder = &mut sender.builder;
        // SAFETY: as the caller says.
        match builder.append(0, unsafe { bytes(address.cast(), length) }) {
            Ok(length) => builder.data = Kind::Inline(length),
            Err(error) => builder.set_error(error),
        }
    };
    // SAFETY: as the caller says.
    unsafe { with(qp, set) };
}

/// # Safety
/// As [`with`]; the list is alive and its bytes can be read.
unsafe extern "C" fn wr_set_inline_data_list(
    qp: *mut ibv_qp_ex,
    count: usize,
    list: *const ibv_data_buf,
) {
    let set = |sender: &mut Sender| {
        let builder = &mut sender.builder;
        let mut length = 0;
        for index in 0..count {
            // SAFETY: as the caller says.
            let piece = unsafe {
                let buffer = &*list.add(index);
                bytes(buffer.addr.cast(), buffer.length)
            };
            match builder.append(length, piece) {
                Ok(so_far) => length = so_far,
                Err(error) => return builder.set_error(error),
            }
        }
        builder.data = Kind::Inline(length);
    };
    // SAFETY: as the caller says.
    unsafe { with(qp, set) };
}
