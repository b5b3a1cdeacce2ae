//! Keys as drivers see them: rights in both vocabularies, what QueryMr says, and the work requests
//! that change keys.
//!
//! Those are fast registration (IBTA volume 1, 10.6.6), local invalidation and binding (10.6.7.2).
//! A request either takes effect or ends with an outcome that says who was wrong: the request
//! itself (LocalQpOperation), the keys that it names or their state (LocalProtection; of a binding,
//! MemoryWindowBind). The page list of a registration is copied out of guest memory once, when the
//! request is carried out, and the copy is checked and kept.

use vrnic_abi::admin::AccessFlags;
use vrnic_abi::object::{KeyType, MrAttributes};

use super::env::WorkQueues;
use crate::host::Memory;
use crate::resource::{
    FastRegion, Keys, MemoryKey, Region, RegionOptions, Registration, Window, WindowKind, limits,
};
use crate::transport::{FastRegistration, LocalOperation};
use crate::types::{Access, Outcome};

/// Flags and rights that correspond.
const PAIRS: [(AccessFlags, Access); 6] = [
    (AccessFlags::LOCAL_WRITE, Access::LOCAL_WRITE),
    (AccessFlags::REMOTE_WRITE, Access::REMOTE_WRITE),
    (AccessFlags::REMOTE_READ, Access::REMOTE_READ),
    (AccessFlags::REMOTE_ATOMIC, Access::REMOTE_ATOMIC),
    (AccessFlags::FLUSH_GLOBAL, Access::FLUSH_GLOBAL),
    (AccessFlags::FLUSH_PERSISTENT, Access::FLUSH_PERSISTENT),
];

/// Flags and options of regions that correspond.
const OPTIONS: [(AccessFlags, RegionOptions); 3] = [
    (AccessFlags::ZERO_BASED, RegionOptions::ZERO_BASED),
    (AccessFlags::WINDOW_BIND, RegionOptions::WINDOW_BIND),
    (
        AccessFlags::RELAXED_ORDERING,
        RegionOptions::RELAXED_ORDERING,
    ),
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

/// Options of a region.
#[must_use]
pub fn region_options(flags: AccessFlags) -> RegionOptions {
    let mut options = RegionOptions::empty();
    for (flag, option) in OPTIONS {
        options.set(option, flags.contains(flag));
    }
    options
}

/// What QueryMr says about a key.
#[must_use]
pub fn describe(key: &MemoryKey) -> MrAttributes {
    match key {
        MemoryKey::Region(region) => describe_region(region),
        MemoryKey::Fast(fast) => MrAttributes {
            key: fast.key,
            pd: fast.pd,
            key_type: KeyType::FastRegion.raw(),
            max_pages: fast.max_pages,
            ..fast
                .region
                .as_ref()
                .map(describe_region)
                .unwrap_or_default()
        },
        MemoryKey::Window(window) => describe_window(window),
    }
}

fn describe_region(region: &Region) -> MrAttributes {
    let mut flags = access_flags(region.access);
    for (flag, option) in OPTIONS {
        flags.set(flag, region.options.contains(option));
    }
    MrAttributes {
        key: region.key,
        pd: region.pd,
        start: region.start,
        length: region.length,
        access: flags.bits(),
        page_shift: region.page_shift.into(),
        key_type: KeyType::Region.raw(),
        valid: 1,
        ..MrAttributes::default()
    }
}

fn describe_window(window: &Window) -> MrAttributes {
    let key_type = match window.kind {
        WindowKind::Type1 => KeyType::Window1,
        WindowKind::Type2 => KeyType::Window2,
    };
    let mut attributes = MrAttributes {
        key: window.key,
        pd: window.pd,
        key_type: key_type.raw(),
        ..MrAttributes::default()
    };
    if let Some(binding) = &window.binding {
        let mut flags = access_flags(binding.access);
        flags.set(AccessFlags::ZERO_BASED, binding.zero_based);
        attributes.start = binding.start;
        attributes.length = binding.length;
        attributes.access = flags.bits();
        attributes.valid = 1;
        attributes.region = binding.region;
        attributes.qp = binding.qp.unwrap_or(0);
    }
    attributes
}

/// Carries out an operation of a queue pair on keys.
///
/// # Errors
/// How the work request ends instead; nothing has changed then.
pub fn local<M: Memory>(
    memory: &M,
    keys: &mut Keys,
    queues: &mut WorkQueues,
    operation: &LocalOperation,
) -> Result<(), Outcome> {
    let user = queues.key_user();
    match operation {
        LocalOperation::FastRegister(request) => {
            if !queues.privileged || !is_sound(request) {
                return Err(Outcome::LocalQpOperation);
            }
            let region = keys.free_region(user.pd, request.key);
            register(
                memory,
                region.map_err(|_| Outcome::LocalProtection)?,
                request,
            )
        }
        LocalOperation::Invalidate(key) => keys
            .invalidate(user, &mut queues.windows, *key)
            .map_err(|_| Outcome::LocalProtection),
        LocalOperation::Bind(request) => keys
            .bind(user, &mut queues.windows, request)
            .map_err(|_| Outcome::MemoryWindowBind),
    }
}

/// Whether a fast registration makes sense, as far as that can be said without its region and its
/// page list. The rules are those of CreateMr.
fn is_sound(request: &FastRegistration) -> bool {
    let writes = Access::REMOTE_WRITE | Access::REMOTE_ATOMIC;
    let rights = !request.access.contains(Access::FLUSH_PERSISTENT)
        && (!request.access.intersects(writes) || request.access.contains(Access::LOCAL_WRITE));
    let pages = (1..=limits::FAST_PAGES).contains(&request.pages)
        && (limits::MIN_PAGE_SHIFT..=limits::MAX_PAGE_SHIFT).contains(&request.page_shift)
        && request.list % 8 == 0;
    rights && pages && has_room(request)
}

/// Whether the range is one, and the pages have room for it.
fn has_room(request: &FastRegistration) -> bool {
    let Some(last) = request.length.checked_sub(1) else {
        return false;
    };
    let within = request.zero_based || request.start.checked_add(last).is_some();
    let first = request.start & ((1 << request.page_shift) - 1);
    let needed = first.checked_add(request.length);
    let bytes = u64::from(request.pages) << request.page_shift;
    within && needed.is_some_and(|needed| needed <= bytes)
}

/// Reads the page list and gives the region its memory.
fn register<M: Memory>(
    memory: &M,
    region: &mut FastRegion,
    request: &FastRegistration,
) -> Result<(), Outcome> {
    if request.pages > region.max_pages {
        return Err(Outcome::LocalQpOperation);
    }
    let mut list = region.take_room();
    list.resize(usize::try_from(request.pages).unwrap_or(0), 0);
    let read = memory.read(request.list, bytemuck::cast_slice_mut(&mut list));
    if read.is_err() {
        region.give_room_back(list);
        return Err(Outcome::LocalProtection);
    }
    let mut options = RegionOptions::empty();
    options.set(RegionOptions::ZERO_BASED, request.zero_based);
    options.set(RegionOptions::WINDOW_BIND, request.window_bind);
    options.set(RegionOptions::RELAXED_ORDERING, request.relaxed_ordering);
    let registration = Registration {
        key: request.key,
        start: request.start,
        length: request.length,
        access: request.access,
        options,
        page_shift: request.page_shift,
    };
    if region.register(registration, list) {
        Ok(())
    } else {
        Err(Outcome::LocalQpOperation)
    }
}
