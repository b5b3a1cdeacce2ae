//! `cargo xtask vm`: a scenario with a person at the console of one of its guests.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::Background;
use crate::vm::scenario::{RunDir, Scenario, Vm, name};
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
    let scenario = scenarios::by_hand(&prepared, file, *count, command, qemu);
    start(&prepared, &scenario, mine)
}

fn start(prepared: &Prepared, scenario: &Scenario, mine: usize) -> Result<ExitCode> {
    let dir = RunDir::new(scenario.name)?;
    let nics = scenario.start_nics(
        prepared,
        &dir.path,
        Instant::now() + Duration::from_secs(10),
    )?;
    let mut others = Vec::new();
    let command = |index, vm: &Vm| scenario.command(prepared, &dir.path, index, vm);
    for (index, vm) in scenario
        .vms
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != mine)
    {
        let console = format!("{}.console.sock", name(index));
        println!(
            "console of guest {}: socat -,raw,echo=0 {}",
            name(index),
            dir.path.join(&console).display()
        );
        let mut qemu: Command = command(index, vm)?;
        qemu.env(
            "CONSOLE",
            format!("socket,server=on,wait=off,path={console}"),
        );
        others.push(Background::start(qemu.stdin(Stdio::null()))?);
    }
    println!(
        "logs: {}; to leave: power off the guest, or Ctrl-A X",
        dir.path.display()
    );
    let vm = scenario
        .vms
        .get(mine)
        .context("the guest is one of the scenario's")?;
    let mut qemu = command(mine, vm)?;
    qemu.env("CONSOLE", "stdio,mux=on,signal=off");
    let status = Background::start(&mut qemu)?.child().wait()?;
    drop(others);
    nics.into_iter().try_for_each(crate::vm::nic::Nic::stop)?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
