//! How completions look to applications.

use vrnic_abi::cqe::{CompletionFlags, CompletionOpcode, CompletionStatus};
use vrnic_abi::wqe::WqeOpcode;
use vrnic_driver::{Completion, Work};
use vrnic_ibverbs::*;

/// All that `ibv_poll_cq` tells of a completion.
#[inline]
pub(super) fn of(completion: &Completion) -> ibv_wc {
    ibv_wc {
        wr_id: completion.wr_id,
        status: status(completion),
        opcode: opcode(completion),
        vendor_err: completion.syndrome,
        byte_len: completion.byte_length,
        imm_data: immediate(completion),
        qp_num: completion.qpn,
        src_qp: completion.source_qpn,
        wc_flags: flags(completion),
        pkey_index: completion.pkey_index,
        slid: 0,
        sl: service_level(completion),
        dlid_path_bits: 0,
    }
}

/// `ibv_wc_status`.
#[inline]
pub(super) const fn status(completion: &Completion) -> u32 {
    match completion.status {
        CompletionStatus::Success => wc_status::SUCCESS,
        CompletionStatus::LocalLength => wc_status::LOC_LEN_ERR,
        CompletionStatus::LocalQpOperation => wc_status::LOC_QP_OP_ERR,
        CompletionStatus::LocalProtection => wc_status::LOC_PROT_ERR,
        CompletionStatus::Flushed => wc_status::WR_FLUSH_ERR,
        CompletionStatus::MemoryWindowBind => wc_status::MW_BIND_ERR,
        CompletionStatus::BadResponse => wc_status::BAD_RESP_ERR,
        CompletionStatus::LocalAccess => wc_status::LOC_ACCESS_ERR,
        CompletionStatus::RemoteInvalidRequest => wc_status::REM_INV_REQ_ERR,
        CompletionStatus::RemoteAccess => wc_status::REM_ACCESS_ERR,
        CompletionStatus::RemoteOperation => wc_status::REM_OP_ERR,
        CompletionStatus::RetryExceeded => wc_status::RETRY_EXC_ERR,
        CompletionStatus::RnrRetryExceeded => wc_status::RNR_RETRY_EXC_ERR,
        CompletionStatus::RemoteAborted => wc_status::REM_ABORT_ERR,
        CompletionStatus::General => wc_status::GENERAL_ERR,
    }
}

/// `ibv_wc_opcode`.
#[inline]
pub(super) const fn opcode(completion: &Completion) -> u32 {
    match completion.work {
        Work::Request(opcode) => request_opcode(opcode),
        Work::Receive(CompletionOpcode::ReceiveWriteImmediate) => wc_opcode::RECV_RDMA_WITH_IMM,
        Work::Receive(_) => wc_opcode::RECV,
    }
}

#[inline]
const fn request_opcode(opcode: WqeOpcode) -> u32 {
    match opcode {
        // What is not posted through verbs.
        WqeOpcode::Nop | WqeOpcode::FastRegister | WqeOpcode::SendSegmented => wc_opcode::SEND,
        WqeOpcode::Send | WqeOpcode::SendImmediate | WqeOpcode::SendInvalidate => wc_opcode::SEND,
        WqeOpcode::Write | WqeOpcode::WriteImmediate => wc_opcode::RDMA_WRITE,
        WqeOpcode::Read => wc_opcode::RDMA_READ,
        WqeOpcode::CompareSwap => wc_opcode::COMP_SWAP,
        WqeOpcode::FetchAdd => wc_opcode::FETCH_ADD,
        WqeOpcode::LocalInvalidate => wc_opcode::LOCAL_INV,
        WqeOpcode::BindWindow => wc_opcode::BIND_MW,
        WqeOpcode::AtomicWrite => wc_opcode::ATOMIC_WRITE,
        WqeOpcode::Flush => wc_opcode::FLUSH,
    }
}

/// Immediate data in network byte order, or the invalidated key.
#[inline]
pub(super) const fn immediate(completion: &Completion) -> u32 {
    match completion.work {
        Work::Receive(CompletionOpcode::ReceiveInvalidate) => completion.immediate,
        Work::Receive(_) => completion.immediate.to_be(),
        Work::Request(_) => 0,
    }
}

/// `ibv_wc_flags`.
#[inline]
pub(super) fn flags(completion: &Completion) -> u32 {
    let mut flags = match completion.work {
        Work::Receive(CompletionOpcode::ReceiveInvalidate) => wc_flag::WITH_INV,
        Work::Receive(
            CompletionOpcode::ReceiveImmediate | CompletionOpcode::ReceiveWriteImmediate,
        ) => wc_flag::WITH_IMM,
        _ => 0,
    };
    if completion.flags.contains(CompletionFlags::GRH) {
        flags |= wc_flag::GRH;
    }
    let checksums = CompletionFlags::CHECKSUM_IP | CompletionFlags::CHECKSUM_TRANSPORT;
    if completion.flags.contains(checksums) {
        flags |= wc_flag::IP_CSUM_OK;
    }
    flags
}

/// The priority of the VLAN tag, if there was one.
#[inline]
pub(super) fn service_level(completion: &Completion) -> u8 {
    if completion.flags.contains(CompletionFlags::VLAN) {
        (completion.vlan_tag >> 13) as u8
    } else {
        0
    }
}
