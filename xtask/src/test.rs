//! `cargo xtask test`: every test and check, counted.
//!
//! Steps go from cheap to dear, and a failing one does not stop those after it, unless nothing
//! can be built. Each test of `cargo test` counts as one, as does each check and each virtual
//! machine test. The last line is `N passed, M failed`.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::vm::{Prepared, tests as vm_tests};
use crate::{check, paths};

/// Counts what passed and what failed, and says so as it happens.
pub(crate) struct Tally {
    only: Option<String>,
    passed: usize,
    failed: Vec<String>,
}

impl Tally {
    /// Nothing counted; of the steps, only those whose name contains `only` will run.
    pub(crate) fn new(only: Option<&str>) -> Tally {
        Tally {
            only: only.map(str::to_owned),
            passed: 0,
            failed: Vec::new(),
        }
    }

    /// Runs a step that counts as one test.
    pub(crate) fn step(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        if !self.wanted(name) {
            return;
        }
        println!("--- {name}");
        let start = Instant::now();
        let result = step();
        let took = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                println!("ok: {name} ({took:.1} s)");
                self.passed += 1;
            }
            Err(error) => {
                println!("FAILED: {name} ({took:.1} s): {error:#}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Whether a step of this name is to run.
    pub(crate) fn wanted(&self, name: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
    }

    /// Adds tests that ran elsewhere.
    fn add(&mut self, passed: usize, failed: impl IntoIterator<Item = String>) {
        self.passed += passed;
        self.failed.extend(failed);
    }

    /// Prints what failed and the last line.
    pub(crate) fn finish(self) -> ExitCode {
        for name in &self.failed {
            println!("failed: {name}");
        }
        let nothing = self.passed == 0 && self.failed.is_empty();
        if let (true, Some(only)) = (nothing, &self.only) {
            println!("no step has {only:?} in its name");
        }
        println!("{} passed, {} failed", self.passed, self.failed.len());
        // A mistyped name must not pass for a test that did.
        if self.failed.is_empty() && !nothing {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// `cargo xtask test`.
///
/// # Errors
/// None; what goes wrong is a failed step.
pub(crate) fn run(only: Option<&str>) -> Result<ExitCode> {
    let mut tally = Tally::new(only);
    if tally.wanted("cargo test") && !cargo_test(&mut tally) {
        println!("the workspace does not compile: no other step can run");
        return Ok(tally.finish());
    }
    check::all(&mut tally);
    virtual_machines(&mut tally);
    Ok(tally.finish())
}

fn virtual_machines(tally: &mut Tally) {
    let wanted: Vec<_> = vm_tests::ALL
        .iter()
        .filter(|(name, _)| tally.wanted(name))
        .collect();
    if wanted.is_empty() {
        return;
    }
    println!("--- preparing virtual machines");
    match Prepared::get(false) {
        Ok(prepared) => {
            for (name, test) in wanted {
                tally.step(name, || test(&prepared));
            }
        }
        // None of them could run, and each says so.
        Err(error) => {
            println!("FAILED: {error:#}");
            tally.add(
                0,
                wanted
                    .into_iter()
                    .map(|(name, _)| format!("{name} (not run)")),
            );
        }
    }
}

/// Runs all tests of the workspace; false if they do not compile.
fn cargo_test(tally: &mut Tally) -> bool {
    println!("--- cargo test");
    let test = ["test", "--workspace", "--no-fail-fast"];
    let built = Command::new(check::cargo_path())
        .args(test)
        .arg("--no-run")
        .current_dir(paths::checkout())
        .status();
    if !built.is_ok_and(|status| status.success()) {
        tally.add(0, ["building the tests".to_owned()]);
        return false;
    }
    let mut cargo = Command::new(check::cargo_path());
    cargo
        .args(test)
        .current_dir(paths::checkout())
        .stdout(Stdio::piped());
    match count(&mut cargo) {
        Ok(counted) => tally.add(counted.passed, counted.failed),
        Err(error) => tally.add(0, [format!("cargo test: {error:#}")]),
    }
    true
}

/// What test programs reported.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    passed: usize,
    failed: Vec<String>,
    /// Names of the program that is reporting, until its numbers come.
    named: Vec<String>,
}

/// Runs Cargo, shows what it says, and counts.
fn count(cargo: &mut Command) -> Result<Counted> {
    let mut child = cargo.spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo's output is a pipe")?;
    let mut counted = Counted::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        counted.line(&line);
    }
    let status = child.wait()?;
    if !status.success() && counted.failed.is_empty() {
        // A test program that died reports no result.
        counted.failed.push(format!("cargo test ({status})"));
    }
    Ok(counted)
}

impl Counted {
    /// Takes a line of a test program: `test NAME ... FAILED`, or the numbers at its end. The
    /// numbers count; a name can be lost among what a test itself prints.
    fn line(&mut self, line: &str) {
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|l| l.strip_suffix(" ... FAILED"))
        {
            self.named.push(name.to_owned());
        }
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        self.passed += number_before(result, " passed");
        let failed = number_before(result, " failed");
        self.named
            .resize(failed, "a test without a name".to_owned());
        self.failed.append(&mut self.named);
    }
}

/// `3` in `ok. 3 passed; 0 failed`, asked for what comes before ` passed`.
fn number_before(result: &str, word: &str) -> usize {
    let before = result.split(word).next().unwrap_or_default();
    before
        .rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> (usize, Vec<String>) {
        let mut counted = Counted::default();
        text.lines().for_each(|line| counted.line(line));
        (counted.passed, counted.failed)
    }

    #[test]
    fn results_of_several_programs_are_summed() {
        let (passed, failed) = count(
            "test a ... ok\ntest b::c ... FAILED\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n\
             test result: ok. 12 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out\n",
        );
        assert_eq!((passed, failed), (13, vec!["b::c".to_owned()]));
    }

    #[test]
    fn failures_without_a_name_count() {
        let (_, failed) = count("test result: FAILED. 0 passed; 2 failed; 0 ignored\n");
        assert_eq!(failed.len(), 2);
    }
}
