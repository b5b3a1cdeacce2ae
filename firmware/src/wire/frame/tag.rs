//! VLAN tags of frames in buffers (IEEE 802.1Q, 9.6): of customers, and only the outer one.
//!
//! A tag stands between the addresses and the Ethertype. Putting it in and taking it out moves the 12
//! bytes of the addresses, never the payload: the buffer has room in front of the frame.

use super::Tag;
use crate::wire::ethernet;
use crate::wire::field::Field;

/// Length of a tag.
pub const LENGTH: usize = ethernet::TAG_LENGTH;
/// Length of the addresses in front of it.
const ADDRESSES: usize = 12;

mod field {
    use super::Field;

    pub(super) const PROTOCOL: Field<0, 2> = Field;
    pub(super) const CONTROL: Field<2, 2> = Field;
}

/// The tag of a frame.
pub(super) fn of(frame: &[u8]) -> Option<Tag> {
    split(frame).map(|(tag, _)| tag)
}

/// The tag of a frame, and the two pieces that the frame consists of without it. `None` if it has no
/// tag.
#[must_use]
pub fn split(frame: &[u8]) -> Option<(Tag, [&[u8]; 2])> {
    let (addresses, rest) = frame.split_first_chunk::<ADDRESSES>()?;
    let (tag, rest) = rest.split_first_chunk::<LENGTH>()?;
    let tagged = field::PROTOCOL.u16(tag) == ethernet::VLAN;
    tagged.then(|| {
        (
            Tag::from_control(field::CONTROL.u16(tag)),
            [&addresses[..], rest],
        )
    })
}

/// The tag behind the tag of a frame, which is its outer one when that is taken out.
#[must_use]
pub fn second(frame: &[u8]) -> Option<Tag> {
    let (_, [_, rest]) = split(frame)?;
    let tag = rest.first_chunk::<LENGTH>()?;
    let tagged = field::PROTOCOL.u16(tag) == ethernet::VLAN;
    tagged.then(|| Tag::from_control(field::CONTROL.u16(tag)))
}

/// Takes the tag out of a frame, which starts [`LENGTH`] bytes later in the buffer then. `None`, and
/// the buffer as it was, if the frame has no tag.
pub fn remove(buffer: &mut [u8]) -> Option<Tag> {
    let tag = of(buffer)?;
    buffer.copy_within(..ADDRESSES, LENGTH);
    Some(tag)
}

/// Puts a tag into a frame that starts [`LENGTH`] bytes after the start of the buffer, where it
/// starts then. Returns whether the buffer is long enough to hold one; it is left alone otherwise.
pub fn insert(buffer: &mut [u8], tag: Tag) -> bool {
    const END: usize = ADDRESSES + LENGTH;
    let Some(start) = buffer.first_chunk_mut::<END>() else {
        return false;
    };
    start.copy_within(LENGTH.., 0);
    let mut bytes = [0; LENGTH];
    field::PROTOCOL.set(&mut bytes, ethernet::VLAN.to_be_bytes());
    field::CONTROL.set(&mut bytes, tag.control().to_be_bytes());
    let place: Field<ADDRESSES, LENGTH> = Field;
    place.set(start, bytes);
    true
}
