//! `vrnic-softroce`: vrnic and Linux Soft-RoCE move verified data between each other.
//!
//! The same program runs on both ends of the wire. On the host it drives a vrnic with our driver
//! on the socket of `vrnic serve`; in a virtual machine it drives `rdma_rxe` with the
//! distribution's verbs library. The two talk over a channel of their own. The modules, from what
//! is agreed down to what it is carried out with:
//!
//! * [`step`]: the terms: operations, connections, steps; [`plan`]: the list of them;
//! * [`talk`] and [`channel`]: what the two ends tell each other, and over what;
//! * [`lead`] and [`follow`]: the ends of that talk; [`transfer`]: one end's part in a step;
//! * [`image`]: what memory has to hold before and after a step, byte by byte;
//! * [`rnic`]: what the above need of an RNIC; [`vrnic`] and [`rxe`] provide it.
//!
//! It prints a line `RESULT {…}` for each step, the last of which is `{"step":"done","ok":…}`, and
//! exits with 0 if everything was as it should be, with 1 if something was not, and with 2 if the
//! arguments are wrong.
#![deny(unsafe_code)]

mod channel;
mod cli;
mod follow;
mod image;
mod lead;
mod plan;
mod rnic;
#[allow(unsafe_code)]
mod rxe;
mod step;
mod talk;
mod transfer;
mod vrnic;

use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let outcome = match &arguments.command {
        cli::Command::Vrnic(arguments) => lead::run(arguments),
        cli::Command::Rxe(arguments) => follow::run(arguments),
    };
    match outcome {
        Ok(()) => {
            report(&json!({"step": "done", "ok": true}));
            ExitCode::SUCCESS
        }
        Err(error) => {
            let text = format!("{error:#}");
            println!("failed: {text}");
            report(&json!({"step": "done", "ok": false, "error": text}));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line for programs.
fn report(value: &Value) {
    println!("RESULT {value}");
}
