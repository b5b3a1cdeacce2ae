//! Lines for the kernel's log.

use core::ffi::{CStr, c_char};
use core::fmt::{self, Write};

use vrnic_driver::Level;

use crate::bindings;

/// Longest line; the rest is cut off.
const LENGTH: usize = 240;

/// A line of text that ends with a zero byte.
pub(crate) struct Line {
    bytes: [u8; LENGTH],
    length: usize,
}

impl Line {
    pub(crate) fn new(text: fmt::Arguments<'_>) -> Self {
        let mut line = Self {
            bytes: [0; LENGTH],
            length: 0,
        };
        // What does not fit is cut off, and `write_str` never fails.
        let _ = line.write_fmt(text);
        line
    }

    pub(crate) fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }

    /// Copies it to a place of the kernel's for `length` bytes, the last of which is 0.
    ///
    /// # Safety
    /// There is room for so many bytes, at least one.
    pub(crate) unsafe fn copy_to(&self, to: *mut c_char, length: usize) {
        let count = self.length.min(length - 1);
        // SAFETY: by the contract of this function.
        unsafe {
            core::ptr::copy_nonoverlapping(self.as_ptr(), to, count);
            to.add(count).write(0);
        }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().filter(|byte| *byte != 0) {
            // The last byte stays 0.
            if self.length < LENGTH - 1 {
                self.bytes[self.length] = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

/// Logs a line about a device.
///
/// # Safety
/// `device` is a device.
pub(crate) unsafe fn log(device: *const bindings::device, level: Level, text: fmt::Arguments<'_>) {
    const FORMAT: &CStr = c"%s\n";
    let line = Line::new(text);
    let print = match level {
        Level::Error => bindings::_dev_err,
        Level::Warning => bindings::_dev_warn,
        Level::Info => bindings::_dev_info,
    };
    // SAFETY: the format takes one string, which ends with a zero byte.
    unsafe { print(device, FORMAT.as_ptr(), line.as_ptr()) };
}
