//! A Debian root as a running system, without a service manager.
//!
//! In: read-only disks with a file system each, `/dev/vda` the base and the others layers over
//! it, the last one on top. Out: an overlay of them all, with a top layer in memory, as the root;
//! udev has seen the devices on its buses, so that modules are loaded by alias and devices named by the
//! distribution's own rules; interfaces have addresses by the machine's number; then commands are run for whoever asks ([`crate::agent`]), and a
//! shell for a person on the console.
//!
//! Debian's own initramfs and systemd would do the same and much more, in several times the time
//! where the guest's processor is a program.
//!
//! Whatever has lost its parent becomes a child of the first process, which therefore does
//! nothing but wait for children; a second process of the same program does the work.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{Pid, WaitOptions, wait};

use crate::agent;
use crate::cmdline::{Settings, System};

/// Modules in the initramfs, whose names begin with the order in which they are loaded.
const MODULES: &str = "/modules";
/// Where the disks are mounted, one a folder.
const DISKS: &str = "/disks";
/// Where the new root grows.
const ROOT: &str = "/sysroot";
/// Vendor of the RNIC, as sysfs has it.
const VENDOR: &str = "0x5652";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first process: makes the root and runs a second process in it.
///
/// # Errors
/// The disks are not as they should be.
pub(crate) fn first(settings: &Settings) -> Result<()> {
    load_modules()?;
    let disks = mount_disks()?;
    make_root(&disks)?;
    enter_root()?;
    mount_rest()?;
    name_it(settings)?;
    let second = Command::new("/proc/self/exe")
        .arg("system")
        .env_clear()
        .envs([("PATH", PATH), ("HOME", "/root"), ("TERM", "linux")])
        .env("VRNIC_ROLE", settings.role.as_deref().unwrap_or_default())
        .spawn()
        .context("cannot start the second process")?;
    reap_until_end_of(Pid::from_child(&second))
}

/// The second process: makes a system of it.
///
/// # Errors
/// udev does not run, or a port cannot be opened.
pub(crate) fn second(settings: &Settings) -> Result<()> {
    start_udev()?;
    run("ip", &["link", "set", "lo", "up"])?;
    for module in rdma_modules() {
        // A module that this kernel lacks is one that its user does without.
        let _ = run("modprobe", &["-q", &module]);
    }
    run("udevadm", &["settle"])?;
    set_addresses(number(settings))?;
    let ports = agent::serve_all()?;
    println!("@vrnic ready {}", crate::uptime()?);
    if settings.system == Some(System::Shell) {
        let status = shell()?.status().context("cannot start a shell")?;
        println!("@vrnic exit {}", agent::code(status));
        return Ok(());
    }
    ensure!(
        !ports.is_empty(),
        "nobody can ask for anything: no shell, no control channel"
    );
    for port in ports {
        if port.join().is_err() {
            bail!("the control channel failed");
        }
    }
    Ok(())
}

/// A shell with job control, which takes a terminal: `/dev/console` is none, what is behind it is.
fn shell() -> Result<Command> {
    let active = fs::read_to_string("/sys/class/tty/console/active")?;
    let name = active.split_whitespace().last().unwrap_or("ttyS0");
    let terminal = File::options()
        .read(true)
        .write(true)
        .open(format!("/dev/{name}"))?;
    let mut shell = Command::new("setsid");
    shell
        .args(["--ctty", "--wait", "bash", "-l"])
        .current_dir("/root");
    shell
        .stdin(terminal.try_clone()?)
        .stdout(terminal.try_clone()?)
        .stderr(terminal);
    Ok(shell)
}

fn load_modules() -> Result<()> {
    let entries = fs::read_dir(MODULES).context("the initramfs has no modules")?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let module = File::open(&file)?;
        rustix::system::finit_module(&module, c"", 0)
            .with_context(|| format!("cannot load {}", file.display()))?;
    }
    Ok(())
}

/// Mounts every disk; returns the folders, base first.
fn mount_disks() -> Result<Vec<String>> {
    let mut folders = Vec::new();
    for letter in 'a'..='h' {
        let disk = format!("/dev/vd{letter}");
        if !Path::new(&disk).exists() {
            break;
        }
        let folder = format!("{DISKS}/{letter}");
        fs::create_dir_all(&folder)?;
        mount(&disk, &folder, "ext4", MountFlags::RDONLY, None)
            .with_context(|| format!("cannot mount {disk}"))?;
        folders.push(folder);
    }
    ensure!(!folders.is_empty(), "there is no disk");
    Ok(folders)
}

