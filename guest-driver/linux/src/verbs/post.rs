//! Posting by the kernel itself. Atomic context.

use core::ffi::c_int;
use core::ptr::NonNull;

use vrnic_driver::abi::wqe::{MAX_INLINE, MAX_SGE, WqeFlags};
use vrnic_driver::{
    Data, Datagram, DatagramPath, Operation, PostError, ReceiveRequest, Remote, SendQueue,
    SendRequest, Sge, Target,
};

use super::access;
use super::ah::AhObject;
use super::mr;
use super::qp::QpObject;
use super::srq::SrqObject;
use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::{EINVAL, ENOMEM};
use crate::platform::Kernel;

/// The data segments of a request, copied.
struct Sges {
    sges: [Sge; MAX_SGE],
    count: usize,
}

impl Sges {
    /// # Safety
    /// `list` has `count` entries.
    unsafe fn new(list: *const bindings::ib_sge, count: c_int) -> Result<Self, Errno> {
        let count = usize::try_from(count).map_err(|_| EINVAL)?;
        let mut sges = [Sge::default(); MAX_SGE];
        for (index, sge) in sges.get_mut(..count).ok_or(EINVAL)?.iter_mut().enumerate() {
            // SAFETY: by the contract of this function.
            let from = unsafe { &*list.add(index) };
            *sge = Sge {
                address: from.addr,
                length: from.length,
                lkey: from.lkey,
            };
        }
        Ok(Self { sges, count })
    }

    fn as_slice(&self) -> &[Sge] {
        self.sges.get(..self.count).unwrap_or(&[])
    }

    /// Copies the data, whose addresses are the kernel's own.
    ///
    /// # Safety
    /// The addresses are valid.
    unsafe fn gather<'a>(&self, room: &'a mut [u8; MAX_INLINE]) -> Result<&'a [u8], Errno> {
        let mut length = 0usize;
        for sge in self.as_slice() {
            let end = length + sge.length as usize;
            let to = room.get_mut(length..end).ok_or(EINVAL)?;
            // SAFETY: by the contract of this function.
            unsafe { (sge.address as *const u8).copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
            length = end;
        }
        room.get(..length).ok_or(EINVAL)
    }
}

/// A request of the kernel's.
///
/// # Safety of all methods
/// It is one that the core has handed to an operation, of the kind that its opcode says.
struct Request<'a>(&'a bindings::ib_send_wr);

