//! `cargo xtask guest`: stock Debian machines with a vrnic each, and a person at the first one.
//!
//! The machines are those of the tests, but their consoles have root shells: the first one's is
//! this terminal, the others' are sockets. When the first machine is powered off, all end; what
//! was prepared stays for the next time.

use std::fs::File;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::debian::Debian;
use crate::debian::kernel::Kernel;
use crate::paths;
use crate::process::Background;
use crate::vm::Prepared;
use crate::vm::cluster::{self, Plan};
use crate::vm::control::Control;
use crate::vm::nic::Nic;
use crate::vm::scenario::name;
use crate::vm::session::RunDir;

/// Name of the run.
const RUN: &str = "guest";
/// Time in which RNICs and the sockets of QEMU have to be there.
const START: Duration = Duration::from_secs(30);

/// Runs it.
///
/// # Errors
/// Something cannot be prepared or does not start.
pub(crate) fn run(
    kernel: Kernel,
    vms: usize,
    vrnic: Vec<String>,
    qemu: Vec<String>,
) -> Result<ExitCode> {
    let prepared = Prepared::get(false)?;
    let debian = Debian::get(&prepared.programs, kernel)?;
    let plan = Plan {
        name: RUN,
        kernel,
        vms,
        nic: vrnic,
        qemu,
        ..Plan::default()
    };
    let dir = RunDir::new(plan.name)?;
    let deadline = Instant::now() + START;
    let nics = cluster::start_nics(&prepared, &plan, &dir.path, deadline)?;
    // The others listen where the first one connects, or the other way round.
    let mut first = cluster::command(&prepared, &debian, &plan, 0, &dir.path);
    first.env("CONSOLE", "stdio,mux=on,signal=off");
    explain(&plan, &dir);
    let mut first = Background::start(&mut first)?;
    let mut others = Vec::new();
    for index in 1..vms {
        first.wait_for_file(&dir.path.join(cluster::net_socket(vms, index)), deadline)?;
        let console = format!("{}.console.sock", name(index));
        let mut qemu = cluster::command(&prepared, &debian, &plan, index, &dir.path);
        qemu.env(
            "CONSOLE",
            format!("socket,server=on,wait=off,path={console}"),
        );
        let errors = File::create(dir.path.join(format!("{}.stderr", name(index))))?;
        others.push(Background::start(qemu.stdin(Stdio::null()).stderr(errors))?);
    }
    let status = first.child().wait()?;
    drop(others);
    nics.into_iter().try_for_each(Nic::stop)?;
    ensure!(status.success(), "QEMU failed ({status})");
    Ok(ExitCode::SUCCESS)
}

/// `cargo xtask guest-run`: a command in a machine of a running `cargo xtask guest`, with its output
/// here as it comes; the answer is its status.
///
/// # Errors
/// There is no such machine.
pub(crate) fn run_in(machine: &str, words: &[String]) -> Result<ExitCode> {
    let dir = paths::vm().join("run").join(RUN);
    let socket = dir.join(format!("{machine}.control"));
    let control = Control::connect(machine, &socket, Path::new("/dev/null"))
        .context("is `cargo xtask guest` running, and has it a machine of that name?")?;
    let far = Instant::now() + Duration::from_secs(365 * 86_400);
    let status = control
        .start(&words.join(" "), far)?
        .show(&mut std::io::stdout())?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
}

/// What a person can do next.
fn explain(plan: &Plan, dir: &RunDir) {
    let dir = dir.path.display();
    println!(
        "\nThis terminal becomes the console of machine a. All machines know each other's names:"
    );
    for index in 0..plan.vms {
        let (name, number) = (name(index), index + 1);
        println!("  {name}   10.78.0.{number} on its vrnic, 10.79.0.{number} on its virtio-net");
        if index > 0 {
            println!("      console: socat -,raw,echo=0 {dir}/{name}.console.sock");
        }
    }
    println!("\nTry, in a:");
    println!("  ibv_devinfo -v");
    println!("  rping -s & rping -c -a a -C 3 -v");
    if plan.vms > 1 {
        println!(
            "  ib_write_bw -R b       # after `cargo xtask guest-run b ib_write_bw -R` in another terminal"
        );
    }
    println!("\nTo leave: exit, or Ctrl-A X. Logs and captures: {dir}\n");
}
