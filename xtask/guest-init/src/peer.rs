//! Meeting the guest at the other end of a serial line.
//!
//! A serial port loses what arrives before it is opened. So each side opens its end and says
//! hello, again and again, until it hears anything from the other; then it says ready, once, as
//! its last word. Having heard the other's ready, it knows that the other's port is open and that
//! nothing of this exchange is still on its way. The port stays open, in raw mode, for the
//! command that runs afterwards.

use std::fs::File;
use std::io::{Read, Write};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// Pause between two hellos.
const PACE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
/// Hellos before the other side is given up: 60 s.
const PATIENCE: u32 = 1200;

/// What one side says. The two sides use different words: a port that is open but not yet raw
/// sends back what it receives.
struct Words {
    hello: u8,
    ready: u8,
}

const WORDS: [Words; 2] = [
    Words {
        hello: b'h',
        ready: b'r',
    },
    Words {
        hello: b'H',
        ready: b'R',
    },
];

/// Opens the line and meets the other side; `role` is `a` on one side and `b` on the other.
pub(crate) fn meet(path: &str, role: &str) -> Result<File> {
    let [a, b] = WORDS;
    let (mine, theirs) = match role {
        "a" => (a, b),
        "b" => (b, a),
        _ => bail!("guest.peer needs guest.role=a or guest.role=b"),
    };
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let line = open(path, flags, Mode::empty()).with_context(|| format!("cannot open {path}"))?;
    let mut line = File::from(line);
    let mut mode = tcgetattr(&line).with_context(|| format!("{path} is no serial line"))?;
    mode.make_raw();
    tcsetattr(&line, OptionalActions::Now, &mode)?;
    let mut heard = wait_for_any(&mut line, &mine, &theirs)?;
    line.write_all(&[mine.ready])?;
    while heard != theirs.ready {
        heard = read_one(&mut line)?;
    }
    Ok(line)
}

/// Says hello until the other side is heard.
fn wait_for_any(line: &mut File, mine: &Words, theirs: &Words) -> Result<u8> {
    for _ in 0..PATIENCE {
        line.write_all(&[mine.hello])?;
        if poll(&mut [PollFd::new(line, PollFlags::IN)], Some(&PACE))? == 0 {
            continue;
        }
        let heard = read_one(line)?;
        if heard == theirs.hello || heard == theirs.ready {
            return Ok(heard);
        }
    }
    bail!("the other guest did not answer")
}

fn read_one(line: &mut File) -> Result<u8> {
    let mut byte = [0];
    line.read_exact(&mut byte)?;
    Ok(byte[0])
}
