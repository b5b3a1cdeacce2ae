//! Creating queue pairs.

use core::ffi::c_int;
use std::sync::Arc;

use vrnic_abi::admin::QpType;
use vrnic_abi::verbs::{CreateQpRequest, QpAnswer};
use vrnic_abi::wqe::WqeOpcode;
use vrnic_driver::QpConfig;
use vrnic_driver::queues::{DescriptorLimits, Service, Shape};
use vrnic_ibverbs::*;

use crate::buffer::Buffer;
use crate::context::{Context, Limits, Own};
use crate::ffi::command::{Answer, Request, answer, request as head};
use crate::ffi::provider::*;
use crate::lock::Lock;
use crate::qp::builder::{self, Builder};
use crate::qp::{Qp, Queues, Sender};
use crate::queue::{ReceiveQueue, SendQueue, Source, Tables};
use crate::srq::Srq;
use crate::{fail, memory};

/// Operations that `send_ops_flags` can name.
const OPERATIONS: [(u64, WqeOpcode); 12] = [
    (qp_ex::RDMA_WRITE, WqeOpcode::Write),
    (qp_ex::RDMA_WRITE_WITH_IMM, WqeOpcode::WriteImmediate),
    (qp_ex::SEND, WqeOpcode::Send),
    (qp_ex::SEND_WITH_IMM, WqeOpcode::SendImmediate),
    (qp_ex::RDMA_READ, WqeOpcode::Read),
    (qp_ex::ATOMIC_CMP_AND_SWP, WqeOpcode::CompareSwap),
    (qp_ex::ATOMIC_FETCH_AND_ADD, WqeOpcode::FetchAdd),
    (qp_ex::LOCAL_INV, WqeOpcode::LocalInvalidate),
    (qp_ex::BIND_MW, WqeOpcode::BindWindow),
    (qp_ex::SEND_WITH_INV, WqeOpcode::SendInvalidate),
    (qp_ex::FLUSH, WqeOpcode::Flush),
    (qp_ex::ATOMIC_WRITE, WqeOpcode::AtomicWrite),
];

/// The device's type of queue pair.
const fn device_type(qp_type: u32) -> Option<QpType> {
    Some(match qp_type {
        qp_type::RC => QpType::Rc,
        qp_type::UC => QpType::Uc,
        qp_type::UD => QpType::Ud,
        qp_type::RAW_PACKET => QpType::RawPacket,
        qp_type::XRC_SEND => QpType::XrcInitiator,
        qp_type::XRC_RECV => QpType::XrcTarget,
        _ => return None,
    })
}

/// What a queue pair is to be.
struct Plan {
    qp_type: QpType,
    service: Service,
    shape: Shape,
    own_receive: bool,
    /// What requests can hold, which may be more than was asked for.
    cap: ibv_qp_cap,
    buffer: Arc<Buffer>,
}

impl Plan {
    fn new(own: &Own, qp_type: QpType, attributes: &ibv_qp_init_attr_ex) -> Result<Self, c_int> {
        let service = Service::new(qp_type, own.limits.capabilities, false);
        let own_receive = attributes.srq.is_null() && qp_type != QpType::XrcInitiator;
        let receive_cq_missing = qp_type != QpType::XrcInitiator && attributes.recv_cq.is_null();
        if attributes.send_cq.is_null() || receive_cq_missing {
            return Err(libc::EINVAL);
        }
        let mut cap = attributes.cap;
        let shape = shape(&own.limits, qp_type, &mut cap, own_receive)?;
        let length = shape.length().ok_or(libc::EINVAL)?;
        let buffer = Buffer::new(own.library, length).ok_or(libc::ENOMEM)?;
        Ok(Self {
            qp_type,
            service,
            shape,
            own_receive,
            cap,
            buffer: Arc::new(buffer),
        })
    }

    fn request(&self) -> CreateQpRequest {
        CreateQpRequest {
            buffer: self.buffer.address(),
            log_send_blocks: self.shape.send.log(),
            log_receive_entries: self.shape.receive.log(),
            log_receive_segments: self.shape.log_receive_segments,
            ..CreateQpRequest::default()
        }
    }

    /// Where receive requests come from.
    ///
    /// # Safety
    /// The shared receive queue is alive, or null.
    unsafe fn source(&self, own: &Own, srq: *mut ibv_srq, answer: &QpAnswer) -> Option<Source> {
        if self.own_receive {
            let doorbell = own.doorbell(&answer.page, answer.receive_slot)?;
            return Some(Source::Own(self.shape.receive, doorbell));
        }
        if srq.is_null() || self.qp_type == QpType::XrcInitiator {
            return Some(Source::None);
        }
        // SAFETY: as the caller says.
        let srq = unsafe { Srq::of(srq) };
        Some(Source::Shared(Arc::clone(&srq.queue), srq.number))
    }

