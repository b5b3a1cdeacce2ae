//! One client's connection without its socket: bytes in, requests out, lines back.
//!
//! Requests are carried out one after the other: the next one is handed out when the last one has
//! been answered, and while the client takes its answers. So answers come in order, and a client that
//! does not read costs no more than [`PAUSE`] of answers; events can add to that up to
//! [`MAX_OUTPUT`], which ends it.

use serde_json::Value;

use super::lines::{Lines, MAX_LINE};
use super::protocol::{Error, Outcome, Request, answer, greeting};

/// Bytes that wait for the client, from which on it gets no further answers.
const PAUSE: usize = 64 << 10;

/// Bytes that wait for the client at most.
const MAX_OUTPUT: usize = 1 << 20;

/// What a request that was handed out waits for.
#[derive(Debug)]
struct Pending {
    id: Option<Value>,
}

/// What the next message is.
#[derive(Debug)]
pub(crate) enum Next {
    /// A request, which must be answered with [`Session::reply`].
    Request(Request),
    /// None, and the client has been told so.
    Refused,
    /// There is none, or its turn has not come.
    Nothing,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Session {
    lines: Lines,
    output: Vec<u8>,
    /// Bytes of the output that were taken.
    taken: usize,
    pending: Option<Pending>,
    /// It gets events.
    subscribed: bool,
    /// The client sends no more.
    ended: bool,
    /// It cannot go on.
    broken: bool,
}

impl Session {
    /// A connection that begins.
    pub(crate) fn new() -> Self {
        Self {
            lines: Lines::default(),
            output: greeting(),
            taken: 0,
            pending: None,
            subscribed: false,
            ended: false,
            broken: false,
        }
    }

