//! Bytes of a stream, cut into messages.
//!
//! A message is one JSON object. It ends where its brackets are balanced, as QEMU's own client sends
//! no line break after it, and at the latest at a line break, so that one typing error does not
//! swallow everything that follows. Only brackets and strings are looked at here; what is no JSON is
//! found by the parser, which gets the whole line.
//!
//! Invariant: each byte is looked at once, and no more than [`MAX_LINE`] bytes of a message and one
//! portion of input are kept.

/// Longest message in bytes.
pub(crate) const MAX_LINE: usize = 64 << 10;

/// A message was longer than [`MAX_LINE`]: where the next one begins, nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Cuts what it is fed into messages.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    /// Where the next message begins.
    start: usize,
    /// Where the bytes begin that were not looked at.
    seen: usize,
    depth: u32,
    string: bool,
    escaped: bool,
    ended: bool,
}

impl Lines {
    /// Takes input, which should not be much: [`Self::next`] comes first.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        // Once a portion, and not once a message.
        self.buffer.drain(..self.start);
        self.seen -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// There is no more input: what is left is a message.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Whether nothing is left of what it was fed.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }

    /// Bytes that are kept.
    #[cfg(test)]
    fn kept(&self) -> usize {
        self.buffer.len()
    }

    /// The next message that is complete, never an empty one.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        loop {
            let Some(byte) = self.buffer.get(self.seen) else {
                let rest = self.ended && !self.is_empty();
                return Ok(rest.then(|| self.cut()).filter(|line| !is_blank(line)));
            };
            let complete = self.look(*byte);
            self.seen += 1;
            if self.seen - self.start > MAX_LINE {
                return Err(TooLong);
            }
            if complete {
                let line = self.cut();
                if !is_blank(&line) {
                    return Ok(Some(line));
                }
            }
        }
    }

    /// Looks at the next byte; says whether it ends a message.
    fn look(&mut self, byte: u8) -> bool {
        if byte == b'\n' {
            return true;
        }
        if self.string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.string = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' if self.depth > 0 => {
                self.depth -= 1;
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }

    /// Takes the message that ends here.
    fn cut(&mut self) -> Vec<u8> {
        let line = self.buffer.get(self.start..self.seen).unwrap_or_default();
        let line = line.to_vec();
        self.start = self.seen;
        (self.depth, self.string, self.escaped) = (0, false, false);
        line
    }
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    /// The messages that come of `pieces` and the end of the input.
    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.feed(piece);
            while let Some(line) = lines.next().unwrap() {
                found.push(String::from_utf8(line).unwrap().trim().to_owned());
            }
        }
        lines.end();
        while let Some(line) = lines.next().unwrap() {
            found.push(String::from_utf8(line).unwrap().trim().to_owned());
        }
        found
    }

    #[test]
    fn a_message_ends_with_its_brackets_or_with_its_line() {
        assert_eq!(
            lines(&[b"{\"a\":{}}{\"b\":[1]}"]),
            [r#"{"a":{}}"#, r#"{"b":[1]}"#]
        );
        assert_eq!(
            lines(&[b"{\"a\":", b"1}\r\n\r\n {}\n"]),
            [r#"{"a":1}"#, "{}"]
        );
        assert_eq!(lines(&[b"{\"a\"\nfoo\n{}"]), [r#"{"a""#, "foo", "{}"]);
        assert_eq!(lines(&[b"}}]\n{}"]), ["}}]", "{}"]);
        assert_eq!(lines(&[b"{\"a\""]), [r#"{"a""#], "what is left at the end");
        assert_eq!(lines(&[b" \n\t\r\n  "]), Vec::<String>::new());
    }

    #[test]
    fn brackets_in_strings_are_no_brackets() {
        let tricky = r#"{"a":"}{]\"}\\","b":"["}"#;
        assert_eq!(lines(&[tricky.as_bytes(), b"{}"]), [tricky, "{}"]);
        // A string does not reach into the next line.
        assert_eq!(lines(&[b"{\"a}\n{}"]), ["{\"a}", "{}"]);
    }

    #[test]
    fn a_message_that_is_too_long_is_not_kept() {
        let mut lines = Lines::default();
        let portion = [b'['; 1000];
        let mut fed = 0;
        let error = loop {
            lines.feed(&portion);
            fed += portion.len();
            match lines.next() {
                Ok(None) => assert!(fed <= MAX_LINE),
                Ok(Some(line)) => panic!("{} bytes", line.len()),
                Err(error) => break error,
            }
        };
        assert_eq!(error, TooLong);
        assert!(fed > MAX_LINE && lines.kept() <= MAX_LINE + portion.len());
        let mut longest = vec![b' '; MAX_LINE - 2];
        longest.extend_from_slice(b"{}");
        let mut lines = Lines::default();
        lines.feed(&longest);
        assert_eq!(lines.next(), Ok(Some(longest)));
    }

    #[test]
    fn pieces_do_not_matter() {
        for seed in 0..500 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let alphabet = b"{}[]\"\\\n a\xff";
            let bytes: Vec<u8> = (0..rng.random_range(0..60))
                .map(|_| alphabet[rng.random_range(0..alphabet.len())])
                .collect();
            let all = |step: usize| {
                let (mut lines, mut found) = (Lines::default(), Vec::new());
                for piece in bytes.chunks(step) {
                    lines.feed(piece);
                    while let Some(line) = lines.next().unwrap() {
                        found.push(line);
                    }
                }
                lines.end();
                found.extend(lines.next().unwrap());
                found
            };
            assert_eq!(all(1), all(60), "seed {seed}: {bytes:?}");
        }
    }
}
