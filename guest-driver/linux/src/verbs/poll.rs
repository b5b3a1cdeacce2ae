//! Polling and arming by the kernel itself. Atomic context.

use core::ffi::c_int;

use vrnic_driver::abi::cqe::{CompletionFlags, CompletionOpcode, CompletionStatus};
use vrnic_driver::abi::wqe::WqeOpcode;
use vrnic_driver::{Completion, Work};

use super::cq::CqObject;
use super::device::Shared;
use crate::bindings;
use crate::kernel::Errno;

/// Completions that are taken at a time: as many as fit a kernel stack well.
const BATCH: usize = 8;

/// The port that all completions are of.
const PORT: u32 = 1;

const fn status(status: CompletionStatus) -> bindings::ib_wc_status {
    match status {
        CompletionStatus::Success => bindings::IB_WC_SUCCESS,
        CompletionStatus::LocalLength => bindings::IB_WC_LOC_LEN_ERR,
        CompletionStatus::LocalQpOperation => bindings::IB_WC_LOC_QP_OP_ERR,
        CompletionStatus::LocalProtection => bindings::IB_WC_LOC_PROT_ERR,
        CompletionStatus::Flushed => bindings::IB_WC_WR_FLUSH_ERR,
        CompletionStatus::MemoryWindowBind => bindings::IB_WC_MW_BIND_ERR,
        CompletionStatus::BadResponse => bindings::IB_WC_BAD_RESP_ERR,
        CompletionStatus::LocalAccess => bindings::IB_WC_LOC_ACCESS_ERR,
        CompletionStatus::RemoteInvalidRequest => bindings::IB_WC_REM_INV_REQ_ERR,
        CompletionStatus::RemoteAccess => bindings::IB_WC_REM_ACCESS_ERR,
        CompletionStatus::RemoteOperation => bindings::IB_WC_REM_OP_ERR,
        CompletionStatus::RetryExceeded => bindings::IB_WC_RETRY_EXC_ERR,
        CompletionStatus::RnrRetryExceeded => bindings::IB_WC_RNR_RETRY_EXC_ERR,
        CompletionStatus::RemoteAborted => bindings::IB_WC_REM_ABORT_ERR,
        CompletionStatus::General => bindings::IB_WC_GENERAL_ERR,
    }
}

const fn opcode(work: Work) -> bindings::ib_wc_opcode {
    match work {
        Work::Request(request) => match request {
            WqeOpcode::Write | WqeOpcode::WriteImmediate | WqeOpcode::AtomicWrite => {
                bindings::IB_WC_RDMA_WRITE
            }
            WqeOpcode::Read => bindings::IB_WC_RDMA_READ,
            WqeOpcode::CompareSwap => bindings::IB_WC_COMP_SWAP,
            WqeOpcode::FetchAdd => bindings::IB_WC_FETCH_ADD,
            WqeOpcode::LocalInvalidate => bindings::IB_WC_LOCAL_INV,
            WqeOpcode::FastRegister => bindings::IB_WC_REG_MR,
            _ => bindings::IB_WC_SEND,
        },
        Work::Receive(CompletionOpcode::ReceiveWriteImmediate) => {
            bindings::IB_WC_RECV_RDMA_WITH_IMM
        }
        Work::Receive(_) => bindings::IB_WC_RECV,
    }
}

/// Fills in what a received message brings along.
fn receive(wc: &mut bindings::ib_wc, completion: &Completion, opcode: CompletionOpcode) {
    let flags = completion.flags;
    let mut found = 0;
    match opcode {
        CompletionOpcode::ReceiveImmediate | CompletionOpcode::ReceiveWriteImmediate => {
            found |= bindings::IB_WC_WITH_IMM;
            wc.ex.imm_data = completion.immediate.to_be();
        }
        CompletionOpcode::ReceiveInvalidate => {
            found |= bindings::IB_WC_WITH_INVALIDATE;
            wc.ex.invalidate_rkey = completion.immediate;
        }
        _ => {}
    }
    if flags.contains(CompletionFlags::GRH) {
        found |= bindings::IB_WC_GRH | bindings::IB_WC_WITH_SMAC;
        found |= bindings::IB_WC_WITH_NETWORK_HDR_TYPE;
        wc.smac = completion.source_mac;
        wc.network_hdr_type = if flags.contains(CompletionFlags::IPV4) {
            bindings::RDMA_NETWORK_IPV4 as u8
        } else {
            bindings::RDMA_NETWORK_IPV6 as u8
        };
        wc.src_qp = completion.source_qpn;
        wc.pkey_index = completion.pkey_index;
        if flags.contains(CompletionFlags::VLAN) {
            found |= bindings::IB_WC_WITH_VLAN;
            wc.vlan_id = completion.vlan_tag & 0xfff;
            wc.sl = (completion.vlan_tag >> 13) as u8;
        }
    }
    wc.wc_flags = found as c_int;
}

