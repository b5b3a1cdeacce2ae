//! A process: it opens the device a few times, calls and scribbles from several threads, forks, and
//! ends by itself or is killed, with everything open.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::calls::Caller;
use crate::command::{Bytes, Command, Way};
use crate::context::Context;
use crate::scribble::Scribbler;
use crate::tally::{Call, Tally};

/// Threads that call, in each process.
const CALLERS: usize = 3;
/// Milliseconds that a process lives for.
const LIFETIME: std::ops::Range<u64> = 200..4000;

/// A process that was started.
pub(crate) struct Life {
    pid: libc::pid_t,
    end: Instant,
}

impl Life {
    /// Starts a process.
    pub(crate) fn begin(device: &str, tally: &Tally, seed: u64) -> Result<Self> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let time = Duration::from_millis(rng.random_range(LIFETIME));
        let killed: bool = rng.random();
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error().into()),
            0 => {
                // One that is to be killed goes on until it is.
                let limit = if killed {
                    Duration::from_secs(3600)
                } else {
                    time
                };
                // Whatever went wrong in there is no matter of this program's.
                let _ = live(device, tally, &mut rng, limit);
                std::process::exit(0)
            }
            pid => {
                // One that ends by itself must do so soon after its time.
                let grace = if killed {
                    Duration::ZERO
                } else {
                    Duration::from_secs(10)
                };
                Ok(Self {
                    pid,
                    end: Instant::now() + time + grace,
                })
            }
        }
    }

    /// Whether it is time to kill it.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    fn wait(&self, flags: i32) -> Result<bool> {
        let mut status = 0;
        // SAFETY: a place for the status.
        match unsafe { libc::waitpid(self.pid, &raw mut status, flags) } {
            -1 => bail!("lost a process: {}", io::Error::last_os_error()),
            pid => Ok(pid == self.pid),
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        self.wait(libc::WNOHANG)
    }

    /// Ends it at once.
    pub(crate) fn kill(self) -> Result<()> {
        // SAFETY: a child that was not waited for.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        self.wait(0).map(drop)
    }
}

/// Lets this process, and not the system's first one, wait for what its children leave behind.
pub(crate) fn adopt() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Waits until there are no children any more.
pub(crate) fn wait_for_all() {
    // SAFETY: the status is not asked for.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } > 0 {}
}

/// The port's first address; any, if it has none.
fn gid() -> [u8; 16] {
    let mut gid = [0; 16];
    let Ok(devices) = std::fs::read_dir("/sys/class/infiniband") else {
        return gid;
    };
    for device in devices.flatten() {
        let text = std::fs::read_to_string(device.path().join("ports/1/gids/0"));
        let text = text.unwrap_or_default().replace(':', "");
        for (to, digits) in gid.iter_mut().zip(text.trim().as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).unwrap_or("0");
            *to = u8::from_str_radix(digits, 16).unwrap_or(0);
        }
    }
    gid
}

/// Torments the device for a time.
fn live(device: &str, tally: &Tally, rng: &mut SmallRng, time: Duration) -> Result<()> {
    let (gid, end) = (gid(), Instant::now() + time);
    while Instant::now() < end {
        let contexts = (0..rng.random_range(1..3))
            .map(|_| Context::open(device, tally))
            .collect::<Result<Vec<_>>>()?;
        let until = end.min(Instant::now() + Duration::from_millis(rng.random_range(50..2000)));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for context in &contexts {
                for _ in 0..CALLERS {
                    let rng = SmallRng::seed_from_u64(rng.random());
                    let mut caller = Caller {
                        context,
                        tally,
                        gid,
                        rng,
                    };
                    let over = &over;
                    scope.spawn(move || {
                        while !over.load(Ordering::Relaxed) {
                            caller.call();
                        }
                    });
                }
                let rng = SmallRng::seed_from_u64(rng.random());
                let mut scribbler = Scribbler { context, rng };
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        scribbler.scribble();
                        // Calls need the processor, too.
                        std::thread::yield_now();
                    }
                });
            }
            while Instant::now() < until {
                std::thread::sleep(Duration::from_millis(20));
                if let Some(context) = contexts.first().filter(|_| rng.random_ratio(1, 8)) {
                    fork(context, tally, rng.random());
                }
            }
            over.store(true, Ordering::Relaxed);
        });
    }
    Ok(())
}

/// A child that inherits everything, uses it a little, and ends at once or somewhat later.
fn fork(context: &Context, tally: &Tally, value: u64) {
    // SAFETY: the child makes system calls and stores only, and ends without cleaning up.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        for offset in 0..64 {
            context.memory.store_word(offset * 512, value);
        }
        let body = Bytes::default().u32(value as u32 % 64);
        let number = [4, 13, 16][value as usize % 3];
        // Not by `write`, which the kernel refuses, and logs, from all but whoever has opened the file.
        let _ = Command::new(number, body, 0).send(context.fd(), Way::Ioctl);
        // SAFETY: as above.
        unsafe {
            libc::usleep((value % 100_000) as u32);
            libc::_exit(0);
        }
    }
    let result = if pid > 0 { Ok(()) } else { Err(()) };
    let _ = tally.note(Call::Fork, result);
    // SAFETY: children are not waited for by anybody else.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}
