//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use vrnic_driver_vfio::{HostPlatform, Options};

/// Brings a vrnic function up and moves verified data.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Bring the function up and print what it is.
    Info(InfoArguments),
    /// Bring the function up and print its counters, which count from then on.
    Counters(CountersArguments),
    /// Move data of all kinds and sizes between two functions and compare it.
    Demo(PairArguments),
    /// Move random data until the time is over.
    Stress(StressArguments),
}

#[derive(Args)]
pub(crate) struct InfoArguments {
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args)]
pub(crate) struct CountersArguments {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Seconds to let the function count.
    #[arg(long, default_value_t = 0)]
    pub(crate) seconds: u64,
}

/// Which function to use, and how.
#[derive(Args, Clone)]
#[command(group = ArgGroup::new("function").args(["device", "socket"]).required(true))]
pub(crate) struct Target {
    /// PCI address of a function that is bound to vfio-pci, such as 0000:01:00.0.
    #[arg(long, value_name = "ADDRESS")]
    device: Option<String>,
    /// Socket of `vrnic serve`.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// MSI-X vectors to use.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    vectors: u16,
    /// Do not share memory over the socket: the device asks for every byte.
    #[arg(long)]
    unshared: bool,
    /// Do not map the doorbell pages: every store is trapped.
    #[arg(long)]
    trapped: bool,
    /// Use the function directly, as root, where there is no IOMMU for vfio-pci. It needs
    /// hugepages, and does without interrupts.
    #[arg(long, requires = "device", conflicts_with_all = ["trapped", "unshared"])]
    no_iommu: bool,
    /// MiB of hugepages to take for --no-iommu.
    #[arg(long, value_name = "MIB", default_value_t = 64, requires = "no_iommu")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    hugepages: u32,
}

impl Target {
    pub(crate) fn open(&self) -> anyhow::Result<HostPlatform> {
        let options = Options {
            vectors: self.vectors,
            share_memory: !self.unshared,
            map_doorbells: !self.trapped,
            hugepages: (self.hugepages as usize) << 20,
        };
        if let Some(path) = &self.socket {
            return HostPlatform::open_socket(path, options);
        }
        let address = self.device.as_ref().context("no device was named")?;
        if self.no_iommu {
            return HostPlatform::open_sysfs(address, options);
        }
        HostPlatform::open_vfio(address, options)
    }
}

/// Which side of the pair this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Starts.
    A,
    /// Answers.
    B,
    /// Both, with two queue pairs of one function.
    Loop,
}

#[derive(Args, Clone)]
pub(crate) struct PairArguments {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Which side this is.
    #[arg(long, value_enum)]
    pub(crate) role: Role,
    /// Where the other side is: a serial line (such as /dev/ttyS1), or the path of a UNIX socket,
    /// on which role a listens if nobody does.
    #[arg(long, value_name = "PATH", required_if_eq_any([("role", "a"), ("role", "b")]))]
    pub(crate) peer_channel: Option<PathBuf>,
    /// Address of the port; 10.77.0.1 for role a and 10.77.0.2 for role b unless given.
    #[arg(long)]
    pub(crate) ip: Option<IpAddr>,
    /// Largest Ethernet payload in bytes, 576 to 9000.
    #[arg(long)]
    pub(crate) mtu: Option<u32>,
    /// Seconds to wait for the other side to appear.
    #[arg(long, default_value_t = 120)]
    pub(crate) peer_timeout: u64,
    /// Seconds that one transfer may take.
    #[arg(long, default_value_t = 60)]
    pub(crate) transfer_timeout: u64,
    /// Seed of all data.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Largest size to move in bytes.
    #[arg(long, default_value_t = 8 << 20)]
    pub(crate) max_size: u64,
}

#[derive(Args, Clone)]
pub(crate) struct StressArguments {
    #[command(flatten)]
    pub(crate) pair: PairArguments,
    /// Seconds to run; 0 is until killed.
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Flood the other side with 64 KiB WRITEs instead, without comparing.
    #[arg(long)]
    pub(crate) flood: bool,
}
