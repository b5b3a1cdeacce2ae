//! `vrnic-bench`: the speed that is promised, measured as ratios in one run on one machine.
//!
//! The NICs are processes of their own, as users have them: this program runs itself again with
//! `serve` as its first argument, which is then the command line of `vrnic`. This process is their
//! client through vfio-user sockets, with the driver that guests use, so no virtual machine is
//! needed. [`bandwidth`], [`rate`], [`latency`], [`doorbell`] and [`idle`] measure; each row is repeated
//! in rounds and tells the median, next to what it is compared with in the same rounds.
//!
//! A row that could not be measured has no value and does not hold. What was written by RDMA is
//! compared with what was sent, after the clock has stopped.
#![forbid(unsafe_code)]

mod bandwidth;
mod cores;
mod doorbell;
mod function;
mod idle;
mod latency;
mod memory_copy;
mod nic;
mod pingpong;
mod rate;
mod row;
mod statistics;
mod stream;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use clap::builder::PossibleValuesParser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use row::{Measured, Row};

/// Measures vrnic against this machine: prints a table of ratios, each with the floor that it must
/// keep to. Takes less than a minute; other work on the machine shows in the numbers.
///
/// The exit code is 0 if every row holds, 1 if one does not, 2 for a mistake on the command line.
#[derive(Parser)]
#[command(name = "vrnic-bench", max_term_width = 100)]
struct Arguments {
    /// Also writes the rows as JSON: a list of {"name", "value", "unit", "floor", "holds"}, value
    /// null if the row could not be measured.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Measures this row only; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(row::names()))]
    only: Vec<String>,
}

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == "serve")
    {
        return vrnic::cli::main();
    }
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vrnic-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures what was asked for; true if everything holds.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    raise_file_limit();
    row::print_head();
    let wanted = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|n| n == name);
    let mut results = Vec::new();
    for row in row::ROWS.iter().filter(|row| wanted(row.name)) {
        let result = measure(row);
        row.print(&result);
        results.push(row.json(&result));
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&results)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(results.iter().all(|result| result.holds))
}

fn measure(row: &Row) -> anyhow::Result<Measured> {
    match row.name {
        "write_64k_local_vs_memcpy" => bandwidth::local(64 << 10),
        "write_1m_local_vs_memcpy" => bandwidth::local(1 << 20),
        "write_64k_wire_vs_memcpy" => bandwidth::wire(64 << 10),
        "write_1m_wire_vs_memcpy" => bandwidth::wire(1 << 20),
        "write_64b_mops" => rate::measure(),
        "write_64b_latency_vs_pingpong" => latency::measure(),
        "doorbell_pickup_us" => doorbell::measure(),
        "idle_cpu_percent" => idle::functions(),
        "idle_cpu_percent_256_vfs" => idle::family(),
        "memory_mib_256_vfs" => idle::memory(),
        other => anyhow::bail!("nothing measures {other}"),
    }
}

/// Hundreds of clients with their event files need more files than many shells allow at first. If the
/// limit cannot be raised, opening one too many tells.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}
