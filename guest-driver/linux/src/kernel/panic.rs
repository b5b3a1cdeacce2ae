//! What a panic does: an oops in the task that caused it, as `BUG()` in C.

use core::panic::PanicInfo;

use crate::kernel::log::Line;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let line = Line::new(format_args!("{info}"));
    // SAFETY: the text ends with a zero byte.
    unsafe { crate::bindings::vrnic_bug(line.as_ptr()) }
}
