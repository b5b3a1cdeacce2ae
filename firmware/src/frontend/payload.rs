//! Payloads on their way between guest memory and frames, or from one guest's memory to another's.
//!
//! What is copied, and how much, was checked before: an error here means that DMA does not reach
//! the memory, and whose. No byte is copied twice.

use crate::host::{CopyError, Memory};
use crate::transport::{Payload, TransferError};
use crate::types::Chunk;

/// Copies a payload into `room`, which it fills exactly.
pub fn copy_payload<M: Memory>(memory: &M, payload: Payload<'_>, room: &mut [u8]) -> Option<()> {
    match payload {
        Payload::Bytes(bytes) if bytes.len() == room.len() => {
            room.copy_from_slice(bytes);
            Some(())
        }
        Payload::Bytes(_) => None,
        Payload::Chunks(chunks) => gather(memory, chunks, room),
    }
}

/// Copies guest memory into `room`, which it fills exactly.
fn gather<M: Memory>(memory: &M, chunks: &[Chunk], room: &mut [u8]) -> Option<()> {
    let mut rest = room;
    for chunk in chunks {
        let length = usize::try_from(chunk.length).ok()?;
        let (part, after) = rest.split_at_mut_checked(length)?;
        memory.read(chunk.address, part).ok()?;
        rest = after;
    }
    rest.is_empty().then_some(())
}

/// Copies the first bytes of `data` to `chunks`, which say how many.
pub fn scatter<M: Memory>(memory: &M, data: &[u8], chunks: &[Chunk]) -> Result<(), TransferError> {
    let mut rest = data;
    for chunk in chunks {
        let length = usize::try_from(chunk.length).map_err(|_| TransferError::Sender)?;
        let (bytes, after) = rest.split_at_checked(length).ok_or(TransferError::Sender)?;
        memory
            .write(chunk.address, bytes)
            .map_err(|_| TransferError::Local)?;
        rest = after;
    }
    Ok(())
}

/// As [`scatter`], of two pieces of data, one behind the other.
pub fn scatter_pieces<M: Memory>(
    memory: &M,
    [mut rest, mut next]: [&[u8]; 2],
    chunks: &[Chunk],
) -> Result<(), TransferError> {
    for chunk in chunks {
        let mut left = *chunk;
        while left.length > 0 {
            if rest.is_empty() {
                rest = core::mem::take(&mut next);
            }
            let wanted = usize::try_from(left.length).map_err(|_| TransferError::Sender)?;
            let (bytes, after) = rest.split_at(wanted.min(rest.len()));
            if bytes.is_empty() {
                return Err(TransferError::Sender);
            }
            memory
                .write(left.address, bytes)
                .map_err(|_| TransferError::Local)?;
            rest = after;
            // CAST: no longer than the chunk.
            advance(&mut left, bytes.len() as u32);
        }
    }
    Ok(())
}

/// Copies what lies `offset` bytes into the chunks `from` of `source` to the chunks `to` of
/// `target`, which say how many bytes.
pub fn copy_chunks<M: Memory>(
    source: &M,
    from: &[Chunk],
    offset: u32,
    target: &M,
    to: &[Chunk],
) -> Result<(), TransferError> {
    let mut skip = offset;
    let mut pieces = from.iter().filter_map(|chunk| {
        let skipped = skip.min(chunk.length);
        skip -= skipped;
        (skipped < chunk.length).then(|| Chunk {
            address: chunk.address.wrapping_add(skipped.into()),
            length: chunk.length - skipped,
        })
    });
    let mut piece: Option<Chunk> = pieces.next();
    for chunk in to {
        let mut wanted = *chunk;
        while wanted.length > 0 {
            let mut available = piece.ok_or(TransferError::Sender)?;
            let length = wanted.length.min(available.length);
            let bytes = usize::try_from(length).map_err(|_| TransferError::Sender)?;
            source
                .copy_to(available.address, target, wanted.address, bytes)
                .map_err(|error| match error {
                    CopyError::Source(_) => TransferError::Sender,
                    CopyError::Target(_) => TransferError::Local,
                })?;
            advance(&mut wanted, length);
            advance(&mut available, length);
            piece = if available.length > 0 {
                Some(available)
            } else {
                pieces.next()
            };
        }
    }
    Ok(())
}

fn advance(chunk: &mut Chunk, length: u32) {
    chunk.address = chunk.address.wrapping_add(length.into());
    chunk.length = chunk.length.saturating_sub(length);
}
