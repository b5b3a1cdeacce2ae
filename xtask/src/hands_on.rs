//! `cargo xtask vm`: a scenario with a person at the console of one of its guests.

use std::fs::File;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::Background;
use crate::vm::scenario::{Scenario, name};
use crate::vm::session::{RunDir, Session};
use crate::vm::{Prepared, scenarios};

/// Runs it.
///
/// # Errors
/// There is no such scenario, or it does not start.
pub(crate) fn run(
    scenario: &str,
    console: &str,
    command: Option<&str>,
    qemu: &[String],
) -> Result<ExitCode> {
    if scenario == "list" {
        scenarios::FILES
            .iter()
            .for_each(|(name, about, _)| println!("{name:18} {about}"));
        return Ok(ExitCode::SUCCESS);
    }
    let known = scenarios::FILES
        .iter()
        .find(|(name, _, _)| *name == scenario);
    let Some((file, _, count)) = known else {
        bail!("no scenario {scenario}; `cargo xtask vm list` shows them");
    };
    let mine = (0..*count).find(|index| name(*index) == console);
    let mine = mine.with_context(|| format!("{scenario} has no guest {console}"))?;
    let prepared = Prepared::get(false)?;
    let scenario = scenarios::by_hand(file, *count, command, qemu);
    start(&prepared, &scenario, mine)
}

fn start(prepared: &Prepared, scenario: &Scenario, mine: usize) -> Result<ExitCode> {
    let session = Session::open(scenario, prepared, RunDir::new(scenario.name)?)?;
    let dir = session.dir().display();
    let mut others = Vec::new();
    for (index, vm) in scenario
        .vms
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != mine)
    {
        let console = format!("{}.console.sock", name(index));
        println!(
            "console of guest {}: socat -,raw,echo=0 {dir}/{console}",
            name(index)
        );
        let mut qemu = session.command(index, vm)?;
        qemu.env(
            "CONSOLE",
            format!("socket,server=on,wait=off,path={console}"),
        );
        let errors = File::create(session.dir().join(format!("{}.stderr", name(index))))?;
        others.push(Background::start(qemu.stdin(Stdio::null()).stderr(errors))?);
    }
    println!("logs: {dir}; to leave: poweroff -f in the guest, or Ctrl-A X");
    let vm = scenario
        .vms
        .get(mine)
        .context("the guest is one of the scenario's")?;
    let mut qemu = session.command(mine, vm)?;
    qemu.env("CONSOLE", "stdio,mux=on,signal=off");
    let status = Background::start(&mut qemu)?.child().wait()?;
    drop(others);
    session.close()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
