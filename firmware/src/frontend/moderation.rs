//! When an armed completion queue notifies (see [`vrnic_abi::admin::ModifyCq`]).
//!
//! A [`Notifier`] is told of every arming and of every entry, and says whether the driver gets its
//! event now. With moderation it may say no and keep a deadline instead, at which it is asked again.
//! It knows neither the ring nor the event queue.
//!
//! Invariant: while the queue is armed and an entry that counts has been seen, there is a deadline,
//! unless the driver gave no time; and a deadline never moves to a later time. So no event is lost,
//! and none comes later than the time asked for after the entry that it announces.

use core::time::Duration;

use crate::types::Time;

/// What the driver wants an event for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Armed {
    No,
    Solicited,
    Next,
}

/// What an entry is to a driver that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Any completion.
    Plain,
    /// The sender asked for a solicited event.
    Solicited,
    /// An error, which is not moderated.
    Error,
}

/// How events are moderated; 0 in either field leaves that condition out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moderation {
    /// Longest time from the first entry that counts to the event, in microseconds.
    pub period: u16,
    /// Entries that count until the event.
    pub count: u16,
}

impl Moderation {
    const fn is_off(self) -> bool {
        self.period == 0 && self.count == 0
    }

    const fn is_reached(self, counted: u32) -> bool {
        self.count != 0 && counted >= self.count as u32
    }

    fn deadline(self, now: Time) -> Option<Time> {
        let period = Duration::from_micros(self.period.into());
        (self.period != 0).then(|| now.after(period))
    }
}

/// Decides when a driver is notified.
#[derive(Clone, Debug)]
pub struct Notifier {
    moderation: Moderation,
    armed: Armed,
    /// Entries that count since the arming.
    counted: u32,
    deadline: Option<Time>,
}

impl Notifier {
    /// A notifier that is not armed.
    #[must_use]
    pub const fn new(moderation: Moderation) -> Self {
        Self {
            moderation,
            armed: Armed::No,
            counted: 0,
            deadline: None,
        }
    }

