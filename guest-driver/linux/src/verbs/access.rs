//! Access flags, as the kernel has them and as the device has them.

use vrnic_driver::abi::admin::AccessFlags;

use crate::bindings;
use crate::kernel::Errno;
use crate::kernel::errno::EOPNOTSUPP;

/// Each flag of the kernel and the device's.
const FLAGS: [(u32, AccessFlags); 8] = [
    (bindings::IB_ACCESS_LOCAL_WRITE, AccessFlags::LOCAL_WRITE),
    (bindings::IB_ACCESS_REMOTE_WRITE, AccessFlags::REMOTE_WRITE),
    (bindings::IB_ACCESS_REMOTE_READ, AccessFlags::REMOTE_READ),
    (
        bindings::IB_ACCESS_REMOTE_ATOMIC,
        AccessFlags::REMOTE_ATOMIC,
    ),
    (bindings::IB_ACCESS_MW_BIND, AccessFlags::WINDOW_BIND),
    (bindings::IB_ZERO_BASED, AccessFlags::ZERO_BASED),
    (bindings::IB_ACCESS_FLUSH_GLOBAL, AccessFlags::FLUSH_GLOBAL),
    (
        bindings::IB_ACCESS_FLUSH_PERSISTENT,
        AccessFlags::FLUSH_PERSISTENT,
    ),
];

/// The device's flags for those of the kernel. Flags that a device may ignore are ignored, others
/// that this one does not have are refused.
pub(super) fn from_kernel(flags: u32) -> Result<AccessFlags, Errno> {
    let mut left = flags & !bindings::IB_ACCESS_OPTIONAL & !bindings::IB_ACCESS_HUGETLB;
    let mut found = AccessFlags::empty();
    for (kernel, device) in FLAGS {
        if left & kernel != 0 {
            found |= device;
            left &= !kernel;
        }
    }
    if left == 0 {
        Ok(found)
    } else {
        Err(EOPNOTSUPP)
    }
}

/// The kernel's flags for those of the device.
pub(super) fn to_kernel(flags: AccessFlags) -> u32 {
    let set = FLAGS.iter().filter(|flag| flags.contains(flag.1));
    set.fold(0, |bits, flag| bits | flag.0)
}
