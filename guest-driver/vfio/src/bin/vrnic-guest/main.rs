//! `vrnic-guest`: brings a vrnic function up from user space and moves verified data.
//!
//! The demonstration, the tests and the benchmarks run this program, in virtual machines on the
//! kernel's VFIO and on the host on a vfio-user socket. It prints lines for people, and lines that
//! start with `RESULT ` and go on with one JSON object for programs; the last of them is
//! `{"step":"done","ok":…}`. It exits with 0 if everything was as it should be, with 1 if something
//! was not, and with 2 if the arguments are wrong.

mod channel;
mod cli;
mod counters;
mod demo;
mod endpoint;
mod info;
mod pattern;
mod peer;
mod report;
mod step;
mod stress;
mod transfer;

use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let result = match &arguments.command {
        cli::Command::Info(command) => info::run(command),
        cli::Command::Counters(command) => counters::run(command),
        cli::Command::Demo(command) => demo::run(command),
        cli::Command::Stress(command) => stress::run(command),
    };
    match result {
        Ok(()) => {
            report::result(&json!({"step": "done", "ok": true}));
            ExitCode::SUCCESS
        }
        Err(error) => {
            report::say!("failed: {error:#}");
            let text = format!("{error:#}");
            report::result(&json!({"step": "done", "ok": false, "error": text}));
            ExitCode::FAILURE
        }
    }
}
