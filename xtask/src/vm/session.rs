//! A session: the RNICs of a scenario, on which virtual machines are run, once or several times.
//!
//! Everything of one session lies in one folder, which is also where its processes run, so that
//! all sockets have short names. Whatever still runs when a session is dropped is killed.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use anyhow::{Context, Error, Result, anyhow, bail};

use super::Prepared;
use super::machine::{Event, Line, Machine};
use super::nic::Nic;
use super::scenario::{Said, Scenario, Vm, append, name};
use crate::host::lock::Lock;
use crate::paths;

/// The folder of one session; nobody else uses it until this is dropped.
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

/// A running session.
pub(crate) struct Session<'a> {
    scenario: &'a Scenario,
    prepared: &'a Prepared,
    dir: RunDir,
    nics: Vec<Nic>,
    deadline: Instant,
    rounds: u32,
}

impl<'a> Session<'a> {
    /// Starts the RNICs. The scenario's time runs from now.
    ///
    /// # Errors
    /// One does not come up.
    pub(crate) fn open(
        scenario: &'a Scenario,
        prepared: &'a Prepared,
        dir: RunDir,
    ) -> Result<Session<'a>> {
        let deadline = Instant::now() + scenario.bound;
        let mut nics = Vec::new();
        for (index, arguments) in scenario.nics.iter().enumerate() {
            let vrnic = &prepared.programs.vrnic;
            let name = format!("nic-{}", name(index));
            nics.push(Nic::start(vrnic, &name, arguments, &dir.path, deadline)?);
        }
        Ok(Session {
            scenario,
            prepared,
            dir,
            nics,
            deadline,
            rounds: 0,
        })
    }

    /// The session's folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir.path
    }

    /// Runs virtual machines until all have powered off. `watch` is called for each line that a
    /// guest says; when it breaks, all are killed, and what they said until then is the answer.
    ///
    /// # Errors
    /// A guest does not come up, its command fails, QEMU ends early or complains, or the time is
    /// up.
    pub(crate) fn run(
        &mut self,
        vms: &[Vm],
        mut watch: impl FnMut(usize, &Line) -> ControlFlow<()>,
    ) -> Result<Vec<Said>> {
        self.rounds += 1;
        let peer = self.dir.path.join("peer.sock");
        // A machine that was killed leaves its socket behind.
        let _ = fs::remove_file(&peer);
        let (sender, events) = channel();
        for (index, nic) in self.nics.iter().enumerate() {
            nic.watch(index, sender.clone());
        }
        let mut machines = Vec::new();
        for (index, vm) in vms.iter().enumerate() {
            let mut command = self.command(index, vm)?;
            let log = match self.rounds {
                1 => name(index).to_owned(),
                round => format!("{}-{round}", name(index)),
            };
            let dir = &self.dir.path;
            let mut machine = Machine::start((index, &log), &mut command, dir, sender.clone())?;
            if index == 0 && vms.len() > 1 {
                // The other end of the serial line between the guests has to be there.
                machine.wait_for_socket(&peer, self.deadline)?;
            }
            machines.push(machine);
        }
        let heard = listen(vms.len(), &events, self.deadline, &mut watch);
        // A guest or QEMU may fail before the end of the RNIC under it is heard of.
        if let (Err(_) | Ok(Heard::EarlyEnd(..) | Heard::NicEnd(_)), Some(error)) =
            (&heard, self.nics.iter_mut().find_map(Nic::obituary))
        {
            return Err(error);
        }
        match heard? {
            Heard::All(guests) => {
                machines.into_iter().try_for_each(Machine::check_end)?;
                Ok(guests)
            }
            Heard::Enough(guests) => Ok(guests),
            Heard::NicEnd(index) => bail!("the vrnic of guest {} ended", name(index)),
            Heard::EarlyEnd(index, last) => {
                // QEMU's own words say more, if there are any.
                machines.swap_remove(index).check_end()?;
                bail!(
                    "guest {}: ended before its command did, after {last:?}",
                    name(index)
                )
            }
        }
    }

    /// Stops the RNICs.
    ///
    /// # Errors
    /// One has ended before, or does not end well.
    pub(crate) fn close(self) -> Result<()> {
        self.nics.into_iter().try_for_each(Nic::stop)
    }

    /// The command that starts one of the virtual machines, its console on standard output, or
    /// the program that stands for one.
    ///
    /// # Errors
    /// The guest's initramfs cannot be written.
    pub(crate) fn command(&self, index: usize, vm: &Vm) -> Result<Command> {
        if let Some(host) = &vm.host {
            return Ok(self.host_command(host));
        }
        let role = name(index);
        let mut command = Command::new("/bin/sh");
        command.arg(paths::scenarios().join(format!("{}.sh", self.scenario.file)));
        let machines = self.scenario.vms.iter().filter(|vm| vm.host.is_none());
        if machines.count() > 1 {
            command.arg(role);
        }
        let initrd = self.dir.path.join(format!("{role}.initramfs"));
        fs::write(&initrd, self.prepared.initramfs(vm)?)?;
        command.args(&vm.qemu).current_dir(&self.dir.path);
        command
            .envs(self.prepared.environment())
            .env("INITRD", initrd)
            .env("RUN", ".");
        command
            .env("CONSOLE", "stdio,signal=off")
            .env("APPEND", append(role, vm)?);
        match vm.nic {
            Some(nic) => command.env("SOCKET", format!("nic-{}.sock", name(nic))),
            None => command.env_remove("SOCKET"),
        };
        Ok(command)
    }

    /// A command on this machine, which says at its end what a guest's `init` would.
    fn host_command(&self, host: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &format!("{host}\necho @vrnic exit $?")])
            .env("PEER", &self.prepared.programs.peer)
            .current_dir(&self.dir.path);
        command
    }
}

