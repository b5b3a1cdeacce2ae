//! What the program prints.

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Prints a line for programs.
pub(crate) fn result(value: &Value) {
    let mut out = std::io::stdout().lock();
    // Somebody who no longer reads does not stop the test.
    let _ = writeln!(out, "RESULT {value}");
    let _ = out.flush();
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
    println!(
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
