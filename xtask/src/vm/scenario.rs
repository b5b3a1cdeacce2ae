//! A scenario: RNICs, virtual machines, what each guest runs, and what came of it.
//!
//! The files of `qemu-configs/` say how QEMU is started; a [`Scenario`] names one and adds what a
//! run needs. RNICs and guests are named `a`, `b`, … in order. Everything of one run lies in one
//! folder, which is also where its processes run, so that all sockets have short names.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use serde_json::Value;

use super::Prepared;
use super::machine::{Event, Line, Machine};
use super::nic::Nic;
use crate::host::lock::Lock;
use crate::paths;

/// What to run.
pub(crate) struct Scenario {
    /// Name of the run and of its folder.
    pub name: &'static str,
    /// File of `qemu-configs/`, without its ending.
    pub file: &'static str,
    /// Time after which the run has failed.
    pub bound: Duration,
    /// Arguments of each `vrnic serve`, apart from its socket.
    pub nics: Vec<Vec<String>>,
    /// The virtual machines.
    pub vms: Vec<Vm>,
}

/// One virtual machine of a scenario.
#[derive(Clone, Default)]
pub(crate) struct Vm {
    /// Which RNIC it has, by its place in [`Scenario::nics`].
    pub nic: Option<usize>,
    /// Ids of the function that `vfio-pci` takes.
    pub vfio: Option<String>,
    /// Whether it first meets the other guest on `/dev/ttyS1`.
    pub peer: bool,
    /// Command for the guest; none is a shell for a person.
    pub run: Option<String>,
    /// Files for the guest: path without its first slash, and contents.
    pub files: Vec<(String, Vec<u8>)>,
    /// Further arguments for QEMU.
    pub qemu: Vec<String>,
}

/// What one guest said.
#[derive(Default)]
pub(crate) struct Said {
    /// Lines on its console.
    pub lines: Vec<Line>,
    /// When its command could start, since the start of QEMU.
    pub ready: Option<Duration>,
    /// The command's exit code.
    pub exit: Option<i32>,
}

/// A run that went well as far as QEMU and the RNICs are concerned.
pub(crate) struct Report {
    /// What each guest said.
    pub guests: Vec<Said>,
    /// Where the logs are.
    pub dir: PathBuf,
}

impl Said {
    /// The values of the lines `RESULT {…}`.
    pub(crate) fn results(&self) -> Vec<Value> {
        let json = |line: &Line| serde_json::from_str(line.text.strip_prefix("RESULT ")?).ok();
        self.lines.iter().filter_map(json).collect()
    }

    /// Whether a line contains the text.
    pub(crate) fn contains(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.text.contains(text))
    }

    fn hear(&mut self, line: Line) -> Result<()> {
        let mut words = line
            .text
            .strip_prefix("@vrnic ")
            .unwrap_or_default()
            .splitn(2, ' ');
        match (words.next(), words.next()) {
            (Some("ready"), _) => self.ready = Some(line.at),
            (Some("exit"), Some(code)) => self.exit = code.parse().ok(),
            (Some("failed"), Some(why)) => bail!("the guest did not come up: {why}"),
            _ => {}
        }
        self.lines.push(line);
        Ok(())
    }
}

/// The folder of one run; nobody else uses it until this is dropped.
pub(crate) struct RunDir {
    /// The folder.
    pub path: PathBuf,
    _lock: Lock,
}

impl RunDir {
    /// An empty folder: `target/vm/run/NAME`, or with a number if that is in use.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn new(name: &str) -> Result<RunDir> {
        let all = paths::vm().join("run");
        for number in 1..100 {
            let suffix = if number == 1 {
                String::new()
            } else {
                format!("-{number}")
            };
            let path = all.join(format!("{name}{suffix}"));
            if let Some(lock) = Lock::try_take(&path.with_extension("lock"))? {
                crate::host::root::remove(&path)?;
                fs::create_dir_all(&path)?;
                return Ok(RunDir { path, _lock: lock });
            }
        }
        bail!("too many runs of {name} at once")
    }
}

impl Scenario {
    /// Runs it until every guest has powered off.
    ///
    /// # Errors
    /// A guest does not come up, its command fails, QEMU or an RNIC ends early or complains, or
    /// the time is up. The error names the folder with the logs.
    pub(crate) fn run(&self, prepared: &Prepared) -> Result<Report> {
        self.run_with(prepared, |_, _| {})
    }

    /// As [`Scenario::run`], and calls `watch` for each line that a guest says.
    ///
    /// # Errors
    /// As [`Scenario::run`].
    pub(crate) fn run_with(
        &self,
        prepared: &Prepared,
        watch: impl FnMut(usize, &Line),
    ) -> Result<Report> {
        let dir = RunDir::new(self.name)?;
        let report = self.run_in(prepared, &dir.path, watch);
        report.with_context(|| format!("{} failed (logs: {})", self.name, dir.path.display()))
    }

    fn run_in(
        &self,
        prepared: &Prepared,
        dir: &Path,
        mut watch: impl FnMut(usize, &Line),
    ) -> Result<Report> {
        let deadline = Instant::now() + self.bound;
        let nics = self.start_nics(prepared, dir, deadline)?;
        let (sender, events) = channel();
        let mut machines = Vec::new();
        for (index, vm) in self.vms.iter().enumerate() {
            let mut command = self.command(prepared, dir, index, vm)?;
            let machine = Machine::start((index, name(index)), &mut command, dir, sender.clone())?;
            machines.push(machine);
        }
        let guests = listen(self.vms.len(), &events, deadline, &mut watch)?;
        machines.into_iter().try_for_each(Machine::check_end)?;
        check_exits(&guests)?;
        nics.into_iter().try_for_each(Nic::stop)?;
        Ok(Report {
            guests,
            dir: dir.to_path_buf(),
        })
    }