impl Request<'_> {
    fn cast<T>(&self) -> &T {
        // SAFETY: by the contract of the type: the request is the first member of one.
        unsafe { &*core::ptr::from_ref(self.0).cast::<T>() }
    }

    fn wr_id(&self) -> u64 {
        // SAFETY: both members of the union are 8 bytes of any value.
        unsafe { self.0.__bindgen_anon_1.wr_id }
    }

    fn immediate(&self) -> u32 {
        // SAFETY: by opcode; the members are 4 bytes of any value.
        u32::from_be(unsafe { self.0.ex.imm_data })
    }

    fn key(&self) -> u32 {
        // SAFETY: as above.
        unsafe { self.0.ex.invalidate_rkey }
    }

    fn remote(&self) -> Remote {
        let rdma: &bindings::ib_rdma_wr = self.cast();
        Remote {
            address: rdma.remote_addr,
            rkey: rdma.rkey,
        }
    }

    fn flags(&self) -> WqeFlags {
        let given = self.0.send_flags;
        let mut flags = WqeFlags::empty();
        flags.set(WqeFlags::SIGNALED, given & bindings::IB_SEND_SIGNALED != 0);
        flags.set(
            WqeFlags::SOLICITED,
            given & bindings::IB_SEND_SOLICITED != 0,
        );
        flags.set(WqeFlags::FENCE, given & bindings::IB_SEND_FENCE != 0);
        flags
    }

    fn operation(&self) -> Result<Operation, Errno> {
        Ok(match self.0.opcode {
            bindings::IB_WR_SEND => Operation::Send,
            bindings::IB_WR_SEND_WITH_IMM => Operation::SendImmediate(self.immediate()),
            bindings::IB_WR_SEND_WITH_INV => Operation::SendInvalidate(self.key()),
            bindings::IB_WR_RDMA_WRITE => Operation::Write(self.remote()),
            bindings::IB_WR_RDMA_WRITE_WITH_IMM => {
                Operation::WriteImmediate(self.remote(), self.immediate())
            }
            bindings::IB_WR_RDMA_READ => Operation::Read(self.remote()),
            bindings::IB_WR_LOCAL_INV => Operation::LocalInvalidate(self.key()),
            bindings::IB_WR_ATOMIC_CMP_AND_SWP | bindings::IB_WR_ATOMIC_FETCH_AND_ADD => {
                self.atomic()
            }
            _ => return Err(EINVAL),
        })
    }

    fn atomic(&self) -> Operation {
        let atomic: &bindings::ib_atomic_wr = self.cast();
        let remote = Remote {
            address: atomic.remote_addr,
            rkey: atomic.rkey,
        };
        if self.0.opcode == bindings::IB_WR_ATOMIC_CMP_AND_SWP {
            Operation::CompareSwap {
                remote,
                compare: atomic.compare_add,
                swap: atomic.swap,
            }
        } else {
            Operation::FetchAdd {
                remote,
                add: atomic.compare_add,
            }
        }
    }

    /// Where a datagram goes.
    fn datagram(&self) -> Result<Target, Errno> {
        let datagram: &bindings::ib_ud_wr = self.cast();
        // SAFETY: the core's users keep the handle while the request is being posted.
        let ah = unsafe { AhObject::of(datagram.ah)? };
        Ok(Target::Datagram(Datagram {
            remote_qpn: datagram.remote_qpn,
            qkey: datagram.remote_qkey,
            path: DatagramPath::Vector(ah.vector()),
        }))
    }

    /// Posts the request; the device is told later.
    fn post(&self, queue: &mut SendQueue<Kernel>, datagrams: bool) -> Result<(), Errno> {
        if self.0.opcode == bindings::IB_WR_REG_MR {
            return self.post_registration(queue);
        }
        // SAFETY: by the contract of the type.
        let sges = unsafe { Sges::new(self.0.sg_list, self.0.num_sge)? };
        if self.0.send_flags & bindings::IB_SEND_INLINE != 0 {
            return self.post_inline(queue, datagrams, &sges);
        }
        self.stage(queue, datagrams, Data::Sges(sges.as_slice()))
    }

    /// Posts it with its data inline. In a frame of its own: only such requests need room for data.
    #[inline(never)]
    fn post_inline(
        &self,
        queue: &mut SendQueue<Kernel>,
        datagrams: bool,
        sges: &Sges,
    ) -> Result<(), Errno> {
        let mut room = [0; MAX_INLINE];
        // SAFETY: the addresses of inline data are those of the kernel.
        let data = Data::Inline(unsafe { sges.gather(&mut room)? });
        self.stage(queue, datagrams, data)
    }

    /// Puts it into the queue with its data.
    fn stage(
        &self,
        queue: &mut SendQueue<Kernel>,
        datagrams: bool,
        data: Data<'_>,
    ) -> Result<(), Errno> {
        let operation = self.operation()?;
        let target = if datagrams {
            self.datagram()?
        } else {
            Target::Peer
        };
        let request = SendRequest {
            wr_id: self.wr_id(),
            operation,
            target,
            data,
            flags: self.flags(),
        };
        queue.stage(&request).map_err(errno)
    }

    fn post_registration(&self, queue: &mut SendQueue<Kernel>) -> Result<(), Errno> {
        let registration: &bindings::ib_reg_wr = self.cast();
        // SAFETY: the core's users keep the region while it is registered.
        let region = unsafe { mr::FastMr::of(registration.mr)? };
        let access = access::from_kernel(registration.access as u32)?;
        region
            .stage(queue, self.wr_id(), registration.key, access, self.flags())
            .map_err(errno)
    }
}

fn errno(error: PostError) -> Errno {
    match error {
        // What the kernel's users look for.
        PostError::QueueFull => ENOMEM,
        error => error.into(),
    }
}

