//! Texts and tables that the kernel reads.

use core::ffi::c_char;
use core::fmt::{self, Write};

/// A table that the kernel reads.
pub(crate) struct Table<T>(pub(crate) T);

// SAFETY: nobody changes it.
unsafe impl<T> Sync for Table<T> {}

/// A text in a field of fixed length, which ends with a zero byte.
pub(crate) struct Text<'a> {
    to: &'a mut [c_char],
    length: usize,
}

impl<'a> Text<'a> {
    /// An empty text in `to`.
    pub(crate) fn new(to: &'a mut [c_char]) -> Self {
        to.fill(0);
        Self { to, length: 0 }
    }

    /// Appends a byte, if there is room for it.
    pub(crate) fn push(&mut self, byte: u8) {
        if self.length + 1 < self.to.len() {
            self.to[self.length] = byte as c_char;
            self.length += 1;
        }
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}
