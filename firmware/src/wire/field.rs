//! Fields of headers: where they stand, as a type, so that no access can leave its header.
//!
//! A header is an array of bytes. A [`Field`] of bytes `AT..AT + LEN` is read from and written to
//! such an array, and the compiler refuses one that does not fit. Numbers are big-endian on the
//! wire; the conversion is made where the field's meaning is known.

/// Bytes `AT..AT + LEN` of a header.
#[derive(Clone, Copy)]
pub(super) struct Field<const AT: usize, const LEN: usize>;

impl<const AT: usize, const LEN: usize> Field<AT, LEN> {
    /// Its bytes.
    #[inline]
    pub(super) fn get<const N: usize>(self, header: &[u8; N]) -> [u8; LEN] {
        const { assert!(AT + LEN <= N, "the field leaves the header") }
        let mut value = [0; LEN];
        value.copy_from_slice(&header[AT..AT + LEN]);
        value
    }

    /// Sets its bytes.
    #[inline]
    pub(super) fn set<const N: usize>(self, header: &mut [u8; N], value: [u8; LEN]) {
        const { assert!(AT + LEN <= N, "the field leaves the header") }
        header[AT..AT + LEN].copy_from_slice(&value);
    }
}

impl<const AT: usize> Field<AT, 1> {
    /// The byte.
    #[inline]
    pub(super) fn byte<const N: usize>(self, header: &[u8; N]) -> u8 {
        let [byte] = self.get(header);
        byte
    }
}

impl<const AT: usize> Field<AT, 2> {
    /// The 16-bit number.
    #[inline]
    pub(super) fn u16<const N: usize>(self, header: &[u8; N]) -> u16 {
        u16::from_be_bytes(self.get(header))
    }
}

impl<const AT: usize> Field<AT, 3> {
    /// The 24-bit number.
    #[inline]
    pub(super) fn u24<const N: usize>(self, header: &[u8; N]) -> u32 {
        let [high, middle, low] = self.get(header);
        u32::from_be_bytes([0, high, middle, low])
    }

    /// Sets the 24-bit number to the low bits of `value`.
    #[inline]
    pub(super) fn set_u24<const N: usize>(self, header: &mut [u8; N], value: u32) {
        let [_, high, middle, low] = value.to_be_bytes();
        self.set(header, [high, middle, low]);
    }
}

impl<const AT: usize> Field<AT, 4> {
    /// The 32-bit number.
    #[inline]
    pub(super) fn u32<const N: usize>(self, header: &[u8; N]) -> u32 {
        u32::from_be_bytes(self.get(header))
    }
}

impl<const AT: usize> Field<AT, 8> {
    /// The 64-bit number.
    #[inline]
    pub(super) fn u64<const N: usize>(self, header: &[u8; N]) -> u64 {
        u64::from_be_bytes(self.get(header))
    }
}