/// # Safety
/// A user of the kernel calls it, in any context, for a queue pair that is not destroyed meanwhile.
/// The requests are a list, each of the kind that its operation says; `bad` is a place or null.
unsafe extern "C" fn post_send(
    ibqp: *mut bindings::ib_qp,
    first: *const bindings::ib_send_wr,
    bad: *mut *const bindings::ib_send_wr,
) -> c_int {
    // SAFETY: by the contract of this function.
    let qp = match unsafe { QpObject::of(ibqp) } {
        Ok(qp) => qp,
        Err(errno) => return errno.get(),
    };
    let mut next = first;
    let result = qp.with_send_queue(|queue, datagrams| {
        let mut result = Ok(());
        // SAFETY: a list of requests, which its last one ends.
        while let Some(request) = unsafe { next.as_ref() } {
            result = Request(request).post(queue, datagrams);
            if result.is_err() {
                break;
            }
            next = request.next;
        }
        if !core::ptr::eq(next, first) {
            queue.ring();
        }
        result
    });
    finish(result, next, bad)
}

/// What an operation that posts returns; the first request that was not posted goes to `bad`.
fn finish<T>(
    result: Result<Result<(), Errno>, Errno>,
    next: *const T,
    bad: *mut *const T,
) -> c_int {
    let result = result.and_then(|result| result);
    if let (Err(_), Some(bad)) = (result, NonNull::new(bad)) {
        // SAFETY: the core's argument, for this.
        unsafe { bad.write(next) };
    }
    Errno::of(result)
}

/// Posts receive requests one by one with `post`; returns the first that was not posted.
///
/// # Safety
/// `next` begins a list of requests.
unsafe fn post_receives(
    next: &mut *const bindings::ib_recv_wr,
    mut post: impl FnMut(&ReceiveRequest<'_>) -> Result<(), PostError>,
) -> Result<(), Errno> {
    // SAFETY: by the contract of this function.
    while let Some(request) = unsafe { next.as_ref() } {
        // SAFETY: as above.
        let sges = unsafe { Sges::new(request.sg_list, request.num_sge)? };
        let receive = ReceiveRequest {
            // SAFETY: both members of the union are 8 bytes of any value.
            wr_id: unsafe { request.__bindgen_anon_1.wr_id },
            sges: sges.as_slice(),
        };
        post(&receive).map_err(errno)?;
        *next = request.next;
    }
    Ok(())
}

/// # Safety
/// A user of the kernel calls it, in any context, for a queue pair that is not destroyed meanwhile;
/// the requests are a list, `bad` is a place or null.
unsafe extern "C" fn post_recv(
    ibqp: *mut bindings::ib_qp,
    first: *const bindings::ib_recv_wr,
    bad: *mut *const bindings::ib_recv_wr,
) -> c_int {
    // SAFETY: by the contract of this function.
    let qp = match unsafe { QpObject::of(ibqp) } {
        Ok(qp) => qp,
        Err(errno) => return errno.get(),
    };
    let mut next = first;
    let result = qp.with_receive_queue(|queue| {
        // SAFETY: by the contract of this function.
        unsafe { post_receives(&mut next, |request| queue.post(request)) }
    });
    finish(result, next, bad)
}

/// # Safety
/// As for [`post_recv`], for a shared receive queue.
unsafe extern "C" fn post_srq_recv(
    ibsrq: *mut bindings::ib_srq,
    first: *const bindings::ib_recv_wr,
    bad: *mut *const bindings::ib_recv_wr,
) -> c_int {
    // SAFETY: by the contract of this function.
    let srq = match unsafe { SrqObject::of(ibsrq) } {
        Ok(srq) => srq,
        Err(errno) => return errno.get(),
    };
    let mut next = first;
    let result = srq.with_queue(|queue| {
        // SAFETY: by the contract of this function.
        unsafe { post_receives(&mut next, |request| queue.post(request)) }
    });
    finish(result, next, bad)
}

/// Adds the operations to the table.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.post_send = Some(post_send);
    ops.post_recv = Some(post_recv);
    ops.post_srq_recv = Some(post_srq_recv);
}
