//! The command line.
//!
//! A mistake of the user's is answered with one line that says what is wrong and what to do, and
//! exit code 2; trouble later with exit code 1.

mod functions;
mod serve;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

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
    let Command::Serve(serve) = arguments.command;
    match serve::run(&serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(serve::Failure::Usage(error)) => {
            eprintln!("vrnic: {error:#}");
            ExitCode::from(USAGE)
        }
        Err(serve::Failure::Host(error)) => {
            eprintln!("vrnic: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints help and version as they are, and a mistake in one line.
fn explain(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            eprintln!(
                "vrnic: no command given; try `vrnic serve --socket PATH`, or `vrnic --help`"
            );
            ExitCode::from(USAGE)
        }
        _ => {
            eprintln!("vrnic: {}; see `vrnic serve --help`", one_line(error));
            ExitCode::from(USAGE)
        }
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