    /// Whether the driver waits for an event.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.armed != Armed::No
    }

    /// How events are moderated.
    #[must_use]
    pub const fn moderation(&self) -> Moderation {
        self.moderation
    }

    /// When to call [`Self::expire`].
    #[must_use]
    pub const fn deadline(&self) -> Option<Time> {
        self.deadline
    }

    /// The driver arms the queue, in which it has left `waiting` entries, `urgent` if a solicited
    /// one or an error is among them. Returns whether it gets its event now.
    ///
    /// What waits already counts from now on. An urgent entry that waits is announced at once.
    pub fn arm(&mut self, now: Time, solicited_only: bool, waiting: u32, urgent: bool) -> bool {
        // A wish for any completion is not narrowed by a later one for solicited ones (IBTA
        // volume 1, 11.4.2.2).
        if !solicited_only {
            self.armed = Armed::Next;
        } else if self.armed == Armed::No {
            self.armed = Armed::Solicited;
        }
        self.counted = 0;
        let pending = self.deadline.take();
        if urgent {
            return self.notify();
        }
        if self.armed == Armed::Solicited || waiting == 0 {
            return false;
        }
        // Arming again and again must not put the event off.
        self.deadline = pending;
        self.add(now, waiting)
    }

    /// An entry was written. Returns whether the driver gets its event now.
    pub fn written(&mut self, now: Time, urgency: Urgency) -> bool {
        match (self.armed, urgency) {
            (Armed::No, _) | (Armed::Solicited, Urgency::Plain) => false,
            (_, Urgency::Error) => self.notify(),
            (Armed::Solicited | Armed::Next, _) => self.add(now, 1),
        }
    }

    /// The deadline may have passed. Returns whether the driver gets its event now.
    pub fn expire(&mut self, now: Time) -> bool {
        self.deadline.is_some_and(|at| at <= now) && self.notify()
    }

    /// Changes the moderation, also of an event that is pending. Returns whether the driver gets
    /// that now.
    pub fn moderate(&mut self, now: Time, moderation: Moderation) -> bool {
        self.moderation = moderation;
        self.counted > 0 && self.add(now, 0)
    }

    fn add(&mut self, now: Time, entries: u32) -> bool {
        self.counted = self.counted.saturating_add(entries);
        if self.moderation.is_off() || self.moderation.is_reached(self.counted) {
            return self.notify();
        }
        let next = self.moderation.deadline(now);
        self.deadline = match (self.deadline, next) {
            (Some(pending), Some(next)) => Some(pending.min(next)),
            (pending, next) => pending.or(next),
        };
        false
    }

    const fn notify(&mut self) -> bool {
        self.armed = Armed::No;
        self.counted = 0;
        self.deadline = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const PLAIN: Urgency = Urgency::Plain;

    fn notifier(period: u16, count: u16) -> Notifier {
        Notifier::new(Moderation { period, count })
    }

    fn micros(time: u64) -> Time {
        Time(time * 1000)
    }

    #[test]
    fn without_moderation_the_next_entry_notifies() {
        let mut queue = notifier(0, 0);
        assert!(!queue.written(micros(1), PLAIN), "not armed");
        assert!(!queue.arm(micros(2), false, 0, false));
        assert!(queue.written(micros(3), PLAIN));
        assert!(!queue.written(micros(4), PLAIN), "one event only");
        assert!(queue.arm(micros(5), false, 1, false), "one waits");
        assert_eq!(queue.deadline(), None);
    }

    #[test]
    fn whichever_comes_first() {
        let mut queue = notifier(10, 3);
        queue.arm(micros(0), false, 0, false);
        assert!(!queue.written(micros(5), PLAIN));
        assert_eq!(
            queue.deadline(),
            Some(micros(15)),
            "from the first entry on"
        );
        assert!(!queue.written(micros(9), PLAIN));
        assert_eq!(queue.deadline(), Some(micros(15)));
        assert!(!queue.expire(micros(14)));
        assert!(queue.written(micros(14), PLAIN), "the third");
        assert!(!queue.expire(micros(20)), "one event only");

        queue.arm(micros(20), false, 2, false);
        assert_eq!(queue.deadline(), Some(micros(30)), "two wait");
        assert!(queue.expire(micros(30)));
        assert!(!queue.is_armed());
    }

    #[test]
    fn a_condition_that_is_0_is_left_out() {
        let mut queue = notifier(0, 2);
        queue.arm(micros(0), false, 1, false);
        assert_eq!(queue.deadline(), None);
        assert!(queue.written(micros(1_000_000), PLAIN));
        let mut queue = notifier(5, 0);
        queue.arm(micros(0), false, 0, false);
        assert!((0..1000).all(|_| !queue.written(micros(1), PLAIN)));
        assert!(queue.expire(micros(6)));
    }

    #[test]
    fn only_solicited_entries_count_if_only_they_are_wanted() {
        let mut queue = notifier(10, 2);
        queue.arm(micros(0), true, 5, false);
        assert!(!queue.written(micros(1), PLAIN));
        assert_eq!(queue.deadline(), None);
        assert!(!queue.written(micros(2), Urgency::Solicited));
        assert_eq!(queue.deadline(), Some(micros(12)));
        assert!(queue.written(micros(3), Urgency::Solicited));
        queue.arm(micros(4), false, 0, false);
        queue.arm(micros(4), true, 0, false);
        assert!(!queue.written(micros(5), PLAIN));
        assert_eq!(queue.deadline(), Some(micros(15)), "not narrowed");
        assert!(queue.arm(micros(6), true, 2, true), "one waits already");
    }

    #[test]
    fn errors_are_not_put_off() {
        for only in [false, true] {
            let mut queue = notifier(1000, 1000);
            queue.arm(micros(0), only, 0, false);
            assert!(queue.written(micros(1), Urgency::Error));
            assert!(queue.arm(micros(2), only, 1, true));
        }
    }

    #[test]
    fn arming_again_does_not_put_the_event_off() {
        let mut queue = notifier(10, 0);
        queue.arm(micros(0), false, 0, false);
        queue.written(micros(1), PLAIN);
        assert!(!queue.arm(micros(9), false, 1, false));
        assert_eq!(queue.deadline(), Some(micros(11)));
        assert!(!queue.arm(micros(10), false, 0, false), "all are consumed");
        assert_eq!(queue.deadline(), None);
        assert!(queue.is_armed());
    }

    #[test]
    fn a_pending_event_is_moderated_anew() {
        let start = || {
            let mut queue = notifier(100, 10);
            queue.arm(micros(0), false, 0, false);
            queue.written(micros(1), PLAIN);
            queue.written(micros(2), PLAIN);
            queue
        };
        let set = |period, count| Moderation { period, count };
        assert!(start().moderate(micros(3), set(0, 0)));
        assert!(start().moderate(micros(3), set(100, 2)));
        let deadline = |moderation| {
            let mut queue = start();
            assert!(!queue.moderate(micros(3), moderation));
            queue.deadline()
        };
        assert_eq!(deadline(set(10, 10)), Some(micros(13)), "sooner");
        assert_eq!(deadline(set(1000, 10)), Some(micros(101)), "never later");
        assert_eq!(deadline(set(0, 10)), Some(micros(101)));
        let mut idle = notifier(1, 1);
        idle.arm(micros(0), false, 0, false);
        assert!(!idle.moderate(micros(1), set(0, 0)), "nothing to announce");
    }

    /// Against a model that knows when every entry was written: the event comes when the count is
    /// reached or the time has passed, and not before.
    #[test]
    fn no_event_is_lost_late_or_early() {
        for seed in 0..500u64 {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(7);
                (state >> 33) % below
            };
            let (period, count) = (random(20) as u16, random(5) as u16);
            let mut queue = notifier(period, count);
            let mut now = 0;
            // When entries were written that count since the arming; `None` if not armed.
            let mut armed: Option<Vec<u64>> = None;
            for _ in 0..300 {
                now += random(6);
                let due = |written: &Vec<u64>| {
                    let off = period == 0 && count == 0;
                    let counted = count != 0 && written.len() >= count.into();
                    let late = period != 0;
                    let late = late
                        && written
                            .first()
                            .is_some_and(|at| at + u64::from(period) <= now);
                    !written.is_empty() && (off || counted || late)
                };
                let mut notified = queue.expire(micros(now));
                if armed.as_ref().is_some_and(due) {
                    assert!(notified, "seed {seed}: late");
                    armed = None;
                } else {
                    assert!(!notified, "seed {seed}: early");
                }
                notified = false;
                if random(2) == 0 {
                    notified = queue.written(micros(now), PLAIN);
                    if let Some(written) = &mut armed {
                        written.push(now);
                    }
                } else if armed.is_none() {
                    let waiting = random(4);
                    notified = queue.arm(micros(now), false, waiting as u32, false);
                    armed = Some((0..waiting).map(|_| now).collect());
                }
                if armed.as_ref().is_some_and(due) {
                    assert!(notified, "seed {seed}: lost");
                    armed = None;
                } else {
                    assert!(!notified, "seed {seed}: spurious");
                }
                let pending = armed.as_ref().is_some_and(|written| !written.is_empty());
                assert_eq!(queue.deadline().is_some(), pending && period != 0);
            }
        }
    }
}
