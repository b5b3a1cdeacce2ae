//! Messages that wait to be sent.
//!
//! Each message keeps its own bytes and descriptors: it is handed to the
//! kernel by itself, so that its header is never torn apart (QEMU's client
//! wants a header whole) and its descriptors arrive with its first byte.
//! The queue is bounded ([`limits`](crate::limits)); when it overflows, what
//! does not fit is dropped and the connection is to end.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::limits::{MAX_OUT_BYTES, MAX_OUT_MESSAGES};
use crate::wire::Header;

// Buffers kept for the messages to come: enough for register accesses.
const SPARE_BUFFERS: usize = 8;
const SPARE_CAPACITY: usize = 4096;

#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    fds: Vec<Arc<OwnedFd>>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Message>,
    // Bytes of the first message that are already sent.
    sent: usize,
    bytes: usize,
    overflown: bool,
    spare: Vec<Vec<u8>>,
}

impl Outbox {
    /// Queues a message. `body` appends its body; the header's `body` is set
    /// to what it appended.
    pub(crate) fn push(
        &mut self,
        mut header: Header,
        fds: Vec<Arc<OwnedFd>>,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut payload = self.spare.pop().unwrap_or_default();
        // Room for the header, which is only known after the body.
        payload.resize(Header::SIZE, 0);
        body(&mut payload);
        let length = payload.len().saturating_sub(Header::SIZE);
        header.body = u32::try_from(length).unwrap_or(u32::MAX);
        let mut head = Vec::with_capacity(Header::SIZE);
        header.emit(&mut head);
        if let Some(room) = payload.get_mut(..Header::SIZE) {
            room.copy_from_slice(&head);
        }
        self.enqueue(Message {
            bytes: payload,
            fds,
        });
    }

    fn enqueue(&mut self, message: Message) {
        let bytes = self.bytes.saturating_add(message.bytes.len());
        if bytes > MAX_OUT_BYTES || self.queue.len() >= MAX_OUT_MESSAGES {
            self.overflown = true;
            return;
        }
        self.bytes = bytes;
        self.queue.push_back(message);
    }

    /// Whether a message had to be dropped.
    pub(crate) fn overflown(&self) -> bool {
        self.overflown
    }

    /// What to send next, all of one message: the bytes left, and the
    /// descriptors to send with them.
    pub(crate) fn front(&self) -> Option<(&[u8], &[Arc<OwnedFd>])> {
        let message = self.queue.front()?;
        let bytes = message.bytes.get(self.sent..)?;
        let fds = if self.sent == 0 {
            &message.fds[..]
        } else {
            &[]
        };
        Some((bytes, fds))
    }

    /// Takes note that `bytes` of [`Outbox::front`] were sent.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        if self
            .queue
            .front()
            .is_some_and(|m| m.bytes.len() > self.sent)
        {
            return;
        }
        self.sent = 0;
        if let Some(mut message) = self.queue.pop_front() {
            message.bytes.clear();
            if self.spare.len() < SPARE_BUFFERS && message.bytes.capacity() <= SPARE_CAPACITY {
                self.spare.push(message.bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Command, Kind};

    const HEADER: Header = Header {
        id: 3,
        command: Command::RegionRead,
        body: 0,
        kind: Kind::Reply,
    };

    #[test]
    fn a_message_is_offered_until_all_of_it_is_sent() {
        let fd: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let mut out = Outbox::default();
        out.push(HEADER, vec![Arc::new(fd)], |b| b.extend_from_slice(&[9; 4]));
        out.push(HEADER, vec![], |_| {});
        assert_eq!(out.front().unwrap().0.len(), 20);
        assert_eq!(out.front().unwrap().1.len(), 1);
        out.advance(17);
        assert_eq!(out.front().unwrap().0, [9; 3]);
        assert_eq!(out.front().unwrap().1.len(), 0);
        out.advance(3);
        assert_eq!(out.front().unwrap().0.len(), 16);
        out.advance(16);
        assert!(out.front().is_none());
        assert_eq!(out.bytes, 0);
    }

    #[test]
    fn the_queue_is_bounded_in_messages_and_bytes() {
        let mut out = Outbox::default();
        for _ in 0..MAX_OUT_MESSAGES {
            out.push(HEADER, vec![], |_| {});
        }
        assert!(!out.overflown());
        out.push(HEADER, vec![], |_| {});
        assert!(out.overflown());

        let mut out = Outbox::default();
        out.push(HEADER, vec![], |b| b.resize(MAX_OUT_BYTES, 0));
        assert!(!out.overflown());
        out.push(HEADER, vec![], |_| {});
        assert!(out.overflown());
    }
}
