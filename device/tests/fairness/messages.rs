//! Floods of messages: register writes and resets of a client that waits for no answer.

use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use vrnic_abi::registers;

use super::{Flood, Scene, compare};
use crate::foreign::BAR_REGISTERS;
use crate::raw::{NO_REPLY, REGION_READ, REGION_WRITE, RESET, Raw, bytes, message};

/// Writes of one burst.
const BURST: usize = 400;
/// Bytes of an answer that holds a register: header, offset, region, count, value.
const ANSWER: usize = 16 + 16 + 4;

/// Bursts of writes to one register, with a read behind each, which is answered when the process has
/// taken all of them.
struct Writes {
    raw: Raw,
    burst: Vec<u8>,
    /// What has come of the answer.
    answer: Vec<u8>,
    under_way: bool,
    /// Whether they are resets, which take longer than to take them.
    resets: bool,
}

impl Writes {
    #[track_caller]
    fn new(socket: &Path, register: &vrnic_abi::Register, value: u32) -> Self {
        let region = BAR_REGISTERS;
        let at = u64::from(register.offset);
        let write = message(REGION_WRITE, NO_REPLY, &bytes!(at, region, 4_u32, value));
        let status = u64::from(registers::DEVICE_STATUS.offset);
        let mut burst = write.repeat(BURST);
        burst.extend(message(REGION_READ, 0, &bytes!(status, region, 4_u32)));
        Self {
            raw: Raw::negotiated(socket),
            burst,
            answer: Vec::new(),
            under_way: false,
            resets: register.offset == registers::RESET.offset,
        }
    }

    /// Takes what has come of the answer.
    #[track_caller]
    fn listen(&mut self) {
        let mut rest = vec![0; ANSWER - self.answer.len()];
        self.raw.stream.set_nonblocking(true).unwrap();
        match self.raw.stream.read(&mut rest) {
            Ok(length) => {
                assert_ne!(length, 0, "the connection has ended");
                self.answer.extend(&rest[..length]);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        self.raw.stream.set_nonblocking(false).unwrap();
        if self.answer.len() == ANSWER {
            self.under_way = false;
            self.answer.clear();
        }
    }

    /// Waits until the resets are done that the process has taken. More may have been refused: only so
    /// many wait for the engine.
    #[track_caller]
    fn wait_for_resets(&mut self) {
        let deadline = super::deadline();
        loop {
            let (errno, _) = self.raw.ask(RESET, &[], &[]).unwrap();
            if errno == 0 {
                return;
            }
            assert_eq!(errno, rustix::io::Errno::BUSY.raw_os_error() as u32);
            assert!(
                std::time::Instant::now() < deadline,
                "the flood does not end"
            );
        }
    }
}

impl Flood for Writes {
    fn feed(&mut self) {
        if !self.under_way {
            self.raw.stream.write_all(&self.burst).unwrap();
            self.under_way = true;
        }
    }

    fn is_on(&mut self) -> bool {
        if self.under_way {
            self.listen();
        }
        self.under_way
    }

    fn quench(&mut self) {
        let deadline = super::deadline();
        while self.is_on() {
            assert!(
                std::time::Instant::now() < deadline,
                "the flood does not end"
            );
        }
        if self.resets {
            self.wait_for_resets();
        }
    }
}

#[track_caller]
fn flood(what: &str, register: &vrnic_abi::Register, value: u32) {
    let mut scene = Scene::new(&[]);
    let mut flood = Writes::new(scene.flooder(), register, value);
    compare(what, &mut scene.victim, &mut flood);
    scene.end();
}

#[test]
fn a_flood_of_register_writes_is_bearable() {
    flood("register writes", &registers::ADMIN_COMPLETION_DOORBELL, 1);
}

#[test]
fn a_flood_of_resets_is_bearable() {
    flood("resets", &registers::RESET, registers::RESET_VALUE);
}
