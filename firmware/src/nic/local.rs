//! PDUs on their way between two queue pairs of this NIC.
//!
//! The payload stays in the sender's memory until the PDU is handled, apart from inline data. The
//! queue is short, so that handling all of it is a bounded step, and its entries are reused, so
//! that nothing is allocated for a PDU.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::pdu::Pdu;
use crate::transport::{Path, Payload};
use crate::types::Chunk;

/// PDUs that can be queued.
const MAX_PDUS: usize = 256;
/// Bytes of payload that can be queued.
const MAX_BYTES: u64 = 8 << 20;

/// A PDU on its way.
#[derive(Clone, Debug)]
pub(super) struct LocalPdu {
    /// Sending function.
    pub(super) from: u16,
    /// Sending queue pair.
    pub(super) sender: u32,
    /// Receiving function.
    pub(super) to: u16,
    /// The way that it takes, its VLAN as the receiver calls it.
    pub(super) path: Path,
    /// What it says.
    pub(super) pdu: Pdu,
    /// Inline payload, if any.
    pub(super) bytes: Vec<u8>,
    /// Payload in the sender's memory.
    pub(super) chunks: Vec<Chunk>,
}

/// The queue.
#[derive(Clone, Debug, Default)]
pub(super) struct LocalQueue {
    queue: VecDeque<LocalPdu>,
    spare: Vec<(Vec<u8>, Vec<Chunk>)>,
    bytes: u64,
}

impl LocalQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Queues a PDU from queue pair `sender` of function `from` to function `to`, which calls the
    /// VLAN of the path `vlan`; `false` if there is no room.
    pub(super) fn push(
        &mut self,
        (from, sender, to): (u16, u32, u16),
        path: &Path,
        vlan: u16,
        pdu: &Pdu,
        payload: Payload<'_>,
    ) -> bool {
        if self.queue.len() >= MAX_PDUS || self.bytes >= MAX_BYTES {
            return false;
        }
        let (mut bytes, mut chunks) = self.spare.pop().unwrap_or_default();
        match payload {
            Payload::Bytes(data) => bytes.extend_from_slice(data),
            Payload::Chunks(pieces) => chunks.extend_from_slice(pieces),
        }
        self.bytes += u64::from(pdu.length);
        self.queue.push_back(LocalPdu {
            from,
            sender,
            to,
            path: Path { vlan, ..*path },
            pdu: *pdu,
            bytes,
            chunks,
        });
        true
    }

    /// Takes the oldest PDU; give it back with [`Self::recycle`].
    pub(super) fn pop(&mut self) -> Option<LocalPdu> {
        let local = self.queue.pop_front()?;
        self.bytes -= u64::from(local.pdu.length);
        Some(local)
    }

    /// Reuses what a PDU had allocated.
    pub(super) fn recycle(&mut self, local: LocalPdu) {
        let LocalPdu {
            mut bytes,
            mut chunks,
            ..
        } = local;
        if self.spare.len() < MAX_PDUS {
            bytes.clear();
            chunks.clear();
            self.spare.push((bytes, chunks));
        }
    }

    /// Drops all PDUs from and to a function.
    pub(super) fn purge(&mut self, function: u16) {
        self.queue
            .retain(|local| local.from != function && local.to != function);
        self.bytes = self
            .queue
            .iter()
            .map(|local| u64::from(local.pdu.length))
            .sum();
    }
}
