//! Frames of the control channel: commands to a guest, their output and status back.
//!
//! One stream in each direction, of which every frame belongs to a job. Whoever sends
//! [`Frame::Start`] chooses the job's number, and the guest answers with any number of
//! [`Frame::Output`] and one [`Frame::Exit`] or [`Frame::Refused`], after which the number is
//! free. Jobs run side by side, so frames of different jobs come in any order.
//!
//! A frame is a head of 12 bytes (job, kind, length of what follows, each 32 bits, least
//! significant byte first) and at most [`MAX_PAYLOAD`] bytes. Neither end trusts a length beyond
//! that: a stream that has one is out of step, and ends.

use std::io::{self, Read, Write};

/// The name of the virtio-serial port that carries frames; further ones end in `.1`, `.2`, ….
pub const PORT: &str = "vrnic.control";

/// Most bytes behind a head.
pub const MAX_PAYLOAD: usize = 64 << 10;

const HEAD: usize = 12;

/// What one end tells the other about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// To the guest: run this by `sh -c`.
    Start(String),
    /// To the guest: bytes for the command's standard input.
    Input(Vec<u8>),
    /// To the guest: the end of its standard input.
    EndOfInput,
    /// To the guest: this signal for the command and all it has started in its process group.
    Signal(u32),
    /// From the guest: bytes of the command's standard output and error, in the order written.
    Output(Vec<u8>),
    /// From the guest: the command has ended, with this code, or 128 and the signal's number.
    Exit(i32),
    /// From the guest: the command could not be started, and why.
    Refused(String),
}

impl Frame {
    fn kind(&self) -> u32 {
        match self {
            Frame::Start(_) => 1,
            Frame::Input(_) => 2,
            Frame::EndOfInput => 3,
            Frame::Signal(_) => 4,
            Frame::Output(_) => 5,
            Frame::Exit(_) => 6,
            Frame::Refused(_) => 7,
        }
    }

    /// Writes the frame in one piece.
    ///
    /// # Errors
    /// The stream cannot be written, or the frame is too long for its reader.
    pub fn write(&self, job: u32, stream: &mut impl Write) -> io::Result<()> {
        let number;
        let payload: &[u8] = match self {
            Frame::Start(text) | Frame::Refused(text) => text.as_bytes(),
            Frame::Input(bytes) | Frame::Output(bytes) => bytes,
            Frame::EndOfInput => &[],
            Frame::Signal(signal) => {
                number = signal.to_le_bytes();
                &number
            }
            Frame::Exit(code) => {
                number = code.to_le_bytes();
                &number
            }
        };
        if payload.len() > MAX_PAYLOAD {
            return Err(bad("a frame of more than 64 KiB"));
        }
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEAD + payload.len());
        for word in [job, self.kind(), length] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(payload);
        stream.write_all(&bytes)?;
        stream.flush()
    }

    /// Reads a frame and the number of its job; nothing if the stream ends before it.
    ///
    /// # Errors
    /// The stream cannot be read, ends in the middle of a frame, or is out of step.
    pub fn read(stream: &mut impl Read) -> io::Result<Option<(u32, Frame)>> {
        let mut head = [0; HEAD];
        let count = stream.read(&mut head)?;
        if count == 0 {
            return Ok(None);
        }
        stream.read_exact(head.get_mut(count..).unwrap_or_default())?;
        let [job, kind, length] = words(&head);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_PAYLOAD {
            return Err(bad("a frame of more than 64 KiB"));
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        Ok(Some((job, Frame::decode(kind, payload)?)))
    }

    fn decode(kind: u32, payload: Vec<u8>) -> io::Result<Frame> {
        let number = <[u8; 4]>::try_from(payload.as_slice());
        Ok(match (kind, number) {
            (1, _) => Frame::Start(text(payload)?),
            (2, _) => Frame::Input(payload),
            (3, _) => Frame::EndOfInput,
            (4, Ok(number)) => Frame::Signal(u32::from_le_bytes(number)),
            (5, _) => Frame::Output(payload),
            (6, Ok(number)) => Frame::Exit(i32::from_le_bytes(number)),
            (7, _) => Frame::Refused(text(payload)?),
            _ => return Err(bad("a frame of no known kind")),
        })
    }
}

fn words(head: &[u8; HEAD]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *head;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_le_bytes)
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| bad("text that is not UTF-8"))
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_as_it_was() {
        let frames = [
            Frame::Start("echo ä".to_owned()),
            Frame::Input(vec![0, 255]),
            Frame::EndOfInput,
            Frame::Signal(9),
            Frame::Output(vec![7; MAX_PAYLOAD]),
            Frame::Exit(-1),
            Frame::Refused("no".to_owned()),
        ];
        let mut stream = Vec::new();
        for (job, frame) in (5..).zip(&frames) {
            frame.write(job, &mut stream).unwrap();
        }
        let mut stream = stream.as_slice();
        for (job, frame) in (5..).zip(frames) {
            assert_eq!(Frame::read(&mut stream).unwrap(), Some((job, frame)));
        }
        assert_eq!(Frame::read(&mut stream).unwrap(), None);
    }

    #[test]
    fn streams_out_of_step_are_errors() {
        let long = Frame::Output(vec![0; MAX_PAYLOAD + 1]);
        assert!(long.write(0, &mut Vec::new()).is_err());
        let head = |kind: u32, length: u32| {
            let words = [0, kind, length].map(u32::to_le_bytes);
            words.concat()
        };
        for bytes in [
            head(5, u32::MAX),
            head(5, 1),
            head(6, 0),
            head(0, 0),
            head(99, 0),
            vec![0; 11],
            [head(1, 1), vec![0xff]].concat(),
        ] {
            assert!(Frame::read(&mut bytes.as_slice()).is_err(), "{bytes:02x?}");
        }
    }
}
