//! Shares of a thing of which there are few, such as doorbell pages, between users who do not know of
//! each other.
//!
//! One rule: *nobody gets another one who has as many as are left.* So one greedy user leaves half of
//! them to all others, the next one half of that; and greedy users who take turns end up with equal
//! parts, of which one is left. Whoever has none gets one as long as there are any. Nothing is set
//! aside, and no limit has to be chosen for a number of users that nobody knows. The rule is that of
//! dynamic thresholds for buffers that queues share.
//!
//! A kernel driver calls it: it says who a user is, and for whom the rule does not hold.

use alloc::vec::Vec;

/// Who has how many. Only [`Self::new`] allocates.
#[derive(Debug)]
pub struct Shares<U> {
    left: u32,
    /// Users who have some, and how many.
    held: Vec<(U, u32)>,
}

impl<U: Copy + Eq> Shares<U> {
    /// `total` things that nobody has. Sleepable context.
    #[must_use]
    pub fn new(total: u32) -> Self {
        Self {
            left: total,
            held: Vec::with_capacity(total as usize),
        }
    }

    /// One more for `user`: `false` if there is none for him, by the rule or, for somebody
    /// `privileged`, at all.
    #[must_use = "whoever gets none must not use one"]
    pub fn take(&mut self, user: U, privileged: bool) -> bool {
        let place = self.held.iter().position(|(other, _)| *other == user);
        let held = place.and_then(|place| self.held.get_mut(place));
        let has = held.as_ref().map_or(0, |(_, count)| *count);
        if self.left == 0 || !privileged && has >= self.left {
            return false;
        }
        self.left -= 1;
        match held {
            Some((_, count)) => *count += 1,
            None => self.held.push((user, 1)),
        }
        true
    }

    /// One that `user` took is there again.
    pub fn give_back(&mut self, user: U) {
        let place = self.held.iter().position(|(other, _)| *other == user);
        let Some(place) = place else {
            return;
        };
        self.left += 1;
        if let Some((_, count)) = self.held.get_mut(place) {
            *count -= 1;
            if *count == 0 {
                self.held.swap_remove(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many as there are for `user`.
    fn take_all(shares: &mut Shares<u32>, user: u32) -> u32 {
        (0..).take_while(|_| shares.take(user, false)).count() as u32
    }

    #[test]
    fn a_greedy_user_has_half() {
        for total in 0..=255 {
            let mut shares = Shares::new(total);
            assert_eq!(take_all(&mut shares, 1), total.div_ceil(2));
            assert_eq!(shares.left, total / 2);
        }
    }

    #[test]
    fn greedy_users_in_turns_leave_as_much_as_each_has() {
        for users in 1..20 {
            let mut shares = Shares::new(255);
            let mut count = alloc::vec![0u32; users as usize];
            loop {
                let before = shares.left;
                for (user, count) in (0..users).zip(&mut count) {
                    *count += u32::from(shares.take(user, false));
                }
                if shares.left == before {
                    break;
                }
            }
            let part = 255 / (users + 1);
            for has in count.iter().chain([&shares.left]) {
                assert!((part..=part + 1).contains(has), "{users}: {count:?}");
            }
        }
    }

    #[test]
    fn who_has_none_gets_one_while_there_are_any() {
        let mut shares = Shares::new(8);
        let greedy: u32 = (0..3).map(|user| take_all(&mut shares, user)).sum();
        assert_eq!(greedy, 4 + 2 + 1);
        assert!(shares.take(3, false));
        assert!(!shares.take(4, false), "none is left");
        shares.give_back(0);
        assert!(!shares.take(0, false), "he has more than are left");
        assert!(shares.take(4, false));
    }

    #[test]
    fn the_privileged_get_what_there_is() {
        let mut shares = Shares::new(5);
        assert!((0..5).all(|_| shares.take(0, true)));
        assert!(!shares.take(0, true));
        assert!(!shares.take(1, false));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let mut shares = Shares::new(6);
        for _ in 0..100 {
            assert_eq!(take_all(&mut shares, 7), 3);
            (0..3).for_each(|_| shares.give_back(7));
            assert_eq!((shares.left, shares.held.len()), (6, 0));
        }
        shares.give_back(7);
        assert_eq!(shares.left, 6, "nobody had one");
        assert_eq!(shares.held.capacity(), 6);
    }
}
