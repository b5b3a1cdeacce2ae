//! Posting lists of work requests.

use core::ffi::c_int;

use vrnic_driver::{Data, Operation, PostError, SendRequest, Sge, Target};
use vrnic_ibverbs::*;

use super::request;
use super::{Qp, Sender};

/// A list of the application's.
///
/// # Safety
/// `list` has `count` elements, for as long as the answer is used.
#[inline]
unsafe fn list<'a, T>(list: *const T, count: c_int) -> Result<&'a [T], PostError> {
    match usize::try_from(count) {
        Ok(0) => Ok(&[]),
        // SAFETY: as the caller says.
        Ok(count) if !list.is_null() => Ok(unsafe { core::slice::from_raw_parts(list, count) }),
        _ => Err(PostError::TooLarge),
    }
}

/// Bytes of the application's, at an address that is local memory.
///
/// # Safety
/// They can be read, for as long as the answer is used.
#[inline]
pub(super) unsafe fn bytes<'a>(address: *const u8, length: usize) -> &'a [u8] {
    if length == 0 || address.is_null() {
        return &[];
    }
    // SAFETY: as the caller says.
    unsafe { core::slice::from_raw_parts(address, length) }
}

impl Sender {
    /// Writes one request.
    ///
    /// # Safety
    /// What it names is alive.
    #[inline]
    unsafe fn write(&mut self, request: &ibv_send_wr) -> Result<(), PostError> {
        // SAFETY: as the caller says.
        unsafe {
            if self.builder.is_connected {
                // What most requests do has code of its own.
                match request.opcode {
                    wr_opcode::SEND => {
                        return self.put(request, Operation::Send, Target::Peer);
                    }
                    wr_opcode::RDMA_WRITE => {
                        let remote = request::remote(request);
                        return self.put(request, Operation::Write(remote), Target::Peer);
                    }
                    wr_opcode::RDMA_READ => {
                        let remote = request::remote(request);
                        return self.put(request, Operation::Read(remote), Target::Peer);
                    }
                    _ => {}
                }
            }
            self.write_any(request)
        }
    }

    /// Writes one request of any kind.
    ///
    /// # Safety
    /// What it names is alive.
    #[inline(never)]
    unsafe fn write_any(&mut self, request: &ibv_send_wr) -> Result<(), PostError> {
        // SAFETY: as the caller says.
        unsafe {
            let operation = request::operation(request).ok_or(PostError::Unsupported)?;
            let target = request::target(self.builder.qp_type, request);
            self.put(request, operation, target)
        }
    }

    /// Writes a request that does `operation`.
    ///
    /// # Safety
    /// What it names is alive.
    #[inline(always)]
    unsafe fn put(
        &mut self,
        request: &ibv_send_wr,
        operation: Operation,
        target: Target,
    ) -> Result<(), PostError> {
        // SAFETY: as the caller says.
        let sges = unsafe { list(request.sg_list, request.num_sge) }?;
        let data = if request::is_without_data(&operation) {
            Data::default()
        } else if request.send_flags & send_flag::INLINE != 0 && !sges.is_empty() {
            // SAFETY: as the caller says.
            Data::Inline(unsafe {
                match *sges {
                    [one] => bytes(one.address as *const u8, one.length as usize),
                    _ => self.builder.gather(sges)?,
                }
            })
        } else {
            Data::Sges(sges)
        };
        self.queue.write(&SendRequest {
            wr_id: request.wr_id,
            operation,
            target,
            data,
            flags: request::flags(request.send_flags),
        })
    }
}

