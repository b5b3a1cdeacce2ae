//! PCI IDs in words, for log lines: the names are those of the PCI ID repository.
//!
//! The vendor ID that vrnic uses is assigned to nobody, so only its class has a name.

use pci_ids::FromId;

use super::config::Ids;

/// One line about a function, such as `Infiniband controller [0207]: 5652:0001 (rev 01)`.
#[must_use]
pub fn describe(ids: &Ids) -> String {
    let name = device_name(ids.vendor, ids.device).map_or(String::new(), |name| format!("{name} "));
    format!(
        "{} [{:04x}]: {name}{:04x}:{:04x} (rev {:02x})",
        class_name(ids.class).unwrap_or("Unknown class"),
        ids.class >> 8,
        ids.vendor,
        ids.device,
        ids.revision
    )
}

/// The name of the subclass in `class`, a 24-bit class code.
#[must_use]
pub fn class_name(class: u32) -> Option<&'static str> {
    let [_, base, subclass, _] = class.to_be_bytes();
    pci_ids::Subclass::from_cid_sid(base, subclass).map(pci_ids::Subclass::name)
}

/// The name of a device, or of its vendor alone, if the repository knows one.
#[must_use]
pub fn device_name(vendor: u16, device: u16) -> Option<&'static str> {
    pci_ids::Device::from_vid_pid(vendor, device)
        .map(pci_ids::Device::name)
        .or_else(|| vendor_name(vendor))
}

/// The name of a vendor, if its ID is assigned.
#[must_use]
pub fn vendor_name(vendor: u16) -> Option<&'static str> {
    pci_ids::Vendor::from_id(vendor).map(pci_ids::Vendor::name)
}
