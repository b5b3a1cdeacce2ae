//! Packet captures: what the ports of an RNIC send and receive, as a pcapng file.
//!
//! A [`Capture`] is one file and the thread that writes it. Each engine has a
//! [`Tap`] of its own, with one interface in the file or several, and hands it every
//! frame with its interface and direction. A tap formats the frame into a chunk of memory and gives full
//! chunks to the writer through a bounded channel; the writer gives them back
//! empty. The engine never waits and never allocates: when the writer falls behind
//! and all of a tap's chunks are on their way, frames are left out and counted, and
//! the count stands in the file at the end.
//!
//! The file is complete once every tap is dropped and [`Capture::finish`] has
//! returned; before, all of it up to the last [`Tap::flush`] can be read.

mod pcapng;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::link::MAX_FRAME;

/// Bytes of a chunk; holds any frame.
const CHUNK: usize = 256 << 10;
const _: () = assert!(CHUNK > pcapng::packet_bytes(MAX_FRAME));

/// Chunks of one tap: how far the writer may fall behind.
const CHUNKS: usize = 16;

/// Messages on their way to the writer.
const QUEUE: usize = 64;

/// Mode of a file that a capture makes: it has what guests send each other.
pub const MODE: u32 = 0o600;

/// Which way a frame went, as whoever has the interface sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came in.
    Received,
    /// It went out.
    Sent,
}

enum Message {
    Chunk(Chunk),
    Finish,
}

/// Blocks for the file, and where the memory goes back to.
struct Chunk {
    bytes: Vec<u8>,
    home: SyncSender<Chunk>,
}

/// A capture file and its writer thread.
pub struct Capture {
    queue: SyncSender<Message>,
    writer: Option<JoinHandle<io::Result<()>>>,
    interfaces: u32,
}

impl Capture {
    /// Creates the file, for its owner only, or replaces what is in an earlier one, and starts its
    /// writer.
    ///
    /// # Errors
    /// What the file system or the thread start says.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(MODE);
        Self::begin(options.open(path)?)
    }

    /// Begins a capture in an empty file.
    ///
    /// # Errors
    /// What the file system or the thread start says.
    pub fn begin(mut file: File) -> io::Result<Self> {
        let mut head = Vec::new();
        pcapng::section(&mut head);
        file.write_all(&head)?;
        let (queue, work) = sync_channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || write_chunks(file, &work))?;
        Ok(Capture {
            queue,
            writer: Some(writer),
            interfaces: 0,
        })
    }

    /// A tap for one engine, with interfaces that the file calls by these names.
    pub fn tap(&mut self, names: &[&str]) -> Tap {
        let (home, empty) = sync_channel(CHUNKS + 1);
        let mut description = Chunk {
            bytes: Vec::with_capacity(CHUNK),
            home: home.clone(),
        };
        for name in names {
            pcapng::interface(&mut description.bytes, name);
        }
        for _ in 1..CHUNKS {
            let _ = home.try_send(Chunk {
                bytes: Vec::with_capacity(CHUNK),
                home: home.clone(),
            });
        }
        let first = self.interfaces;
        // CAST: there are fewer functions than 65536.
        self.interfaces += names.len() as u32;
        // Ahead of everything that will refer to it. The writer lives as long as we.
        let _ = self.queue.send(Message::Chunk(description));
        Tap {
            queue: self.queue.clone(),
            empty,
            home,
            chunk: None,
            first,
            interfaces: vec![Tally::default(); names.len()],
        }
    }

    /// Writes out everything that taps have handed over, and closes the file. Drop
    /// the taps first: what they still hold, and what comes after, is left out.
    ///
    /// # Errors
    /// The first error that the writer met; the file ends there.
    pub fn finish(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        let _ = self.queue.send(Message::Finish);
        writer
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the capture writer died")))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

/// The writer thread. After an error it only gives the chunks back.
fn write_chunks(mut file: File, work: &Receiver<Message>) -> io::Result<()> {
    let mut result = Ok(());
    while let Ok(Message::Chunk(mut chunk)) = work.recv() {
        if result.is_ok() {
            result = file.write_all(&chunk.bytes);
        }
        chunk.bytes.clear();
        let home = chunk.home.clone();
        let _ = home.try_send(chunk); // fails when the tap is gone
    }
    result
}

/// One engine's way into a capture.
pub struct Tap {
    queue: SyncSender<Message>,
    empty: Receiver<Chunk>,
    home: SyncSender<Chunk>,
    chunk: Option<Chunk>,
    /// What the file calls its first interface.
    first: u32,
    interfaces: Vec<Tally>,
}

/// Frames of an interface.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    seen: u64,
    lost: u64,
}

