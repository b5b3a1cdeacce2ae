//! `vrnic-torment`: bad user space.
//!
//! It gives up its privileges and starts processes that open the RDMA device and do to it whatever
//! the kernel lets them, at random: uverbs commands with good, odd and mutated arguments, by `write`
//! and by `ioctl`, from several threads on the same objects; random bytes in rings and doorbell pages
//! while those are in use; forks; and a sudden end. Each process may fail in any way. The kernel, the
//! device and other processes must not notice, which is for the caller to see.
//!
//! * [`command`]: how a command reaches the kernel;
//! * [`context`]: an open device, and what a process has of it;
//! * [`calls`]: random commands; [`scribble`]: random stores;
//! * [`life`]: one process from its start to its end;
//! * [`tally`]: what was called how often, and with what success.
//!
//! Randomness has a seed, which the report names. Threads and kills are timed by the machine, so that
//! a seed gives the same sort of torment, not the same run.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

mod calls;
mod command;
mod context;
mod life;
mod scribble;
mod tally;

use context::Context;
use life::Life;
use tally::{Call, Tally};

/// Torments an RDMA device as an unprivileged user.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Seed of all randomness; by default another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// For how many seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Processes at the same time.
    #[arg(long, default_value_t = 2)]
    processes: usize,
    /// Device file.
    #[arg(long, default_value = "/dev/infiniband/uverbs0")]
    device: String,
    /// User and group to become, if started by root; `nobody` by default.
    #[arg(long, default_value_t = 65534)]
    user: u32,
}

/// What must have worked at least once, or the device was not reached.
const NEEDED: [Call; 9] = [
    Call::GetContext,
    Call::AllocPd,
    Call::RegMr,
    Call::CreateCq,
    Call::CreateSrq,
    Call::CreateQp,
    Call::Connect,
    Call::Map,
    Call::DestroyQp,
];

fn main() -> Result<()> {
    let options = Options::parse();
    drop_privileges(options.user)?;
    let seed = options.seed.unwrap_or_else(rand_seed);
    eprintln!("seed {seed}");
    life::adopt();
    let tally = Tally::new()?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let (lives, killed) = torment(&options, &tally, &mut rng)?;
    // Contexts are gone when the last process that has them has ended, before it can be waited for.
    life::wait_for_all();
    let opened = Context::open(&options.device, &tally);
    let report = json!({
        "seed": seed,
        "processes": lives,
        "killed": killed,
        "calls": tally.report(),
        "opens_again": opened.is_ok(),
    });
    println!("{report}");
    opened.context("the device cannot be opened any more")?;
    for call in NEEDED {
        ensure!(tally.successes(call) > 0, "{call:?} never worked");
    }
    Ok(())
}

/// Runs processes until the time is up. Returns how many there were, and how many were killed.
fn torment(options: &Options, tally: &Tally, rng: &mut SmallRng) -> Result<(u64, u64)> {
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let (mut lives, mut killed) = (0, 0);
    let mut running: Vec<Life> = Vec::new();
    while Instant::now() < end {
        while running.len() < options.processes {
            running.push(Life::begin(&options.device, tally, rng.random())?);
            lives += 1;
        }
        let mut left = Vec::new();
        for mut life in running {
            if life.has_ended()? {
                continue;
            }
            if life.is_over() {
                killed += 1;
                life.kill()?;
            } else {
                left.push(life);
            }
        }
        running = left;
        std::thread::sleep(Duration::from_millis(5));
    }
    for life in running {
        life.kill()?;
        killed += 1;
    }
    Ok((lives, killed))
}

fn rand_seed() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    time.map_or(0, |time| time.as_nanos() as u64) ^ u64::from(std::process::id()) << 32
}

/// Becomes user and group `user`, for good.
fn drop_privileges(user: u32) -> Result<()> {
    // SAFETY: no pointers but a list of no groups.
    let failed = unsafe {
        libc::geteuid() == 0
            && (libc::setgroups(0, std::ptr::null()) != 0
                || libc::setresgid(user, user, user) != 0
                || libc::setresuid(user, user, user) != 0)
    };
    if failed {
        bail!(
            "cannot become user {user}: {}",
            std::io::Error::last_os_error()
        );
    }
    Ok(())
}
