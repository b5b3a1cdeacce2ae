//! Keys: which rights they give, in both vocabularies.

use vrnic_abi::admin::AccessFlags;

use crate::types::Access;

/// Flags and rights that correspond.
const PAIRS: [(AccessFlags, Access); 6] = [
    (AccessFlags::LOCAL_WRITE, Access::LOCAL_WRITE),
    (AccessFlags::REMOTE_WRITE, Access::REMOTE_WRITE),
    (AccessFlags::REMOTE_READ, Access::REMOTE_READ),
    (AccessFlags::REMOTE_ATOMIC, Access::REMOTE_ATOMIC),
    (AccessFlags::FLUSH_GLOBAL, Access::FLUSH_GLOBAL),
    (AccessFlags::FLUSH_PERSISTENT, Access::FLUSH_PERSISTENT),
];

/// Rights of a region, a window or a queue pair.
#[must_use]
pub fn key_access(flags: AccessFlags) -> Access {
    let mut access = Access::LOCAL_READ;
    for (flag, right) in PAIRS {
        access.set(right, flags.contains(flag));
    }
    access
}

/// The flags that give these rights.
#[must_use]
pub fn access_flags(access: Access) -> AccessFlags {
    let mut flags = AccessFlags::empty();
    for (flag, right) in PAIRS {
        flags.set(flag, access.contains(right));
    }
    flags
}