fn convert(completion: &Completion) -> bindings::ib_wc {
    let mut wc = bindings::ib_wc::default();
    wc.__bindgen_anon_1.wr_id = completion.wr_id;
    wc.status = status(completion.status);
    wc.opcode = opcode(completion.work);
    wc.vendor_err = completion.syndrome;
    wc.qp = completion.context as *mut bindings::ib_qp;
    wc.port_num = PORT;
    if completion.status == CompletionStatus::Success {
        wc.byte_len = completion.byte_length;
        if let Work::Receive(opcode) = completion.work {
            receive(&mut wc, completion, opcode);
        }
    }
    wc
}

/// What becomes of a completion that says flushed. The kernel's connection manager takes a flushed
/// datagram for one that it has canceled itself, and tells nobody: whoever waits for the connection,
/// as a client does before it lets go of the device, would wait for ever. So requests of the
/// management queue pair fail if it was not its owner but the loss of the function that ended them.
///
/// # Safety
/// `wc` is a completion of a queue of `ibcq`'s device.
#[cold]
unsafe fn flushed(ibcq: *mut bindings::ib_cq, completion: &Completion, wc: &mut bindings::ib_wc) {
    // SAFETY: by the contract of this function; the core keeps the queue pair while it has requests.
    let (shared, qp) = unsafe { (Shared::of((*ibcq).device), wc.qp.as_ref()) };
    let management = qp.is_some_and(|qp| qp.qp_type == bindings::IB_QPT_GSI);
    let request = matches!(completion.work, Work::Request(_));
    if management && request && shared.nic.driver.is_lost() {
        wc.status = bindings::IB_WC_GENERAL_ERR;
    }
}

/// # Safety
/// `ibcq` is a queue of the kernel, and there is room for `most` completions.
unsafe fn poll(
    ibcq: *mut bindings::ib_cq,
    most: c_int,
    wc: *mut bindings::ib_wc,
) -> Result<usize, Errno> {
    // SAFETY: by the contract of this function.
    let cq = unsafe { CqObject::of(ibcq)? };
    let most = usize::try_from(most).unwrap_or(0);
    let mut done = 0;
    while done < most {
        let mut batch = [Completion::default(); BATCH];
        let room = batch.get_mut(..BATCH.min(most - done)).unwrap_or_default();
        let wanted = room.len();
        // A queue of a lost function fails when it has nothing more to flush; what it has handed out
        // before counts.
        let count = cq.with_kernel(|cq| cq.poll(room))?.unwrap_or(0);
        for completion in batch.iter().take(count) {
            let mut converted = convert(completion);
            // SAFETY: by the contract of this function.
            unsafe {
                if completion.status == CompletionStatus::Flushed {
                    flushed(ibcq, completion, &mut converted);
                }
                wc.add(done).write(converted);
            }
            done += 1;
        }
        if count < wanted {
            break;
        }
    }
    Ok(done)
}

/// # Safety
/// A user of the kernel calls it, in any context, for a queue that is not destroyed meanwhile;
/// there is room for `most` completions.
unsafe extern "C" fn poll_cq(
    ibcq: *mut bindings::ib_cq,
    most: c_int,
    wc: *mut bindings::ib_wc,
) -> c_int {
    // SAFETY: by the contract of this function.
    match unsafe { poll(ibcq, most, wc) } {
        Ok(count) => count as c_int,
        Err(errno) => errno.get(),
    }
}

/// # Safety
/// A user of the kernel calls it, in any context, for a queue that is not destroyed meanwhile.
unsafe extern "C" fn req_notify_cq(
    ibcq: *mut bindings::ib_cq,
    flags: bindings::ib_cq_notify_flags,
) -> c_int {
    let solicited = flags & bindings::IB_CQ_SOLICITED_MASK == bindings::IB_CQ_SOLICITED;
    // SAFETY: by the contract of this function.
    let cq = unsafe { CqObject::of(ibcq) };
    let armed = cq.and_then(|cq| Ok(cq.with_kernel(|cq| cq.arm(solicited))??));
    match armed {
        Ok(missed) => {
            let asked = flags & bindings::IB_CQ_REPORT_MISSED_EVENTS != 0;
            c_int::from(asked && missed)
        }
        Err(errno) => errno.get(),
    }
}

/// Adds the operations to the table.
pub(super) fn operations(ops: &mut bindings::ib_device_ops) {
    ops.poll_cq = Some(poll_cq);
    ops.req_notify_cq = Some(req_notify_cq);
}
