//! First process of a test guest.
//!
//! In: the kernel's command line. Out: lines on the console that begin with `@vrnic`, then power
//! off. The kernel's command line may hold
//! - `guest.vfio=VENDOR:DEVICE`: bind functions with these ids (four hexadecimal digits each) to
//!   `vfio-pci`; the command finds the first one's address in `$VRNIC_DEVICE`,
//! - `guest.modules=A,B`: load these modules,
//! - `guest.peer=/dev/ttyS1`: before the command runs, set this line to raw mode and wait until
//!   the guest on its other end has done the same, so that nothing written later is lost,
//! - `guest.role=a` or `b`: which of two guests this is, also the command's `$VRNIC_ROLE`,
//! - `guest.run="COMMAND"`: run this by `sh -c` instead of a shell for a person,
//! - `guest.system=agent` or `shell`: make a system of the disks instead of the above, and run
//!   commands for whoever asks on the control channel, with or without a shell on the console.
//!
//! Said on the console: `@vrnic ready SECONDS` when the command may start, `@vrnic exit CODE`
//! when it has ended, `@vrnic failed WHY` if it could not be started.

#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot};

mod agent;
mod cmdline;
mod peer;
mod system;

use agent::code;
use cmdline::Settings;

fn main() {
    if let Err(error) = run() {
        println!("@vrnic failed {error:#}");
    }
    rustix::fs::sync();
    // Nothing is left to do if the guest cannot power off: the end of this process makes the
    // kernel panic, and that ends the virtual machine too.
    let _ = reboot(RebootCommand::PowerOff);
}

fn run() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("system") {
        return system::second(&settings()?);
    }
    mount_all()?;
    let settings = settings()?;
    if settings.system.is_some() {
        return system::first(&settings);
    }
    load_modules(&settings)?;
    let device = match &settings.vfio {
        Some(_) => Some(bound_device()?),
        None => None,
    };
    let peer = match &settings.peer {
        Some(line) => Some(peer::meet(
            line,
            settings.role.as_deref().unwrap_or_default(),
        )?),
        None => None,
    };
    println!("@vrnic ready {}", uptime()?);
    let status = command(&settings, device.as_deref())
        .status()
        .context("cannot start sh")?;
    println!("@vrnic exit {}", code(status));
    // The other guest may still wait for what the command wrote last.
    if let Some(line) = peer {
        rustix::termios::tcdrain(&line)?;
    }
    Ok(())
}

fn settings() -> Result<Settings> {
    Ok(Settings::parse(&fs::read_to_string("/proc/cmdline")?))
}

fn mount_all() -> Result<()> {
    for (kind, path) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/tmp"),
    ] {
        mount(kind, path, kind, MountFlags::empty(), None)
            .with_context(|| format!("cannot mount {path}"))?;
    }
    Ok(())
}

fn load_modules(settings: &Settings) -> Result<()> {
    for module in &settings.modules {
        modprobe(&[module])?;
    }
    if let Some(ids) = &settings.vfio {
        modprobe(&["vfio_iommu_type1"])?;
        modprobe(&["vfio-pci", &format!("ids={ids}")])?;
    }
    Ok(())
}

fn modprobe(arguments: &[&str]) -> Result<()> {
    let status = Command::new("/bin/busybox")
        .arg("modprobe")
        .args(arguments)
        .status()?;
    if !status.success() {
        bail!("cannot load {}", arguments.join(" "));
    }
    Ok(())
}

/// Address of the first function that `vfio-pci` has.
fn bound_device() -> Result<String> {
    let entries = fs::read_dir("/sys/bus/pci/drivers/vfio-pci")?.flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let device = names.filter(|name| name.contains(':')).min();
    device.context("vfio-pci took no function; are the ids right and is the IOMMU on?")
}

fn command(settings: &Settings, device: Option<&str>) -> Command {
    let mut command = Command::new("/bin/sh");
    match &settings.run {
        Some(run) => command.arg("-c").arg(run),
        // A shell with job control needs a terminal of its own.
        None => command.arg("-c").arg("exec setsid cttyhack sh -l"),
    };
    command
        .env_clear()
        .env("PATH", "/bin")
        .env("HOME", "/root")
        .env("TERM", "linux");
    if let Some(device) = device {
        command.env("VRNIC_DEVICE", device);
    }
    if let Some(role) = &settings.role {
        command.env("VRNIC_ROLE", role);
    }
    if Path::new("/root").is_dir() {
        command.current_dir("/root");
    }
    command
}

fn uptime() -> Result<String> {
    let text = fs::read_to_string("/proc/uptime")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
