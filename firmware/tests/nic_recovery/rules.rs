//! Go-back-N as two state machines that watch the wire, independent of the code that they judge.
//!
//! The requester sends packets in order. It goes back only to the oldest packet that is not done,
//! and only because of a NAK, of a response that shows a gap, or because the ack timer has run out
//! exactly now; after an RNR NAK it is quiet for exactly the time that the NAK asks for (IBTA
//! volume 1, 9.7.5, 9.7.5.2, 9.7.6.1.3). The responder acknowledges only what arrived and never
//! less than before, and reports a gap once, by the sequence number that it expects (9.7.5.2.8).

use crate::nic_link::Point;
use crate::packet::{Packet, SEQUENCE, Says};
use std::collections::VecDeque;

/// How late the bench may notice a timer.
pub const STEP: u64 = 1_000;

/// What the connection asked for.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Bytes.
    pub mtu: u32,
    /// Ack timeout in nanoseconds, if there is one.
    pub timeout: Option<u64>,
}

/// RNR NAK timer by its code in nanoseconds (IBTA volume 1, table 45).
pub const fn rnr_wait(code: u8) -> u64 {
    // The table from code 1 on goes 1, 2, 3, 4, 6, 8, 12, … hundredths of a millisecond.
    let hundredths = match code {
        0 => 65_536,
        1 => 1,
        _ if code % 2 == 0 => 1 << (code / 2),
        _ => 3 << ((code - 3) / 2),
    };
    hundredths * 10_000
}

/// Holds all rules against a log whose requester is NIC 0.
#[track_caller]
pub fn check(terms: Terms, log: &[Packet]) {
    let mut requester = Requester::new(terms);
    let mut responder = Responder::new(terms);
    for packet in log {
        match (packet.from, packet.point) {
            (0, Point::Sent) => requester.sent(packet),
            (0, Point::Arrived) => responder.arrived(packet),
            (1, Point::Sent) => responder.sent(packet),
            (1, Point::Arrived) => requester.arrived(packet),
            _ => unreachable!("there are two NICs"),
        }
    }
}

/// Sequence numbers that a request takes.
fn takes(terms: Terms, packet: &Packet) -> u32 {
    match packet.says {
        Says::Read { length, .. } => length.div_ceil(terms.mtu).max(1),
        _ => 1,
    }
}

struct Requester {
    terms: Terms,
    /// Goes on here.
    next: u32,
    /// The oldest that is not done.
    done: u32,
    /// After all that were sent.
    high: u32,
    /// Requests that need a response, from the oldest that still does: first and end.
    owed: VecDeque<(u32, u32)>,
    /// A packet that arrived asks for going back.
    asked: bool,
    deadline: Option<u64>,
    quiet: Option<u64>,
}

impl Requester {
    fn new(terms: Terms) -> Self {
        Self {
            terms,
            next: 0,
            done: 0,
            high: 0,
            owed: VecDeque::new(),
            asked: false,
            deadline: None,
            quiet: None,
        }
    }

    #[track_caller]
    fn sent(&mut self, packet: &Packet) {
        assert!(packet.is_request(), "{packet:?}");
        if let Some(quiet) = self.quiet.take() {
            let late = packet.at.checked_sub(quiet).expect("quiet after RNR NAK");
            assert!(late <= STEP, "sent {late} ns after the end of the wait");
            assert_eq!(packet.index, self.done, "goes back after RNR NAK");
            self.next = self.done;
        }
        if packet.index != self.next {
            assert_eq!(packet.index, self.done, "goes back to the oldest");
            if packet.index < self.next {
                self.went_back(packet);
            }
        }
        let packets = takes(self.terms, packet);
        self.next = packet.index + packets;
        if self.next > self.high {
            let needs_response = matches!(packet.says, Says::Read { .. }) || packet.opcode >= 0x13;
            if needs_response && packet.opcode != 0x16 && packet.opcode != 0x17 {
                self.owed.push_back((packet.index, self.next));
            }
            self.high = self.next;
        }
        if self.deadline.is_none() {
            self.deadline = self.terms.timeout.map(|timeout| packet.at + timeout);
        }
    }

