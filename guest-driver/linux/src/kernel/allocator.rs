//! Rust's heap: `kvmalloc`, in sleepable context only.
//!
//! Small allocations do not fail, large ones may (`VRNIC_SURE_ALLOCATION` in `shim/helpers.h`): whose
//! size a process chooses is reserved fallibly.

use core::alloc::{GlobalAlloc, Layout};

use crate::bindings;

struct Kernel;

#[global_allocator]
static ALLOCATOR: Kernel = Kernel;

/// Alignment of every allocation of `kvmalloc`.
const NATURAL: usize = 8;

/// A size whose allocation is aligned as `layout` wants: those of powers of two are aligned to
/// their size, up to a page.
fn size_for(layout: Layout) -> Option<usize> {
    match layout.align() {
        ..=NATURAL => Some(layout.size()),
        align if align <= 4096 => layout.size().max(align).checked_next_power_of_two(),
        _ => None,
    }
}

// SAFETY: memory of kvmalloc is as large as asked for, aligned as `size_for` says, and stays until
// it is given back.
unsafe impl GlobalAlloc for Kernel {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match size_for(layout) {
            // SAFETY: any size will do.
            Some(size) => unsafe { bindings::vrnic_alloc(size as _) }.cast(),
            None => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, _layout: Layout) {
        // SAFETY: by the contract of this trait the memory is from `alloc`.
        unsafe { bindings::vrnic_free(memory.cast()) }
    }
}
