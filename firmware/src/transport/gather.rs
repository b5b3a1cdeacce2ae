//! The memory behind a message: scatter/gather lists, and the targets of RDMA WRITEs.

use super::{Domain, Env};
use crate::pdu::{Pdu, Place, RemoteRange};
use crate::types::{Access, AccessError, Chunks, Sge};

/// Sum of the elements' lengths.
pub(super) fn total(sges: &[Sge]) -> u64 {
    sges.iter().map(|sge| u64::from(sge.length)).sum()
}

/// Replaces `chunks` by the memory behind the `length` bytes from byte `offset` of the list on.
pub(super) fn gather<E: Env>(
    env: &mut E,
    domain: Domain,
    sges: &[Sge],
    access: Access,
    offset: u32,
    length: u32,
    chunks: &mut Chunks,
) -> Result<(), AccessError> {
    chunks.clear();
    let mut skip = offset;
    let mut left = length;
    for sge in sges {
        if left == 0 {
            break;
        }
        if skip >= sge.length {
            skip -= sge.length;
            continue;
        }
        let take = (sge.length - skip).min(left);
        let address = sge.address.checked_add(u64::from(skip));
        let address = address.ok_or(AccessError::Bounds)?;
        env.translate(domain, sge.lkey, access, address, take, chunks)?;
        skip = 0;
        left -= take;
    }
    if left == 0 {
        Ok(())
    } else {
        Err(AccessError::Bounds)
    }
}

/// Whether all of a range may be accessed, without listing its memory: a region is contiguous in
/// virtual addresses, so that its first and last byte decide. `chunks` is scratch.
pub(super) fn verify<E: Env>(
    env: &mut E,
    domain: Domain,
    key: u32,
    access: Access,
    address: u64,
    length: u32,
    chunks: &mut Chunks,
) -> Result<(), AccessError> {
    let Some(distance) = length.checked_sub(1) else {
        return Ok(());
    };
    let last = address.checked_add(u64::from(distance));
    let last = last.ok_or(AccessError::Bounds)?;
    chunks.clear();
    env.translate(domain, key, access, address, 1, chunks)?;
    if distance > 0 {
        env.translate(domain, key, access, last, 1, chunks)?;
    }
    Ok(())
}

/// As [`verify`], for all elements of a list.
pub(super) fn verify_list<E: Env>(
    env: &mut E,
    domain: Domain,
    sges: &[Sge],
    access: Access,
    chunks: &mut Chunks,
) -> Result<(), AccessError> {
    sges.iter().try_for_each(|sge| {
        let (key, address, length) = (sge.lkey, sge.address, sge.length);
        verify(env, domain, key, access, address, length, chunks)
    })
}

/// Why a part of an RDMA WRITE may not be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadTarget {
    /// The memory may not be written.
    Access,
    /// The message ends before or after the last byte that was announced.
    Length,
}

/// Checks that all of an RDMA WRITE may be written before its first byte is, and that it ends with
/// the last byte that was announced, and not before. `offset` bytes of it came before; `chunks` is
/// scratch.
pub(super) fn check_target<E: Env>(
    env: &mut E,
    chunks: &mut Chunks,
    pdu: &Pdu,
    place: Place,
    target: RemoteRange,
    offset: u32,
) -> Result<(), BadTarget> {
    // What is one PDU is checked when it is placed.
    if place == Place::First {
        let (key, address, length) = (target.rkey, target.address, target.length);
        let domain = env.domain();
        let access = Access::REMOTE_WRITE;
        verify(env, domain, key, access, address, length, chunks).map_err(|_| BadTarget::Access)?;
    }
    let left = target.length.saturating_sub(offset);
    let fits = if place.ends() {
        pdu.length == left
    } else {
        pdu.length < left
    };
    if fits { Ok(()) } else { Err(BadTarget::Length) }
}