fn make_root(disks: &[String]) -> Result<()> {
    let top = format!("{DISKS}/top");
    fs::create_dir_all(&top)?;
    mount(
        "tmpfs",
        &top,
        "tmpfs",
        MountFlags::empty(),
        Some(c"mode=755"),
    )?;
    let (upper, work) = (format!("{top}/upper"), format!("{top}/work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    // The first one named is the topmost.
    let lower: Vec<&str> = disks.iter().rev().map(String::as_str).collect();
    let options = format!(
        "lowerdir={},upperdir={upper},workdir={work}\0",
        lower.join(":")
    );
    let options = CStr::from_bytes_with_nul(options.as_bytes())?;
    fs::create_dir_all(ROOT)?;
    mount(
        "overlay",
        ROOT,
        "overlay",
        MountFlags::empty(),
        Some(options),
    )
    .context("cannot lay the disks over each other")
}

fn enter_root() -> Result<()> {
    for path in ["/dev", "/proc", "/sys"] {
        mount_move(path, format!("{ROOT}{path}").as_str())?;
    }
    rustix::process::chdir(ROOT)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    Ok(())
}

fn mount_rest() -> Result<()> {
    for (path, to) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        symlink(to, path)?;
    }
    for (kind, path, options) in [
        ("tmpfs", "/run", c"mode=755"),
        ("tmpfs", "/tmp", c"mode=1777"),
        ("tmpfs", "/dev/shm", c"mode=1777"),
        ("devpts", "/dev/pts", c"gid=5,mode=620,ptmxmode=666"),
        ("cgroup2", "/sys/fs/cgroup", c""),
        ("debugfs", "/sys/kernel/debug", c""),
        ("tracefs", "/sys/kernel/tracing", c""),
    ] {
        fs::create_dir_all(path)?;
        mount(kind, path, kind, MountFlags::empty(), Some(options))
            .with_context(|| format!("cannot mount {path}"))?;
    }
    fs::create_dir_all("/run/lock")?;
    Ok(())
}

fn name_it(settings: &Settings) -> Result<()> {
    let name = settings.role.as_deref().unwrap_or("vrnic");
    rustix::system::sethostname(name.as_bytes())?;
    fs::write("/etc/hostname", format!("{name}\n"))?;
    let mut hosts = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for (number, name) in (1..).zip('a'..='h') {
        hosts += &format!(
            "10.78.0.{number} {name}\nfd78::{number} {name}\n10.79.0.{number} {name}-virtio\n"
        );
    }
    fs::write("/etc/hosts", hosts)?;
    Ok(())
}

/// Number of the machine: 1 for `a`, 2 for `b`.
fn number(settings: &Settings) -> u32 {
    let letter = settings.role.as_deref().unwrap_or_default().bytes().next();
    u32::from(letter.unwrap_or(b'a').saturating_sub(b'a')).saturating_add(1)
}

/// Gives the RNIC's interface an address in one network, every other one in another.
fn set_addresses(number: u32) -> Result<()> {
    for entry in fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        let Ok(vendor) = fs::read_to_string(entry.path().join("device/vendor")) else {
            continue;
        };
        let network = if vendor.trim() == VENDOR { 78 } else { 79 };
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if network == 78 {
            // Room for a path MTU of 4096 with its headers; the other one is told by its device.
            run("ip", &["link", "set", &name, "mtu", "9000"])?;
        }
        let four = format!("10.{network}.0.{number}/24");
        let six = format!("fd{network}::{number}/64");
        run("ip", &["address", "add", &four, "dev", &name])?;
        run("ip", &["address", "add", &six, "dev", &name, "nodad"])?;
        run("ip", &["link", "set", &name, "up"])?;
    }
    Ok(())
}

/// Devices that others are behind; what their drivers bring is announced to udev as it comes. The
/// rest (the processor's cryptography, input, sensors) would be most of the time a guest takes to
/// start where its processor is a program, and nobody here wants it.
const BUSES: [&str; 3] = ["pci", "virtio", "net"];

fn start_udev() -> Result<()> {
    run("/usr/lib/systemd/systemd-udevd", &["--daemon"])?;
    let mut trigger = vec!["trigger", "--action=add"];
    for bus in BUSES {
        trigger.extend(["--subsystem-match", bus]);
    }
    run("udevadm", &trigger)?;
    run("udevadm", &["settle"])
}

/// What `rdma-load-modules@rdma.service` and `@roce.service` would load.
fn rdma_modules() -> Vec<String> {
    let read = |kind| fs::read_to_string(format!("/etc/rdma/modules/{kind}.conf"));
    let there = Path::new("/sys/class/infiniband").is_dir();
    let lists: String = ["rdma", "roce"].into_iter().flat_map(read).collect();
    let names = lists.lines().map(str::trim);
    let names = names.filter(|name| there && !name.is_empty() && !name.starts_with('#'));
    names.map(str::to_owned).collect()
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(program).args(arguments).status();
    let status = status.with_context(|| format!("cannot start {program}"))?;
    ensure!(
        status.success(),
        "{program} {} failed ({status})",
        arguments.join(" ")
    );
    Ok(())
}

fn reap_until_end_of(second: Pid) -> Result<()> {
    loop {
        if let Some((ended, _)) = wait(WaitOptions::empty())? {
            if ended == second {
                return Ok(());
            }
        }
    }
}
