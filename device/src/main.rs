//! The `vrnic` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    vrnic::cli::main()
}
