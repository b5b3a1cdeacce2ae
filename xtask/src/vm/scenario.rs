//! A scenario: RNICs, virtual machines, what each guest runs, and what came of it.
//!
//! The files of `qemu-configs/` say how QEMU is started; a [`Scenario`] names one and adds what a
//! run needs. RNICs and guests are named `a`, `b`, … in order. [`Session`] does the running.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Prepared;
use super::machine::Line;
use super::session::{RunDir, Session};

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

/// One virtual machine of a scenario, or a program of this machine that takes the place of one.
#[derive(Clone, Default)]
pub(crate) struct Vm {
    /// Command that runs on this machine instead, in the folder of the run, with the path of our
    /// program for Soft-RoCE in `$PEER`. Nothing else here matters then.
    pub host: Option<String>,
    /// Whether the guest has Soft-RoCE's user space.
    pub softroce: bool,
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
    /// Further words of the kernel's command line.
    pub kernel: Vec<&'static str>,
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

    /// The last line.
    pub(crate) fn last(&self) -> &str {
        self.lines.last().map_or("", |line| &line.text)
    }

    /// Takes a line.
    ///
    /// # Errors
    /// The guest says that it did not come up.
    pub(crate) fn hear(&mut self, line: Line) -> Result<()> {
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

impl Scenario {
    /// Runs it until every guest has powered off.
    ///
    /// # Errors
    /// A guest does not come up, its command fails, QEMU or an RNIC ends early or complains, or
    /// the time is up. The error names the folder with the logs.
    pub(crate) fn run(&self, prepared: &Prepared) -> Result<Report> {
        self.run_with(prepared, |_, _| ControlFlow::Continue(()))
    }

    /// As [`Scenario::run`], and calls `watch` for each line that a guest says, as
    /// [`Session::run`] does.
    ///
    /// # Errors
    /// As [`Scenario::run`].
    pub(crate) fn run_with(
        &self,
        prepared: &Prepared,
        watch: impl FnMut(usize, &Line) -> ControlFlow<()>,
    ) -> Result<Report> {
        self.session(prepared, |session| session.run(&self.vms, watch))
    }

    /// Starts the RNICs, has `steps` run virtual machines, and stops the RNICs.
    ///
    /// # Errors
    /// As [`Scenario::run`].
    pub(crate) fn session(
        &self,
        prepared: &Prepared,
        steps: impl FnOnce(&mut Session) -> Result<Vec<Said>>,
    ) -> Result<Report> {
        let dir = RunDir::new(self.name)?;
        let path = dir.path.clone();
        let run = || -> Result<Report> {
            let mut session = Session::open(self, prepared, dir)?;
            let guests = steps(&mut session)?;
            session.close()?;
            Ok(Report {
                guests,
                dir: path.clone(),
            })
        };
        run().with_context(|| format!("{} failed (logs: {})", self.name, path.display()))
    }
}

/// What the guest's `init` is told on the kernel's command line.
pub(crate) fn append(role: &str, vm: &Vm) -> Result<String> {
    let mut words = vec![format!("guest.role={role}")];
    words.extend(vm.kernel.iter().map(|&word| word.to_owned()));
    words.extend(vm.vfio.iter().map(|ids| format!("guest.vfio={ids}")));
    words.extend(vm.peer.then(|| "guest.peer=/dev/ttyS1".to_owned()));
    words.extend(vm.run.iter().map(|run| format!("guest.run=\"{run}\"")));
    let quotes = vm.run.as_ref().is_some_and(|run| run.contains(['"', '\n']));
    let words = words.join(" ");
    // The kernel takes 2048 bytes; the scenario's own part is short.
    if quotes || words.len() > 1500 {
        bail!("a guest's command must be short and without double quotes; use a file for more");
    }
    Ok(words)
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
    }

    #[test]
    fn a_guest_that_does_not_come_up_is_an_error() {
        assert!(said("@vrnic failed cannot load x").is_err());
    }

    #[test]
    fn commands_that_the_kernel_would_cut_are_refused() {
        let vm = |run: &str| Vm {
            run: Some(run.to_owned()),
            peer: true,
            kernel: vec!["hugepages=2"],
            ..Vm::default()
        };
        let words = append("b", &vm("echo 'x y'")).unwrap();
        assert_eq!(
            words,
            "guest.role=b hugepages=2 guest.peer=/dev/ttyS1 guest.run=\"echo 'x y'\""
        );
        assert!(append("b", &vm("echo \"x\"")).is_err());
        assert!(append("b", &vm(&"x".repeat(2000))).is_err());
    }
}