    #[track_caller]
    fn went_back(&mut self, packet: &Packet) {
        if !self.asked {
            let deadline = self.deadline.expect("a reason to go back");
            let late = packet.at.checked_sub(deadline);
            let late = late.unwrap_or_else(|| panic!("no reason to go back: {packet:?}"));
            assert!(late <= STEP, "{late} ns after the ack timeout: {packet:?}");
        }
        self.asked = false;
        self.deadline = None;
    }

    fn arrived(&mut self, packet: &Packet) {
        let index = packet.index;
        if index < self.done || index >= self.high {
            return;
        }
        match packet.says {
            Says::Ack => self.advance(packet.at, index + 1),
            Says::Nak { .. } => {
                self.advance(packet.at, index);
                self.asked = true;
            }
            Says::RnrNak { timer } => {
                self.advance(packet.at, index);
                if self.done == index {
                    self.quiet = Some(packet.at + rnr_wait(timer));
                    self.deadline = None;
                }
            }
            Says::ReadResponse | Says::AtomicResponse => {
                self.advance(packet.at, index);
                if self.done == index {
                    self.answered(packet.at);
                }
            }
            _ => panic!("a request to the requester: {packet:?}"),
        }
    }

    /// Everything before `end` is acknowledged, but what needs a response is not done by that.
    fn advance(&mut self, at: u64, end: u32) {
        let limit = self.owed.front().map_or(end, |owed| owed.0.max(self.done));
        if end > limit {
            self.asked = true;
        }
        self.done_until(at, end.min(limit));
    }

    /// The response to the oldest packet.
    fn answered(&mut self, at: u64) {
        self.done_until(at, self.done + 1);
        if self.owed.front().is_some_and(|owed| owed.1 == self.done) {
            self.owed.pop_front();
        }
    }

    fn done_until(&mut self, at: u64, end: u32) {
        if end <= self.done {
            return;
        }
        self.done = end;
        self.quiet = None;
        let timeout = self.terms.timeout.map(|timeout| at + timeout);
        self.deadline = timeout.filter(|_| self.done < self.high);
    }
}

struct Responder {
    terms: Terms,
    expected: u32,
    /// A packet after the expected one arrived, and it has not been there since.
    gap: bool,
    reported: bool,
    acknowledged: u32,
}

impl Responder {
    const fn new(terms: Terms) -> Self {
        Self {
            terms,
            expected: 0,
            gap: false,
            reported: false,
            acknowledged: 0,
        }
    }

    fn arrived(&mut self, packet: &Packet) {
        if packet.index == self.expected {
            self.expected += takes(self.terms, packet);
            (self.gap, self.reported) = (false, false);
        } else if packet.index > self.expected {
            self.gap = true;
        }
    }

    #[track_caller]
    fn sent(&mut self, packet: &Packet) {
        match packet.says {
            Says::Ack => {
                let end = packet.index + 1;
                assert!(end <= self.expected, "acknowledges what is missing");
                assert!(end >= self.acknowledged, "acknowledges less than before");
                self.acknowledged = end;
            }
            SEQUENCE => {
                assert!(self.gap, "no gap: {packet:?}");
                assert!(!self.reported, "a gap is reported once: {packet:?}");
                assert_eq!(packet.index, self.expected, "names the expected packet");
                self.reported = true;
            }
            // It had arrived and was not accepted, nor was what followed it.
            Says::RnrNak { .. } => {
                assert!(packet.index < self.expected, "{packet:?}");
                self.expected = packet.index;
                self.reported = true;
            }
            Says::ReadResponse | Says::AtomicResponse => {
                assert!(packet.index < self.expected, "{packet:?}");
            }
            _ => panic!("{packet:?}"),
        }
    }
}
