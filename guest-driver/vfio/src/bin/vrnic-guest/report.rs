//! What the program prints.
//!
//! Somebody who no longer reads (`| head`) does not stop the test: writing then does nothing.

use std::fmt;
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Prints a line for people, as `println!` does.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::report::line(format_args!($($words)*))
    };
}
pub(crate) use say;

/// Prints a line and has it out at once.
pub(crate) fn line(text: fmt::Arguments) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// Prints a line for programs.
pub(crate) fn result(value: &Value) {
    line(format_args!("RESULT {value}"));
}

/// Runs a step of the bring-up and prints how long it took.
pub(crate) fn timed<T>(
    side: &str,
    name: &str,
    step: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    let value = step();
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let ok = value.is_ok();
    say!(
        "{side}  {name:<32} {ms:>9.3} ms{}",
        if ok { "" } else { "  FAILED" }
    );
    result(&json!({"step": "bringup", "side": side, "name": name, "ms": ms, "ok": ok}));
    value
}

/// A mebibyte rate, 0 without bytes.
pub(crate) fn mib_s(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / f64::from(1 << 20) / time.as_secs_f64().max(1e-9)
}

/// A duration in microseconds.
pub(crate) fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
