//! `cargo xtask`: the one door to everything that is not plain `cargo build`.
//!
//! The folders are the architecture:
//! - [`host`] finds or makes what has to run on this machine: QEMU, tshark, a compiler for the
//!   bare target, and whether KVM runs a guest. Nothing is installed outside `target/vm`.
//! - [`guest`] makes what a small guest boots: a stock Debian kernel and an initramfs of ours.
//! - [`debian`] makes our Debian packages, and what a guest with a whole Debian boots.
//! - [`vm`] starts the scenarios of `qemu-configs/` and waits for what their guests say.
//! - [`demo`], [`guest_shell`], [`softroce`], [`mod@test`], [`mod@bench`] and [`check`] are the subcommands built on
//!   them.
//!
//! Guests and QEMU are only ever waited for by events (a line on a console, an exit); times are
//! bounds after which a wait is a failure.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod check;
mod debian;
mod demo;
mod guest;
mod guest_shell;
mod hands_on;
mod host;
mod paths;
mod process;
mod softroce;
mod test;
mod vm;

use debian::kernel::Kernel;

/// Prepares QEMU and guests; runs the demo, the tests and the benchmarks.
///
/// Everything that is fetched or made lies under target/vm and is made once. Environment:
/// VRNIC_DEBIAN_MIRROR=URL names a Debian mirror (default: the one this machine's apt uses),
/// VRNIC_ACCEL=kvm|tcg overrides the choice of accelerator, VRNIC_VM_DIR=DIR keeps the files of
/// target/vm elsewhere, for example to share them between clones.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Get QEMU and the guest's kernel, and build what runs in the guest
    Prepare {
        /// Throw away what was prepared before and get the current packages
        #[arg(long)]
        refresh: bool,
        /// Kernel of the guests with a whole Debian
        #[arg(long, value_enum, default_value_t)]
        kernel: Kernel,
    },
    /// Two virtual machines exchange RDMA through vrnic; ends with a table
    Demo,
    /// Every test and check; the last line is `N passed, N failed`
    Test {
        /// Only the steps whose name contains this text
        #[arg(value_name = "NAME")]
        only: Option<String>,
    },
    /// The speed table, as ratios measured in one run, each with its floor
    Bench {
        /// Also write the rows to this file, as a JSON list
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Formatting, lints, documentation and the build for a bare target
    Check,
    /// Debian packages of the kernel module and the provider, for a Debian 13 guest
    Packages,
    /// Virtual machines with Debian, each with a vrnic: a root shell in the first, ready for the
    /// distribution's RDMA programs
    Guest {
        /// Number of machines, 1 to 8
        #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
        vms: u8,
        /// Kernel of the machines
        #[arg(long, value_enum, default_value_t)]
        kernel: Kernel,
        /// Further arguments of each `vrnic serve`, such as --vrnic=--impair --vrnic=drop=1%
        #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
        vrnic: Vec<String>,
        /// Further arguments for each QEMU
        #[arg(last = true)]
        qemu: Vec<String>,
    },
    /// A command in a machine of a `cargo xtask guest` that runs in another terminal
    GuestRun {
        /// Name of the machine, such as b
        machine: String,
        /// The command
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Frames of Linux Soft-RoCE, as data for the tests of the firmware
    CaptureSoftroce {
        /// Where to write them
        #[arg(
            value_name = "FILE",
            default_value = "firmware/tests/data/softroce.hex"
        )]
        file: PathBuf,
    },
    /// A scenario of qemu-configs/ with a shell in the guest
    Vm {
        /// Name of the scenario; `cargo xtask vm list` shows them
        scenario: String,
        /// Which guest of the scenario gets this terminal
        #[arg(long, default_value = "a")]
        console: String,
        /// Run this in the guest instead of a shell, then power off
        #[arg(long, value_name = "COMMAND")]
        run: Option<String>,
        /// Further arguments for QEMU
        #[arg(last = true)]
        qemu: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Prepare { refresh, kernel } => {
            let prepared = vm::Prepared::get(refresh)?;
            println!("{prepared}");
            debian::Debian::get(&prepared.programs, kernel)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Demo => demo::run(),
        Task::Test { only } => test::run(only.as_deref()),
        Task::Bench { json } => bench::run(json.as_deref()),
        Task::Check => check::run(),
        Task::Packages => {
            let packages = debian::Debian::packages()?;
            println!(
                "{}\n{}",
                packages.dkms.display(),
                packages.provider.display()
            );
            Ok(ExitCode::SUCCESS)
        }
        Task::Guest {
            vms,
            kernel,
            vrnic,
            qemu,
        } => guest_shell::run(kernel, usize::from(vms), vrnic, qemu),
        Task::GuestRun { machine, command } => guest_shell::run_in(&machine, &command),
        Task::CaptureSoftroce { file } => softroce::capture(&file),
        Task::Vm {
            scenario,
            console,
            run,
            qemu,
        } => hands_on::run(&scenario, &console, run.as_deref(), &qemu),
    }
}
