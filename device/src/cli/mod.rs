//! The command line.
//!
//! A mistake of the user's is answered with one line that says what is wrong and what to do, and
//! exit code 2; trouble later with exit code 1.

mod ctl;
mod functions;
mod quota;
mod serve;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

pub use ctl::CtlArguments;
pub use functions::FunctionArguments;
pub use serve::ServeArguments;

/// A PCIe RDMA NIC in software: attach it to QEMU with `-device vfio-user-pci`.
#[derive(Debug, Parser)]
#[command(name = "vrnic", version, max_term_width = 100)]
#[command(after_help = "Log: set RUST_LOG to error, warn, info (the default), debug or trace.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a NIC to QEMU or another vfio-user client until SIGINT or SIGTERM.
    Serve(ServeArguments),
    /// Look at a NIC that is being served, and change it.
    Ctl(CtlArguments),
}

/// Exit code of mistakes that the user can mend.
const USAGE: u8 = 2;

/// Parses the arguments of the process and runs what they ask for.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return explain(&error),
    };
    let level = env_logger::Env::default().default_filter_or("info");
    env_logger::Builder::from_env(level)
        .format_target(false)
        .init();
    let (exit, error) = match arguments.command {
        Command::Serve(serve) => match serve::run(&serve) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(serve::Failure::Usage(error)) => (ExitCode::from(USAGE), format!("{error:#}")),
            Err(serve::Failure::Host(error)) => (ExitCode::FAILURE, format!("{error:#}")),
        },
        Command::Ctl(ctl) => match ctl::run(&ctl) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(ctl::Failure::Usage(error)) => (ExitCode::from(USAGE), error),
            Err(ctl::Failure::Refused(error)) => (ExitCode::FAILURE, error),
            Err(ctl::Failure::Output(error)) => (ExitCode::FAILURE, error.to_string()),
        },
    };
    eprintln!("vrnic: {error}");
    exit
}

/// Prints help and version as they are, and a mistake in one line.
fn explain(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            let try_this = match given() {
                Given::Ctl => "see `vrnic ctl --help`",
                Given::Serve => "try `vrnic serve --socket PATH`, or `vrnic --help`",
            };
            eprintln!("vrnic: no command given; {try_this}");
            ExitCode::from(USAGE)
        }
        _ => {
            let command = match given() {
                Given::Ctl => "ctl",
                Given::Serve => "serve",
            };
            eprintln!("vrnic: {}; see `vrnic {command} --help`", one_line(error));
            ExitCode::from(USAGE)
        }
    }
}

/// What a command line that is not understood was for.
enum Given {
    Serve,
    Ctl,
}

fn given() -> Given {
    match std::env::args_os().nth(1) {
        Some(command) if command == "ctl" => Given::Ctl,
        _ => Given::Serve,
    }
}

/// The first paragraph of clap's explanation, as one line.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let paragraph = text.split("\n\n").next().unwrap_or(text);
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    words.join(" ")
}
