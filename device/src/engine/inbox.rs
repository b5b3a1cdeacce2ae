//! Messages to an engine, in turn by whom they are about.
//!
//! Clients can have a thousand messages waiting each. In the order in which they were sent, those of
//! one client would hold up everybody else's. So they are sorted into lanes as they come, one for each
//! function, and lanes take turns.
//!
//! A message that has no lane is a barrier: it comes after all that were sent before it, and before all
//! that were sent after it. Whoever operates the NIC sends those, no client does, so waiting for one is
//! rare.
//!
//! Invariant: messages of a lane are handed out in the order in which they were sent, and no message
//! passes a barrier.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, TryRecvError};

/// Messages that are sorted at a time: moving one costs next to nothing.
const SORTED_AT_ONCE: usize = 256;

/// Tells which lane a message belongs to.
pub(super) trait Lane {
    /// The function that the message is about, `None` for a barrier.
    fn function(&self) -> Option<usize>;
}

/// The receiving end.
pub(super) struct Inbox<M> {
    receiver: Receiver<M>,
    /// By function.
    lanes: Vec<VecDeque<M>>,
    /// It has come after all that is in lanes; nothing is sorted until it is taken.
    barrier: Option<M>,
    /// Lanes that have messages.
    turns: VecDeque<usize>,
    closed: bool,
}

impl<M: Lane> Inbox<M> {
    pub(super) const fn new(receiver: Receiver<M>) -> Self {
        Self {
            receiver,
            lanes: Vec::new(),
            barrier: None,
            turns: VecDeque::new(),
            closed: false,
        }
    }

    /// Whether nobody can send messages any more, and all are taken.
    pub(super) fn is_closed(&self) -> bool {
        self.closed && self.is_empty()
    }

    /// Whether no sorted message is left.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty() && self.barrier.is_none()
    }

    /// Sorts what has come, a bounded number.
    pub(super) fn sort(&mut self) {
        for _ in 0..SORTED_AT_ONCE {
            if self.barrier.is_some() {
                return;
            }
            match self.receiver.try_recv() {
                Ok(message) => self.put(message),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    fn put(&mut self, message: M) {
        let Some(lane) = message.function() else {
            self.barrier = Some(message);
            return;
        };
        if lane >= self.lanes.len() {
            self.lanes.resize_with(lane + 1, VecDeque::new);
        }
        let messages = &mut self.lanes[lane];
        if messages.is_empty() {
            self.turns.push_back(lane);
        }
        messages.push_back(message);
    }

    /// The next message, of the lane that has waited longest; a barrier when lanes are empty.
    pub(super) fn take(&mut self) -> Option<M> {
        let Some(lane) = self.turns.pop_front() else {
            return self.barrier.take();
        };
        let messages = self.lanes.get_mut(lane)?;
        let message = messages.pop_front();
        if !messages.is_empty() {
            self.turns.push_back(lane);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[derive(Debug, PartialEq)]
    struct Note(Option<usize>, u32);

    impl Lane for Note {
        fn function(&self) -> Option<usize> {
            self.0
        }
    }

    #[test]
    fn a_flood_of_one_function_holds_up_no_other() {
        let (sender, receiver) = channel();
        let mut inbox = Inbox::new(receiver);
        for n in 0..1000 {
            sender.send(Note(Some(3), n)).unwrap();
        }
        sender.send(Note(Some(0), 0)).unwrap();
        (0..5).for_each(|_| inbox.sort());
        let taken: Vec<_> = (0..3).map_while(|_| inbox.take()).collect();
        let wanted = [Note(Some(3), 0), Note(Some(0), 0), Note(Some(3), 1)];
        assert_eq!(taken, wanted);
        for n in 2..1000 {
            assert_eq!(inbox.take(), Some(Note(Some(3), n)));
        }
        assert_eq!(inbox.take(), None);
    }

    #[test]
    fn nothing_passes_a_barrier() {
        let (sender, receiver) = channel();
        let mut inbox = Inbox::new(receiver);
        let sent = [
            Note(Some(1), 0),
            Note(Some(1), 1),
            Note(None, 2),
            Note(None, 3),
            Note(Some(0), 4),
            Note(Some(1), 5),
        ];
        for note in &sent {
            sender.send(Note(note.0, note.1)).unwrap();
        }
        let mut taken = Vec::new();
        loop {
            inbox.sort();
            if inbox.is_empty() {
                break;
            }
            taken.extend(inbox.take());
        }
        assert_eq!(taken, sent);
    }

    #[test]
    fn a_sort_is_bounded_and_the_end_comes_last() {
        let (sender, receiver) = channel();
        let mut inbox = Inbox::new(receiver);
        for n in 0..300 {
            sender.send(Note(Some(0), n)).unwrap();
        }
        drop(sender);
        inbox.sort();
        assert!(!inbox.is_closed());
        let taken = std::iter::from_fn(|| inbox.take()).count();
        assert_eq!(taken, SORTED_AT_ONCE);
        inbox.sort();
        assert!(!inbox.is_closed());
        assert_eq!(inbox.take(), Some(Note(Some(0), 256)));
        while inbox.take().is_some() {}
        assert!(inbox.is_closed());
    }
}
