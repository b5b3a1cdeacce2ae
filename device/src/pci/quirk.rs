//! What stock QEMU must not see, and how it is kept from it.
//!
//! QEMU's VFIO code reads all of configuration space once, in one long access, builds its list of
//! extended capabilities from that, and leaves out SR-IOV and ARI by their ID. Afterwards each read
//! of the guest, of 1, 2 or 4 bytes, comes here, but for an extended capability's pointer to the next
//! one (and the whole header at 0x100), which QEMU answers. So a read longer than any access on the
//! bus finds the ID of a vendor-specific capability in the headers of those two, and QEMU keeps
//! them; the guest's own reads find the true ID, and its kernel the capabilities.
//!
//! This is the only place where the two kinds of reads differ.

/// The longest access that the bus has (PCI Express Base 6.0, section 2.2.7: one DW).
const LONGEST_ACCESS: usize = 4;
/// ID of a vendor-specific extended capability (section 7.9.5), low byte first.
const VENDOR_SPECIFIC: [u8; 2] = [0x0b, 0x00];

/// Changes `data`, as read at `offset`, where a long read is to find another ID at `headers`.
pub(super) fn disguise(offset: u64, data: &mut [u8], headers: &[u16]) {
    if data.len() <= LONGEST_ACCESS {
        return;
    }
    for &header in headers {
        overlay(offset, data, header, &VENDOR_SPECIFIC);
    }
}

/// Puts `bytes`, which lie at `at`, into that part of them that `data`, read at `offset`, covers.
pub(super) fn overlay(offset: u64, data: &mut [u8], at: u16, bytes: &[u8]) {
    for (place, &byte) in (u64::from(at)..).zip(bytes) {
        let index = place.checked_sub(offset).map(usize::try_from);
        if let Some(to) = index.and_then(|index| data.get_mut(index.ok()?)) {
            *to = byte;
        }
    }
}
