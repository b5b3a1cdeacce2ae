//! Work requests of verbs in the driver's terms.

use vrnic_abi::admin::{AccessFlags, QpType};
use vrnic_abi::wqe::WqeFlags;
use vrnic_driver::{Bind, Datagram, DatagramPath, Operation, PostError, Remote, Target};
use vrnic_ibverbs::*;

use crate::address;

/// `errno` for a request that was not posted.
pub(super) const fn errno(error: PostError) -> i32 {
    match error {
        PostError::QueueFull => libc::ENOMEM,
        PostError::TooLarge
        | PostError::Stale
        | PostError::Unsupported
        | PostError::WrongTarget
        | PostError::NotMapped => libc::EINVAL,
    }
}

const _: () = {
    // `flags` moves these two together.
    assert!(WqeFlags::SIGNALED.bits() as u32 == send_flag::SIGNALED >> 1);
    assert!(WqeFlags::SOLICITED.bits() as u32 == send_flag::SOLICITED >> 1);
    // `access` takes these as they are.
    assert!(AccessFlags::REMOTE_WRITE.bits() == access::REMOTE_WRITE);
    assert!(AccessFlags::REMOTE_READ.bits() == access::REMOTE_READ);
    assert!(AccessFlags::REMOTE_ATOMIC.bits() == access::REMOTE_ATOMIC);
    assert!(AccessFlags::ZERO_BASED.bits() == access::ZERO_BASED);
};

/// Flags of a send request, but for INLINE, which follows from its data.
#[inline]
pub(super) fn flags(flags: u32) -> WqeFlags {
    let together = send_flag::SIGNALED | send_flag::SOLICITED;
    let mut set = WqeFlags::from_bits_truncate(((flags & together) >> 1) as u8);
    if flags & (send_flag::FENCE | send_flag::IP_CSUM) != 0 {
        if flags & send_flag::FENCE != 0 {
            set |= WqeFlags::FENCE;
        }
        if flags & send_flag::IP_CSUM != 0 {
            set |= WqeFlags::CHECKSUM_IP | WqeFlags::CHECKSUM_TRANSPORT;
        }
    }
    set
}

/// Whom requests are for that do not say so themselves.
#[inline]
pub(super) const fn default_target(qp_type: QpType) -> Target {
    match qp_type {
        QpType::RawPacket => Target::Wire { vlan_tag: None },
        // What needs no receive at the peer does not look at the number.
        QpType::XrcInitiator => Target::SharedReceiveQueue(0),
        _ => Target::Peer,
    }
}

/// Whom a datagram is for.
///
/// # Safety
/// The handle is alive, or null.
#[inline]
pub(super) unsafe fn datagram(ah: *mut ibv_ah, remote_qpn: u32, qkey: u32) -> Target {
    if ah.is_null() {
        return Target::Peer;
    }
    Target::Datagram(Datagram {
        remote_qpn,
        qkey,
        // SAFETY: as the caller says.
        path: DatagramPath::Vector(unsafe { address::vector(ah) }),
    })
}

/// Whom `request` is for.
///
/// # Safety
/// It is one of a queue pair of type `qp_type`, and what it names is alive.
#[inline]
pub(super) unsafe fn target(qp_type: QpType, request: &ibv_send_wr) -> Target {
    match qp_type {
        // SAFETY: all requests of such a queue pair have that part.
        QpType::Ud => unsafe {
            let to = request.wr.ud;
            datagram(to.ah, to.remote_qpn, to.remote_qkey)
        },
        QpType::XrcInitiator => Target::SharedReceiveQueue(request.remote_srqn),
        _ => default_target(qp_type),
    }
}

/// A bind; `None` without a window.
///
/// # Safety
/// What it names is alive, or null.
pub(super) unsafe fn bind(
    mw: *const ibv_mw,
    key: u32,
    info: &ibv_mw_bind_info,
) -> Option<Operation> {
    // SAFETY: as the caller says.
    let (mw, mr) = unsafe { (mw.as_ref()?, info.mr.as_ref()) };
    // A window gives remote rights only; that its owner may write is for its region to say.
    let rights = info.mw_access_flags & !access::LOCAL_WRITE;
    let known =
        access::REMOTE_WRITE | access::REMOTE_READ | access::REMOTE_ATOMIC | access::ZERO_BASED;
    if rights & !known != 0 || (mr.is_none() && info.length > 0) {
        return None;
    }
    Some(Operation::BindWindow(Bind {
        window: mw.rkey,
        key,
        region: mr.map_or(0, |mr| mr.lkey),
        access: AccessFlags::from_bits_truncate(rights),
        start: info.addr,
        length: info.length,
    }))
}

/// Whether lists of data are not looked at, which applications then leave as they were.
#[inline]
pub(super) const fn is_without_data(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::LocalInvalidate(_) | Operation::BindWindow(_)
    )
}

/// The remote address of RDMA.
#[inline]
pub(super) fn remote(request: &ibv_send_wr) -> Remote {
    // SAFETY: plain numbers, of which any value will do.
    let rdma = unsafe { request.wr.rdma };
    Remote {
        address: rdma.remote_addr,
        rkey: rdma.rkey,
    }
}

/// What `request` does; `None` if there is no such operation.
///
/// # Safety
/// What it names is alive.
pub(super) unsafe fn operation(request: &ibv_send_wr) -> Option<Operation> {
    // SAFETY: plain numbers, of which any value will do; the opcode says which part means what.
    let atomic = unsafe { request.wr.atomic };
    let remote = remote(request);
    let word = Remote {
        address: atomic.remote_addr,
        rkey: atomic.rkey,
    };
    let immediate = u32::from_be(request.imm_data);
    Some(match request.opcode {
        wr_opcode::RDMA_WRITE => Operation::Write(remote),
        wr_opcode::RDMA_WRITE_WITH_IMM => Operation::WriteImmediate(remote, immediate),
        wr_opcode::SEND => Operation::Send,
        wr_opcode::SEND_WITH_IMM => Operation::SendImmediate(immediate),
        wr_opcode::RDMA_READ => Operation::Read(remote),
        wr_opcode::ATOMIC_CMP_AND_SWP => Operation::CompareSwap {
            remote: word,
            compare: atomic.compare_add,
            swap: atomic.swap,
        },
        wr_opcode::ATOMIC_FETCH_AND_ADD => Operation::FetchAdd {
            remote: word,
            add: atomic.compare_add,
        },
        wr_opcode::LOCAL_INV => Operation::LocalInvalidate(request.imm_data),
        wr_opcode::SEND_WITH_INV => Operation::SendInvalidate(request.imm_data),
        // SAFETY: as the caller says.
        wr_opcode::BIND_MW => unsafe {
            let asked = &request.bind_mw;
            bind(asked.mw, asked.rkey, &asked.bind_info)?
        },
        _ => return None,
    })
}