/// # Safety
/// `qp` is alive, and so is all that the list of requests names; `bad` can be written.
pub(crate) unsafe extern "C" fn post_send(
    qp: *mut ibv_qp,
    requests: *mut ibv_send_wr,
    bad: *mut *mut ibv_send_wr,
) -> c_int {
    // SAFETY: as the caller says.
    let Some(queues) = (unsafe { Qp::queues(qp) }) else {
        // SAFETY: as the caller says.
        unsafe { *bad = requests };
        return libc::EINVAL;
    };
    let mut sender = queues.send.lock();
    if !sender.queue.ready {
        // SAFETY: as the caller says.
        unsafe { *bad = requests };
        return libc::EINVAL;
    }
    let mut next = requests;
    let mut error = 0;
    // SAFETY: as the caller says.
    while let Some(request) = unsafe { next.as_ref() } {
        // SAFETY: as the caller says.
        if let Err(reason) = unsafe { sender.write(request) } {
            // SAFETY: as the caller says.
            unsafe { *bad = next };
            error = request::errno(reason);
            break;
        }
        next = request.next;
    }
    sender.queue.announce();
    error
}

/// Hands receive requests to `write`, one by one.
///
/// # Safety
/// The list of requests is alive; `bad` can be written.
#[inline]
pub(crate) unsafe fn post_receives(
    requests: *mut ibv_recv_wr,
    bad: *mut *mut ibv_recv_wr,
    mut write: impl FnMut(u64, &[Sge]) -> Result<(), PostError>,
) -> c_int {
    let mut next = requests;
    // SAFETY: as the caller says.
    while let Some(request) = unsafe { next.as_ref() } {
        // SAFETY: as the caller says.
        let sges = unsafe { list(request.sg_list, request.num_sge) };
        if let Err(reason) = sges.and_then(|sges| write(request.wr_id, sges)) {
            // SAFETY: as the caller says.
            unsafe { *bad = next };
            return request::errno(reason);
        }
        next = request.next;
    }
    0
}

/// # Safety
/// `qp` and the list of requests are alive; `bad` can be written.
pub(crate) unsafe extern "C" fn post_recv(
    qp: *mut ibv_qp,
    requests: *mut ibv_recv_wr,
    bad: *mut *mut ibv_recv_wr,
) -> c_int {
    // SAFETY: as the caller says.
    let queues = unsafe { Qp::queues(qp) };
    let Some(receive) = queues.and_then(|queues| queues.receive.as_ref()) else {
        // SAFETY: as the caller says.
        unsafe { *bad = requests };
        return libc::EINVAL;
    };
    let mut queue = receive.lock();
    if !queue.ready {
        // SAFETY: as the caller says.
        unsafe { *bad = requests };
        return libc::EINVAL;
    }
    // SAFETY: as the caller says.
    let error = unsafe { post_receives(requests, bad, |wr_id, sges| queue.write(wr_id, sges)) };
    queue.announce();
    error
}

/// Binds a memory window of type 1, which has a new key then: the next one, as is usual.
///
/// # Safety
/// All that is named is alive.
pub(crate) unsafe extern "C" fn bind_mw(
    qp: *mut ibv_qp,
    mw: *mut ibv_mw,
    asked: *mut ibv_mw_bind,
) -> c_int {
    // SAFETY: as the caller says.
    let (queues, asked, old) = unsafe { (Qp::queues(qp), &*asked, (*mw).rkey) };
    let key = old & !0xff | old.wrapping_add(1) & 0xff;
    // SAFETY: as the caller says.
    let operation = unsafe { request::bind(mw, key, &asked.bind_info) };
    let (Some(queues), Some(operation @ Operation::BindWindow(_))) = (queues, operation) else {
        return libc::EINVAL;
    };
    let mut sender = queues.send.lock();
    if !sender.queue.ready {
        return libc::EINVAL;
    }
    let request = SendRequest {
        wr_id: asked.wr_id,
        operation,
        target: request::default_target(sender.builder.qp_type),
        data: Data::default(),
        flags: request::flags(asked.send_flags),
    };
    if let Err(reason) = sender.queue.write(&request) {
        return request::errno(reason);
    }
    sender.queue.announce();
    // SAFETY: as the caller says.
    unsafe { (*mw).rkey = key };
    0
}