    /// Takes bytes from the client.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        if !self.broken {
            self.lines.feed(bytes);
        }
    }

    /// The client sends no more. What it sent is answered.
    pub(crate) fn end_input(&mut self) {
        self.ended = true;
        self.lines.end();
    }

    /// Looks at the next message, if it is its turn.
    pub(crate) fn next(&mut self) -> Next {
        if self.pending.is_some() || self.broken || self.is_paused() {
            return Next::Nothing;
        }
        let message = match self.lines.next() {
            Ok(Some(message)) => message,
            Ok(None) => return Next::Nothing,
            Err(_) => {
                let desc = format!("a message has at most {MAX_LINE} bytes");
                self.send(&answer(&Err(Error::generic(desc)), None));
                self.broken = true;
                return Next::Refused;
            }
        };
        match Request::parse(&message) {
            Ok(mut request) => {
                let id = request.id.take();
                self.pending = Some(Pending { id });
                Next::Request(request)
            }
            Err(error) => {
                self.send(&answer(&Err(error), None));
                Next::Refused
            }
        }
    }

    /// Whether more input helps.
    pub(crate) fn wants_input(&self) -> bool {
        self.pending.is_none() && !self.broken && !self.ended && !self.is_paused()
    }

    /// Answers the request that was handed out last.
    pub(crate) fn reply(&mut self, outcome: &Outcome) {
        if let Some(pending) = self.pending.take() {
            self.send(&answer(outcome, pending.id.as_ref()));
        }
    }

    /// From now on it gets events.
    pub(crate) fn subscribe(&mut self) {
        self.subscribed = true;
    }

    /// Reports an event, if the client wants any.
    pub(crate) fn tell(&mut self, event: &[u8]) {
        if self.subscribed && !self.broken {
            self.send(event);
        }
    }

    /// What is to be sent to the client.
    pub(crate) fn output(&self) -> &[u8] {
        self.output.get(self.taken..).unwrap_or_default()
    }

    /// So many bytes of it were sent.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.taken += bytes;
        // Moving what is left costs no more than having sent what was before it.
        if self.taken * 2 >= self.output.len() {
            self.output.drain(..self.taken.min(self.output.len()));
            self.taken = 0;
        }
    }

    /// Whether the connection is to be closed: after an error at once, and else when the client has
    /// sent and been sent everything.
    pub(crate) fn is_over(&self) -> bool {
        let idle = self.pending.is_none() && self.lines.is_empty() && self.unsent() == 0;
        self.broken || self.ended && idle
    }

    /// Whether nothing goes on until the client has read more.
    pub(crate) fn is_paused(&self) -> bool {
        self.unsent() >= PAUSE
    }

    fn unsent(&self) -> usize {
        self.output.len() - self.taken
    }

    fn send(&mut self, line: &[u8]) {
        if self.unsent() + line.len() > MAX_OUTPUT {
            log::warn!("a control client does not read what it is sent");
            self.broken = true;
            return;
        }
        self.output.extend_from_slice(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Reply;

    impl Session {
        /// The next request, past what is none.
        fn next_request(&mut self) -> Option<Request> {
            loop {
                match self.next() {
                    Next::Request(request) => return Some(request),
                    Next::Refused => {}
                    Next::Nothing => return None,
                }
            }
        }
    }

    /// Takes what is to be sent, as text.
    fn take(session: &mut Session) -> String {
        let text = String::from_utf8(session.output().to_vec()).unwrap();
        session.sent(text.len());
        text
    }

    fn started() -> Session {
        let mut session = Session::new();
        assert!(take(&mut session).starts_with("{\"QMP\":"));
        session
    }

    #[test]
    fn requests_are_answered_in_order_and_one_at_a_time() {
        let mut session = started();
        session.receive(b"{\"execute\":\"a\",\"id\":1}\n{\"execute\":\"b\"}\nnonsense\n");
        assert_eq!(session.next_request().unwrap().execute, "a");
        assert!(session.next_request().is_none() && !session.wants_input());
        session.reply(&Reply::done());
        assert_eq!(session.next_request().unwrap().execute, "b");
        session.reply(&Err(Error::generic("no")));
        assert!(session.next_request().is_none() && session.wants_input());
        let output = take(&mut session);
        let lines: Vec<_> = output.split_terminator("\r\n").collect();
        assert_eq!(lines[0], r#"{"return":{},"id":1}"#);
        assert_eq!(
            lines[1],
            r#"{"error":{"class":"GenericError","desc":"no"}}"#
        );
        assert!(
            lines[2].contains("bad JSON") && lines.len() == 3,
            "{output}"
        );
    }

    #[test]
    fn a_client_that_sends_no_more_gets_its_answers() {
        let mut session = started();
        session.receive(b"{\"execute\":\"a\"}{\"execute\":\"b\"}");
        session.end_input();
        for _ in 0..2 {
            assert!(session.next_request().is_some());
            assert!(!session.is_over());
            session.reply(&Reply::done());
        }
        assert!(session.next_request().is_none() && !session.is_over());
        assert_eq!(take(&mut session).lines().count(), 2);
        assert!(session.is_over());
    }

    #[test]
    fn a_client_that_does_not_read_gets_no_more_answers() {
        let mut session = started();
        let long = "x".repeat(60_000);
        for n in 0..4 {
            session.receive(format!("{{\"execute\":\"a\",\"id\":\"{long}\"}}\n").as_bytes());
            match session.next_request() {
                Some(_) => session.reply(&Reply::done()),
                None => assert!(n >= 2 && !session.wants_input()),
            }
        }
        assert!(session.output().len() < 3 * 65_536 && !session.is_over());
        take(&mut session);
        assert!(session.next_request().is_some(), "it has read");
    }

    #[test]
    fn events_that_nobody_reads_end_a_client() {
        let mut session = started();
        let event = vec![b'e'; 1000];
        session.tell(&event);
        assert_eq!(session.output(), b"", "not subscribed");
        session.subscribe();
        for _ in 0..1048 {
            session.tell(&event);
        }
        assert!(!session.is_over());
        session.tell(&event);
        assert!(session.is_over() && session.output().len() <= MAX_OUTPUT);
    }

    #[test]
    fn a_line_that_is_too_long_ends_a_client() {
        let mut session = started();
        session.receive(&vec![b' '; MAX_LINE]);
        assert!(session.next_request().is_none() && !session.is_over());
        session.receive(b" {}");
        assert!(session.next_request().is_none() && session.is_over());
        assert!(take(&mut session).contains("at most 65536 bytes"));
    }
}