/// How listening came to its end.
enum Heard {
    /// Every guest's command succeeded and every QEMU ended.
    All(Vec<Said>),
    /// Who watched broke off.
    Enough(Vec<Said>),
    /// A guest was gone before its command ended; with its last line.
    EarlyEnd(usize, String),
    /// An RNIC was gone before the guests were.
    NicEnd(usize),
}

fn listen(
    count: usize,
    events: &Receiver<Event>,
    deadline: Instant,
    watch: &mut impl FnMut(usize, &Line) -> ControlFlow<()>,
) -> Result<Heard> {
    let mut guests: Vec<Said> = (0..count).map(|_| Said::default()).collect();
    let mut running = count;
    while running > 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        let event = events.recv_timeout(left).map_err(|_| silent(&guests))?;
        let index = match event {
            Event::NicEnd(index) => return Ok(Heard::NicEnd(index)),
            Event::Line(index, _) | Event::End(index) => index,
        };
        let said = guests
            .get_mut(index)
            .context("events carry numbers of guests")?;
        match event {
            Event::End(_) if said.exit.is_none() => {
                return Ok(Heard::EarlyEnd(index, said.last().to_owned()));
            }
            Event::End(_) => running -= 1,
            Event::NicEnd(_) => {}
            Event::Line(_, line) => {
                let flow = watch(index, &line);
                said.hear(line)
                    .with_context(|| format!("guest {}", name(index)))?;
                if flow.is_break() {
                    return Ok(Heard::Enough(guests));
                }
            }
        }
        if let Some(code) = said.exit.filter(|code| *code != 0) {
            bail!("guest {}: its command failed with {code}", name(index));
        }
    }
    Ok(Heard::All(guests))
}

/// The error of a run whose time is up.
fn silent(guests: &[Said]) -> Error {
    let last: Vec<_> = guests
        .iter()
        .map(|said| format!("{:?}", said.last()))
        .collect();
    anyhow!("out of time; last words of the guests: {}", last.join(", "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn hear(events: Vec<Event>, break_at: &str) -> Result<Heard> {
        let (sender, receiver) = channel();
        events
            .into_iter()
            .for_each(|event| sender.send(event).unwrap());
        let deadline = Instant::now() + Duration::from_millis(1);
        listen(
            2,
            &receiver,
            deadline,
            &mut |_, line| match line.text == break_at {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            },
        )
    }

    fn line(index: usize, text: &str) -> Event {
        Event::Line(
            index,
            Line {
                at: Duration::ZERO,
                text: text.to_owned(),
            },
        )
    }

    #[test]
    fn all_guests_are_heard_to_their_end() {
        let ends = vec![line(0, "@vrnic exit 0"), line(1, "x"), Event::End(0)];
        let more = vec![line(1, "@vrnic exit 0"), Event::End(1)];
        let heard = hear(ends.into_iter().chain(more).collect(), "");
        assert!(
            matches!(heard.unwrap(), Heard::All(guests) if guests[1].last() == "@vrnic exit 0")
        );
    }

    #[test]
    fn one_that_fails_or_vanishes_ends_the_run() {
        let failure = hear(vec![line(1, "@vrnic exit 4")], "").err().unwrap();
        assert!(
            failure
                .to_string()
                .contains("guest b: its command failed with 4")
        );
        let heard = hear(vec![line(1, "Kernel panic"), Event::End(1)], "").unwrap();
        assert!(matches!(heard, Heard::EarlyEnd(1, last) if last == "Kernel panic"));
    }

    #[test]
    fn an_rnic_that_ends_ends_the_run() {
        let heard = hear(vec![line(0, "x"), Event::NicEnd(1)], "").unwrap();
        assert!(matches!(heard, Heard::NicEnd(1)));
    }

    #[test]
    fn silence_is_an_error_and_a_break_is_not() {
        assert!(hear(vec![line(0, "x")], "").is_err());
        assert!(matches!(
            hear(vec![line(0, "x")], "x").unwrap(),
            Heard::Enough(_)
        ));
    }
}
