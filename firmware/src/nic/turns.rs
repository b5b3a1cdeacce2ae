//! Whose turn is next at something that several functions want: start-time fair queueing (Goyal, Vin
//! and Cheng, 1996).
//!
//! Each member has a tag: the virtual time until which it has had its part. The one with the lowest
//! tag is next, and what it gets moves its tag on, the faster the less its weight. Who comes back
//! after a pause starts at the present, so that nobody saves up a claim; a member that seldom wants
//! something is next as soon as it comes, whatever number of others want more than there is.
//!
//! A turn costs a few comparisons for each doubling of the members that wait, and those that do not
//! wait cost nothing.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

/// Virtual time of a byte for a member of weight 1; divided by all weights with an error of less than
/// one in 250.
const BYTE: u32 = 1 << 16;

/// A member.
#[derive(Clone, Copy, Debug)]
struct Member {
    /// Virtual time of a byte.
    byte: u32,
    tag: u128,
    waits: bool,
}

/// The members, by their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    members: Vec<Member>,
    /// Those that wait, by their tags.
    queue: BinaryHeap<Reverse<(u128, u16)>>,
    /// The present: the tag of who was last.
    now: u128,
}

impl Turns {
    /// Adds a member, or exchanges it for another.
    pub(super) fn add(&mut self, number: u16, weight: u8) {
        let member = Member {
            byte: byte(weight),
            tag: self.now,
            waits: false,
        };
        let index = usize::from(number);
        if index >= self.members.len() {
            self.members.resize(index + 1, member);
        }
        if let Some(place) = self.members.get_mut(index) {
            *place = member;
        }
        self.queue.retain(|Reverse((_, other))| *other != number);
    }

    /// Changes a weight, from the next turn on.
    pub(super) fn set_weight(&mut self, number: u16, weight: u8) {
        if let Some(member) = self.members.get_mut(usize::from(number)) {
            member.byte = byte(weight);
        }
    }

    /// A member wants a turn, if it does not wait for one already.
    #[inline]
    pub(super) fn want(&mut self, number: u16) {
        if let Some(member) = self.members.get_mut(usize::from(number)) {
            if !core::mem::replace(&mut member.waits, true) {
                member.tag = member.tag.max(self.now);
                self.queue.push(Reverse((member.tag, number)));
            }
        }
    }

    /// The member whose turn is next.
    #[inline]
    pub(super) fn next(&mut self) -> Option<u16> {
        let Reverse((tag, number)) = self.queue.pop()?;
        self.now = tag;
        if let Some(member) = self.members.get_mut(usize::from(number)) {
            member.waits = false;
        }
        Some(number)
    }

    /// A member got so many bytes; call it before it wants the next turn.
    #[inline]
    pub(super) fn charge(&mut self, number: u16, bytes: u64) {
        if let Some(member) = self.members.get_mut(usize::from(number)) {
            let time = u128::from(bytes) * u128::from(member.byte);
            member.tag = member.tag.max(self.now).saturating_add(time);
        }
    }

    /// Whether no member waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// Virtual time of a byte for a weight.
fn byte(weight: u8) -> u32 {
    BYTE / u32::from(weight.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(weights: &[u8]) -> Turns {
        let mut turns = Turns::default();
        for (number, weight) in (0..).zip(weights) {
            turns.add(number, *weight);
        }
        turns
    }

    /// Gives out turns of the lengths that `length` says until `total` bytes are used; returns who
    /// had how much.
    fn share(turns: &mut Turns, total: u64, length: impl Fn(u16) -> u64) -> Vec<u64> {
        let mut had = alloc::vec![0; turns.members.len()];
        let mut left = total;
        for number in 0..had.len() as u16 {
            turns.want(number);
        }
        while left > 0 {
            let number = turns.next().unwrap();
            let bytes = length(number).min(left);
            turns.charge(number, bytes);
            turns.want(number);
            had[usize::from(number)] += bytes;
            left -= bytes;
        }
        had
    }

    #[test]
    fn parts_are_as_the_weights_whatever_the_turns() {
        for weights in [
            &[1, 3][..],
            &[1, 1],
            &[255, 1],
            &[10, 20, 30, 40],
            &[7; 256],
        ] {
            let mut all = turns(weights);
            let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let total = sum << 24;
            let had = share(&mut all, total, |number| 100 + 5_000 * u64::from(number));
            for (bytes, weight) in had.iter().zip(weights) {
                let due = u64::from(*weight) << 24;
                assert!(bytes.abs_diff(due) < due / 100, "{weights:?} {bytes} {due}");
            }
        }
    }

    #[test]
    fn who_was_away_is_next_but_has_saved_up_nothing() {
        let mut two = turns(&[1, 1, 1]);
        two.want(0);
        for _ in 0..1_000 {
            assert_eq!(two.next(), Some(0));
            two.charge(0, 1_000);
            two.want(0);
        }
        two.want(1);
        two.want(1);
        assert_eq!(two.next(), Some(1), "before who has had much");
        two.charge(1, 1_000);
        two.want(1);
        let order = [0; 6].map(|_| {
            let number = two.next().unwrap();
            two.charge(number, 1_000);
            two.want(number);
            number
        });
        assert_eq!(order, [0, 1, 0, 1, 0, 1], "and then in turn");
        assert!(!two.is_empty());
    }

    #[test]
    fn another_member_in_the_same_place_inherits_nothing() {
        let mut two = turns(&[1, 1]);
        two.want(0);
        two.charge(0, 1 << 40);
        two.add(0, 1);
        assert!(two.is_empty());
        two.want(1);
        two.charge(1, 1);
        two.want(0);
        assert_eq!(
            [two.next(), two.next(), two.next()],
            [Some(0), Some(1), None]
        );
    }
}
