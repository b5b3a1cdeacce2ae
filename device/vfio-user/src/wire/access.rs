//! `REGION_READ`, `REGION_WRITE` and `REGION_WRITE_MULTI`.

use super::{Put, Reader};

/// The fixed part of a region access, in requests and replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionAccess {
    /// Offset in the region.
    pub offset: u64,
    /// The region.
    pub region: u32,
    /// Bytes read or written.
    pub count: u32,
}

impl RegionAccess {
    /// Bytes on the wire, without data.
    pub const SIZE: u32 = 16;

    /// Reads the fixed part; the rest is the data.
    pub fn parse(body: &[u8]) -> Option<(Self, &[u8])> {
        let mut r = Reader::new(body);
        let access = Self {
            offset: r.u64()?,
            region: r.u32()?,
            count: r.u32()?,
        };
        Some((access, r.rest()))
    }

    /// Appends the fixed part.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.put_u64(self.offset);
        out.put_u32(self.region);
        out.put_u32(self.count);
    }
}

/// One of the writes in a `REGION_WRITE_MULTI`: at most 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmallWrite {
    /// Where and how many bytes.
    pub access: RegionAccess,
    data: [u8; 8],
}

impl SmallWrite {
    /// Bytes on the wire.
    pub const SIZE: usize = 24;

    /// The bytes to write, or `None` if the count exceeds 8.
    pub fn data(&self) -> Option<&[u8]> {
        self.data.get(..usize::try_from(self.access.count).ok()?)
    }

    fn parse(r: &mut Reader<'_>) -> Option<Self> {
        let access = RegionAccess {
            offset: r.u64()?,
            region: r.u32()?,
            count: r.u32()?,
        };
        let data = r.bytes8()?;
        Some(Self { access, data })
    }
}

/// The writes of a `REGION_WRITE_MULTI`, in order.
#[derive(Debug)]
pub struct WriteMulti<'a>(Reader<'a>);

impl<'a> WriteMulti<'a> {
    /// Reads the count and checks that as many writes follow, no fewer.
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let mut r = Reader::new(body);
        let count = usize::try_from(r.u64()?).ok()?;
        let writes = r.rest().get(..count.checked_mul(SmallWrite::SIZE)?)?;
        Some(Self(Reader::new(writes)))
    }

    /// Appends the reply: the number of writes done.
    pub fn emit_reply(out: &mut Vec<u8>, done: u64) {
        out.put_u64(done);
    }
}

impl Iterator for WriteMulti<'_> {
    type Item = SmallWrite;

    fn next(&mut self) -> Option<SmallWrite> {
        SmallWrite::parse(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_multi_holds_as_many_writes_as_it_says() {
        let mut body = 2_u64.to_ne_bytes().to_vec();
        for (offset, byte) in [(0x10_u64, 0xaa_u8), (0x18, 0xbb)] {
            RegionAccess {
                offset,
                region: 2,
                count: 1,
            }
            .emit(&mut body);
            body.extend_from_slice(&[byte; 8]);
        }
        let writes: Vec<_> = WriteMulti::parse(&body).unwrap().collect();
        assert_eq!(writes.len(), 2);
        assert_eq!(writes[1].access.offset, 0x18);
        assert_eq!(writes[1].data(), Some(&[0xbb][..]));
        assert!(WriteMulti::parse(&body[..body.len() - 1]).is_none());
        for count in [3, u64::MAX, u64::MAX / 24 + 1, 1 << 61] {
            body[..8].copy_from_slice(&u64::to_ne_bytes(count));
            assert!(WriteMulti::parse(&body).is_none(), "{count}");
        }
    }

    #[test]
    fn a_small_write_above_8_bytes_has_no_data() {
        let mut body = 1_u64.to_ne_bytes().to_vec();
        RegionAccess {
            offset: 0,
            region: 0,
            count: 9,
        }
        .emit(&mut body);
        body.extend_from_slice(&[0; 8]);
        let write = WriteMulti::parse(&body).unwrap().next().unwrap();
        assert_eq!(write.data(), None);
    }
}
