//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Moves verified data between a vrnic and Linux Soft-RoCE on the same wire.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Drive a vrnic, on the host, and lead.
    Vrnic(VrnicArguments),
    /// Drive Soft-RoCE, in a virtual machine, and follow.
    Rxe(RxeArguments),
}

#[derive(Args)]
pub(crate) struct VrnicArguments {
    /// Socket of `vrnic serve`.
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// UNIX socket that leads to the program in the virtual machine.
    #[arg(long, value_name = "PATH")]
    pub(crate) channel: PathBuf,
    /// The wire loses packets: unreliable services may lose messages, and everything may take
    /// longer.
    #[arg(long)]
    pub(crate) lossy: bool,
    /// One or two packets of every kind are enough.
    #[arg(long)]
    pub(crate) sample: bool,
    /// Seed of all data.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Args)]
pub(crate) struct RxeArguments {
    /// Name of the virtio-serial port that leads to the program on the host.
    #[arg(long, value_name = "NAME", default_value = "peer")]
    pub(crate) port: String,
    /// Network interface that Soft-RoCE is put on.
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    pub(crate) netdev: String,
}