impl Tap {
    /// Adds a frame of one of its interfaces, counted from 0, stamped with the time of day. Longer
    /// than [`MAX_FRAME`] it is left out and counted.
    pub fn record(&mut self, interface: usize, direction: Direction, frame: &[u8]) {
        self.record_at(now(), interface, direction, frame);
    }

    /// Adds a frame with a time in nanoseconds since 1970.
    pub fn record_at(&mut self, time: u64, interface: usize, direction: Direction, frame: &[u8]) {
        let fits = frame.len() <= MAX_FRAME && self.make_room(pcapng::packet_bytes(frame.len()));
        let Some(tally) = self.interfaces.get_mut(interface) else {
            return;
        };
        tally.seen += 1;
        match &mut self.chunk {
            Some(chunk) if fits => {
                // CAST: as in `Capture::tap`.
                let id = self.first + interface as u32;
                pcapng::packet(&mut chunk.bytes, id, time, direction, frame);
            }
            _ => tally.lost += 1,
        }
    }

    /// Hands what was recorded so far to the writer, if it keeps up. For an engine that is about to
    /// sleep, so that the file is up to date while nothing happens. Under load an engine sleeps
    /// often, and chunks that are hardly begun must not use up the pool.
    pub fn flush(&mut self) {
        if self
            .chunk
            .as_ref()
            .is_none_or(|chunk| chunk.bytes.is_empty())
        {
            return;
        }
        if let Ok(next) = self.empty.try_recv() {
            self.hand_over();
            if self.chunk.is_none() {
                self.chunk = Some(next);
            } else {
                let _ = self.home.try_send(next);
            }
        }
    }

    /// Gives the chunk to the writer, if that has room for it.
    fn hand_over(&mut self) {
        let Some(chunk) = self.chunk.take() else {
            return;
        };
        let result = self.queue.try_send(Message::Chunk(chunk));
        // After `finish` there is nobody to take it.
        if let Err(TrySendError::Full(Message::Chunk(chunk))) = result {
            self.chunk = Some(chunk);
        }
    }

    /// Frames that are missing in the file.
    pub fn lost(&self) -> u64 {
        self.interfaces.iter().map(|tally| tally.lost).sum()
    }

    /// Whether the chunk, or another one in its place, holds `bytes` more.
    fn make_room(&mut self, bytes: usize) -> bool {
        let room = |chunk: &Chunk| CHUNK - chunk.bytes.len() >= bytes;
        if self.chunk.as_ref().is_some_and(room) {
            return true;
        }
        self.hand_over();
        if self.chunk.is_none() {
            self.chunk = self.empty.try_recv().ok();
        }
        self.chunk.as_ref().is_some_and(room)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let mut last = self.chunk.take().unwrap_or_else(|| Chunk {
            bytes: Vec::new(),
            home: self.home.clone(),
        });
        let now = now();
        for (id, tally) in (self.first..).zip(&self.interfaces) {
            pcapng::statistics(&mut last.bytes, id, now, tally.seen, tally.lost);
        }
        let _ = self.queue.send(Message::Chunk(last)); // fails after `finish`
    }
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