    /// The queues, from what the kernel has answered; `None` if a doorbell cannot be mapped.
    ///
    /// # Safety
    /// What the attributes name is alive.
    unsafe fn queues(
        self,
        own: &Own,
        attributes: &ibv_qp_init_attr_ex,
        answer: &QpAnswer,
    ) -> Option<Queues> {
        // SAFETY: as the caller says.
        let (source, single) = unsafe {
            (
                self.source(own, attributes.srq, answer)?,
                memory::is_single_threaded(attributes.pd),
            )
        };
        let receive_doorbell = match &source {
            Source::Own(_, doorbell) => Some(*doorbell),
            Source::Shared(..) | Source::None => None,
        };
        let tables = Arc::new(Tables::new(answer.qp, self.shape.send, source));
        let send = SendQueue {
            buffer: Arc::clone(&self.buffer),
            base: self.shape.send_offset,
            tables: Arc::clone(&tables),
            doorbell: own.doorbell(&answer.page, answer.send_slot)?,
            limits: DescriptorLimits {
                service: self.service,
                segments: self.cap.max_send_sge,
                inline: self.cap.max_inline_data,
            },
            head: 0,
            announced: 0,
            ready: false,
        };
        let receive = receive_doorbell.map(|doorbell| ReceiveQueue {
            buffer: self.buffer,
            segments: 1 << self.shape.log_receive_segments,
            tables: Arc::clone(&tables),
            doorbell,
            head: 0,
            ready: false,
        });
        let sender = Sender {
            queue: send,
            builder: Builder::new(self.qp_type),
        };
        let receives = self.qp_type != QpType::XrcInitiator;
        let queues = Queues {
            send: Lock::new(sender, single),
            receive: receive.map(|receive| Lock::new(receive, single)),
            send_cq: attributes.send_cq,
            receive_cq: if receives {
                attributes.recv_cq
            } else {
                core::ptr::null_mut()
            },
            cap: self.cap,
        };
        queues.attach(&tables);
        Some(queues)
    }
}

/// The rings for `cap`, within what the device has; `cap` gets the size that the receive queue then
/// has (InfiniBand Architecture volume 1, 11.2.5.1), and what room for inline data that leaves, on
/// which applications count that ask for none (`rdma_xclient` does).
fn shape(
    limits: &Limits,
    qp_type: QpType,
    cap: &mut ibv_qp_cap,
    own_receive: bool,
) -> Result<Shape, c_int> {
    if cap.max_send_sge > limits.max_sge || cap.max_inline_data > limits.max_inline {
        return Err(libc::EINVAL);
    }
    let config = QpConfig {
        qp_type,
        send_requests: cap.max_send_wr,
        receive_requests: cap.max_recv_wr,
        send_segments: cap.max_send_sge,
        receive_segments: cap.max_recv_sge,
        inline: cap.max_inline_data,
        ..QpConfig::default()
    };
    let shape = Shape::new(&config, own_receive).ok_or(libc::EINVAL)?;
    if shape.send.log() > limits.log_max_send_blocks
        || shape.receive.log() > limits.log_max_receive_entries
    {
        return Err(libc::EINVAL);
    }
    let room = Shape::inline_room(&config).ok_or(libc::EINVAL)?;
    cap.max_inline_data = room.min(limits.max_inline);
    if own_receive {
        cap.max_recv_wr = shape.receive.entries();
        cap.max_recv_sge = 1 << shape.log_receive_segments;
    }
    Ok(shape)
}

/// Fails if the attributes ask for what the provider does not have.
fn check(attributes: &ibv_qp_init_attr_ex) -> Result<(), c_int> {
    let known = qp_attr::PD | qp_attr::XRCD | qp_attr::CREATE_FLAGS | qp_attr::SEND_OPS_FLAGS;
    if attributes.comp_mask & !known != 0 {
        return Err(libc::EOPNOTSUPP);
    }
    if attributes.comp_mask & qp_attr::CREATE_FLAGS == 0 {
        return Ok(());
    }
    let stripping = attributes.create_flags == qp_attr::CVLAN_STRIPPING;
    match attributes.create_flags {
        0 => Ok(()),
        _ if stripping && attributes.qp_type == qp_type::RAW_PACKET => Ok(()),
        _ => Err(libc::EOPNOTSUPP),
    }
}

