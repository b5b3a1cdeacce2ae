//! Whether the host has a processor to spare for an engine that polls.
//!
//! Polling saves the time of going to sleep and being woken, but only while nobody else waits for
//! the processor that it uses. A virtual machine that polls for a completion, or the peer's engine,
//! would otherwise wait for this engine's patience to end before it can even make the work that the
//! engine polls for. So the engine looks from time to time how many threads of the host can run.

use std::fs::{File, read_to_string};
use std::os::unix::fs::FileExt;

use vrnic_firmware::types::Time;

/// How long an answer is good for, in nanoseconds. A look takes a few microseconds.
const GOOD_FOR: u64 = 1_000_000;

/// How busy the host's processors are.
#[derive(Debug)]
pub(super) struct Processors {
    /// `/proc/loadavg`, or `None` where there is none.
    load: Option<File>,
    /// Those of the host, of which this process may be allowed to use a part only: the load is the
    /// host's, too.
    count: usize,
    /// When to look again.
    look_at: Time,
    short: bool,
}

impl Processors {
    /// Those of this host. If it does not tell how busy they are, there is always one to spare.
    pub(super) fn of_host() -> Self {
        Self {
            load: File::open("/proc/loadavg").ok(),
            count: read_to_string("/sys/devices/system/cpu/online")
                .ok()
                .and_then(|text| count(&text))
                .unwrap_or(usize::MAX),
            look_at: Time(0),
            short: false,
        }
    }

    /// Whether more threads can run than there are processors, the caller's own thread included.
    pub(super) fn are_short(&mut self, now: Time) -> bool {
        if now >= self.look_at {
            self.look_at = Time(now.0.saturating_add(GOOD_FOR));
            self.short = self.runnable().is_some_and(|threads| threads > self.count);
        }
        self.short
    }

    /// Threads of the host that run or could run now.
    fn runnable(&self) -> Option<usize> {
        let mut text = [0; 64];
        let length = self.load.as_ref()?.read_at(&mut text, 0).ok()?;
        parse(text.get(..length)?)
    }
}

/// The number of runnable threads in the text of `/proc/loadavg`, proc_loadavg(5).
fn parse(text: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?;
    let (runnable, _all) = text.split_ascii_whitespace().nth(3)?.split_once('/')?;
    runnable.parse().ok()
}

/// The number of processors in a list such as `0-3,8`, as in `/sys/devices/system/cpu/online`.
fn count(list: &str) -> Option<usize> {
    let mut count = 0usize;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        for (list, number) in [("0\n", 1), ("0-1\n", 2), ("0-3,8,10-11", 7)] {
            assert_eq!(count(list), Some(number), "{list}");
        }
        for other in ["", "\n", "3-1", "a", "0-18446744073709551615"] {
            assert_eq!(count(other), None, "{other}");
        }
    }

    #[test]
    fn the_text_of_the_kernel_is_understood() {
        assert_eq!(parse(b"0.20 0.18 0.12 3/80 11206\n"), Some(3));
        assert_eq!(parse(b"0.20 0.18 0.12 1280/8000 11206\n"), Some(1280));
        for other in [&b""[..], b"0.20 0.18", b"a b c d e", b"0 0 0 /1 2", b"\xff"] {
            assert_eq!(parse(other), None);
        }
    }

    #[test]
    fn a_host_that_says_nothing_has_a_processor_to_spare() {
        let mut processors = Processors {
            load: None,
            count: 0,
            look_at: Time(0),
            short: true,
        };
        assert!(!processors.are_short(Time(0)));
    }

    #[test]
    fn an_answer_is_kept_for_a_while() {
        let mut processors = Processors::of_host();
        assert!(processors.load.is_some(), "no /proc here");
        assert!((1..usize::MAX).contains(&processors.count), "no /sys here");
        // This thread runs, so one is always more than none.
        processors.count = 0;
        assert!(processors.are_short(Time(5)));
        processors.count = usize::MAX;
        assert!(processors.are_short(Time(4 + GOOD_FOR)));
        assert!(!processors.are_short(Time(5 + GOOD_FOR)));
    }
}