    /// Starts the RNICs.
    ///
    /// # Errors
    /// One does not come up.
    pub(crate) fn start_nics(
        &self,
        prepared: &Prepared,
        dir: &Path,
        deadline: Instant,
    ) -> Result<Vec<Nic>> {
        let mut nics = Vec::new();
        for (index, arguments) in self.nics.iter().enumerate() {
            let vrnic = prepared.programs.vrnic()?;
            nics.push(Nic::start(
                vrnic,
                &format!("nic-{}", name(index)),
                arguments,
                dir,
                deadline,
            )?);
        }
        Ok(nics)
    }

    /// The command that starts one of the virtual machines, its console on standard output.
    ///
    /// # Errors
    /// The guest's initramfs cannot be written.
    pub(crate) fn command(
        &self,
        prepared: &Prepared,
        dir: &Path,
        index: usize,
        vm: &Vm,
    ) -> Result<Command> {
        let role = name(index);
        let mut command = Command::new("/bin/sh");
        command.arg(paths::scenarios().join(format!("{}.sh", self.file)));
        if self.vms.len() > 1 {
            command.arg(role);
        }
        command
            .args(&vm.qemu)
            .current_dir(dir)
            .envs(prepared.environment());
        let initrd = dir.join(format!("{role}.initramfs"));
        fs::write(&initrd, prepared.initramfs(&vm.files)?)?;
        command
            .env("INITRD", initrd)
            .env("RUN", ".")
            .env("CONSOLE", "stdio,signal=off");
        command
            .env("APPEND", append(role, vm)?)
            .env_remove("SOCKET");
        if let Some(nic) = vm.nic {
            command.env("SOCKET", format!("nic-{}.sock", name(nic)));
        }
        Ok(command)
    }
}

/// What the guest's `init` is told on the kernel's command line.
fn append(role: &str, vm: &Vm) -> Result<String> {
    let mut words = vec![format!("vrnic.role={role}")];
    words.extend(vm.vfio.iter().map(|ids| format!("vrnic.vfio={ids}")));
    words.extend(vm.peer.then(|| "vrnic.peer=/dev/ttyS1".to_owned()));
    words.extend(vm.run.iter().map(|run| format!("vrnic.run=\"{run}\"")));
    let quotes = vm.run.as_ref().is_some_and(|run| run.contains(['"', '\n']));
    let words = words.join(" ");
    // The kernel takes 2048 bytes; the scenario's own part is short.
    if quotes || words.len() > 1500 {
        bail!("a guest's command must be short and without double quotes; use a file for more");
    }
    Ok(words)
}

/// Hears the guests until every QEMU has ended, or one guest has failed.
fn listen(
    count: usize,
    events: &Receiver<Event>,
    deadline: Instant,
    watch: &mut impl FnMut(usize, &Line),
) -> Result<Vec<Said>> {
    let mut guests: Vec<Said> = (0..count).map(|_| Said::default()).collect();
    let mut running = count;
    while running > 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        let event = events.recv_timeout(left).map_err(|_| silent(&guests))?;
        match event {
            Event::End => running -= 1,
            Event::Line(index, line) => {
                watch(index, &line);
                let said = guests
                    .get_mut(index)
                    .context("events carry numbers of guests")?;
                said.hear(line)
                    .with_context(|| format!("guest {}", name(index)))?;
            }
        }
        if guests
            .iter()
            .any(|said| said.exit.is_some_and(|code| code != 0))
        {
            check_exits(&guests)?;
        }
    }
    Ok(guests)
}

/// The error of a run whose time is up, with the last thing each guest said.
fn silent(guests: &[Said]) -> Error {
    let last = |said: &Said| {
        said.lines
            .last()
            .map_or(String::new(), |line| line.text.clone())
    };
    let last: Vec<_> = guests
        .iter()
        .map(|said| format!("{:?}", last(said)))
        .collect();
    anyhow!("out of time; last words of the guests: {}", last.join(", "))
}

fn check_exits(guests: &[Said]) -> Result<()> {
    for (index, said) in guests.iter().enumerate() {
        match said.exit {
            Some(0) => {}
            Some(code) => bail!("guest {}: its command failed with {code}", name(index)),
            None => bail!("guest {}: ended before its command did", name(index)),
        }
    }
    Ok(())
}

/// Name of an RNIC or a guest.
pub(crate) fn name(index: usize) -> &'static str {
    ["a", "b", "c", "d", "e", "f", "g", "h"]
        .get(index)
        .copied()
        .unwrap_or("x")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Said> {
        let mut said = Said::default();
        for text in text.lines() {
            said.hear(Line {
                at: Duration::from_secs(1),
                text: text.to_owned(),
            })?;
        }
        Ok(said)
    }

    #[test]
    fn words_of_init_and_results_are_understood() {
        let said = said("x\n@vrnic ready 1.5\nRESULT {\"n\": 1}\nRESULT {\n@vrnic exit 3").unwrap();
        assert_eq!(said.ready, Some(Duration::from_secs(1)));
        assert_eq!(said.exit, Some(3));
        assert_eq!(said.results(), [serde_json::json!({ "n": 1 })]);
        assert!(check_exits(&[said]).is_err());
    }

    #[test]
    fn a_guest_that_fails_or_vanishes_is_an_error() {
        assert!(said("@vrnic failed cannot load x").is_err());
        assert!(check_exits(&[said("@vrnic ready 1").unwrap()]).is_err());
        assert!(check_exits(&[said("@vrnic exit 0").unwrap()]).is_ok());
    }
}