/// Has the kernel create the queue pair at `qp`.
///
/// # Safety
/// The context is open; what the attributes name is alive; `qp` stays where it is.
unsafe fn command(
    own: &Own,
    context: *mut ibv_context,
    qp: *mut verbs_qp,
    attributes: *mut ibv_qp_init_attr_ex,
    rings: &CreateQpRequest,
) -> Result<QpAnswer, c_int> {
    // SAFETY: the attributes are alive.
    let flags = unsafe { (*attributes).comp_mask } & qp_attr::CREATE_FLAGS;
    if flags != 0 {
        let mut ask = Request::<{ head::CREATE_QP_EX }, _>::new(*rings);
        let mut told = Answer::<{ answer::CREATE_QP_EX }, QpAnswer>::new();
        let (ask_size, told_size) = (size_of_val(&ask), told.size());
        // SAFETY: as the caller says; request and answer have these sizes.
        let error = unsafe {
            let (ask, told) = ((&raw mut ask).cast(), (&raw mut told).cast());
            (own.library.create_qp_ex)(context, qp, attributes, ask, ask_size, told, told_size)
        };
        return if error == 0 {
            Ok(told.own())
        } else {
            Err(error)
        };
    }
    let mut ask = Request::<{ head::CREATE_QP }, _>::new(*rings);
    let mut told = Answer::<{ answer::CREATE_QP }, QpAnswer>::new();
    let (ask_size, told_size) = (size_of_val(&ask), told.size());
    // SAFETY: as the caller says; request and answer have these sizes.
    let error = unsafe {
        let (ask, told) = ((&raw mut ask).cast(), (&raw mut told).cast());
        (own.library.create_qp)(context, qp, attributes, ask, ask_size, told, told_size)
    };
    if error == 0 {
        Ok(told.own())
    } else {
        Err(error)
    }
}

/// Creates a queue pair.
///
/// # Safety
/// The context is open; what the attributes name is alive.
unsafe fn create(
    context: *mut ibv_context,
    attributes: &mut ibv_qp_init_attr_ex,
) -> Result<Box<Qp>, c_int> {
    check(attributes)?;
    let qp_type = device_type(attributes.qp_type).ok_or(libc::EOPNOTSUPP)?;
    // SAFETY: as the caller says.
    let own = unsafe { Context::of(context) };
    let mut qp = Qp::without_queues();
    if qp_type == QpType::XrcTarget {
        let rings = CreateQpRequest::default();
        // SAFETY: as the caller says; the queue pair is boxed.
        unsafe { command(own, context, qp.verbs(), attributes, &rings) }?;
        return Ok(qp);
    }
    let plan = Plan::new(own, qp_type, attributes)?;
    let extended = attributes.comp_mask & qp_attr::SEND_OPS_FLAGS != 0;
    let missing = |&(flag, opcode): &(u64, WqeOpcode)| {
        attributes.send_ops_flags & flag != 0 && !plan.service.has(opcode)
    };
    let known = OPERATIONS.iter().fold(0, |set, &(flag, _)| set | flag);
    if extended && (attributes.send_ops_flags & !known != 0 || OPERATIONS.iter().any(missing)) {
        return Err(libc::EOPNOTSUPP);
    }
    // SAFETY: as the caller says; the queue pair is boxed.
    let answer = unsafe { command(own, context, qp.verbs(), attributes, &plan.request()) }?;
    // The kernel writes its own; it has no part in the layout of requests.
    attributes.cap = plan.cap;
    // SAFETY: as the caller says.
    let Some(queues) = (unsafe { plan.queues(own, attributes, &answer) }) else {
        // SAFETY: it was created above.
        unsafe { (own.library.destroy_qp)(qp.verbs().cast()) };
        return Err(libc::EIO);
    };
    qp.queues = Some(queues);
    if extended {
        builder::set_functions(qp.ibv.get_mut());
    }
    Ok(qp)
}

/// # Safety
/// `pd` and what the attributes name is alive.
pub(crate) unsafe extern "C" fn create_qp(
    pd: *mut ibv_pd,
    attributes: *mut ibv_qp_init_attr,
) -> *mut ibv_qp {
    // SAFETY: the caller's attributes are alive during the call, and so is `pd`.
    let (attributes, context) = unsafe { (&mut *attributes, (*pd).context) };
    let mut extended = ibv_qp_init_attr_ex {
        qp_context: attributes.qp_context,
        send_cq: attributes.send_cq,
        recv_cq: attributes.recv_cq,
        srq: attributes.srq,
        cap: attributes.cap,
        qp_type: attributes.qp_type,
        sq_sig_all: attributes.sq_sig_all,
        comp_mask: qp_attr::PD,
        pd,
        xrcd: core::ptr::null_mut(),
        create_flags: 0,
        max_tso_header: 0,
        rwq_ind_tbl: core::ptr::null_mut(),
        rx_hash_conf: [0; 3],
        source_qpn: 0,
        send_ops_flags: 0,
    };
    // SAFETY: as the caller says.
    match unsafe { create(context, &mut extended) } {
        Ok(qp) => {
            attributes.cap = extended.cap;
            Box::into_raw(qp).cast()
        }
        Err(error) => fail(error),
    }
}

/// # Safety
/// The context is open; what the attributes name is alive.
pub(crate) unsafe extern "C" fn create_qp_ex(
    context: *mut ibv_context,
    attributes: *mut ibv_qp_init_attr_ex,
) -> *mut ibv_qp {
    // SAFETY: as the caller says.
    match unsafe { create(context, &mut *attributes) } {
        Ok(qp) => Box::into_raw(qp).cast(),
        Err(error) => fail(error),
    }
}
