//! The rows of the table: what is promised, what was measured, how both are shown.

use anyhow::Result;
use serde::Serialize;

/// On which side of the floor a value must be.
#[derive(Clone, Copy)]
enum Bound {
    AtLeast,
    AtMost,
}

/// A promise.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    unit: &'static str,
    floor: f64,
    bound: Bound,
}

/// A value, and in a few words where it comes from.
pub(crate) struct Measured {
    pub(crate) value: f64,
    pub(crate) note: String,
}

/// A row as a program reads it.
#[derive(Serialize)]
pub(crate) struct Json {
    name: &'static str,
    value: Option<f64>,
    unit: &'static str,
    floor: f64,
    pub(crate) holds: bool,
}

const fn row(name: &'static str, unit: &'static str, bound: Bound, floor: f64) -> Row {
    Row {
        name,
        unit,
        floor,
        bound,
    }
}

/// Everything that is promised, in the order in which it is measured.
pub(crate) const ROWS: [Row; 10] = [
    row("write_64k_local_vs_memcpy", "x memcpy", Bound::AtLeast, 0.5),
    row("write_1m_local_vs_memcpy", "x memcpy", Bound::AtLeast, 0.5),
    row("write_64k_wire_vs_memcpy", "x memcpy", Bound::AtLeast, 0.15),
    row("write_1m_wire_vs_memcpy", "x memcpy", Bound::AtLeast, 0.15),
    row("write_64b_mops", "Mop/s", Bound::AtLeast, 1.0),
    row(
        "write_64b_latency_vs_pingpong",
        "x ping-pong",
        Bound::AtMost,
        20.0,
    ),
    row("doorbell_pickup_us", "us", Bound::AtMost, 1.0),
    row("idle_cpu_percent", "% of a core", Bound::AtMost, 1.0),
    row(
        "idle_cpu_percent_256_vfs",
        "% of a core",
        Bound::AtMost,
        1.0,
    ),
    row("memory_mib_256_vfs", "MiB", Bound::AtMost, 100.0),
];

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.name)
}

pub(crate) fn print_head() {
    println!(
        "{:<31} {:>9} {:<12} {:>8} {:<6} how",
        "row", "value", "unit", "floor", "holds"
    );
}

impl Row {
    fn holds(&self, value: f64) -> bool {
        match self.bound {
            Bound::AtLeast => value >= self.floor,
            Bound::AtMost => value <= self.floor,
        }
    }

    pub(crate) fn print(&self, result: &Result<Measured>) {
        let sign = match self.bound {
            Bound::AtLeast => ">=",
            Bound::AtMost => "<=",
        };
        let (value, holds, note) = match result {
            Ok(measured) => {
                let holds = if self.holds(measured.value) {
                    "yes"
                } else {
                    "NO"
                };
                (
                    format!("{:.3}", measured.value),
                    holds,
                    measured.note.clone(),
                )
            }
            Err(error) => ("-".to_string(), "NO", format!("not measured: {error:#}")),
        };
        println!(
            "{:<31} {value:>9} {:<12} {sign:>3} {:>4} {holds:<6} {note}",
            self.name, self.unit, self.floor
        );
    }

    pub(crate) fn json(&self, result: &Result<Measured>) -> Json {
        let value = result.as_ref().ok().map(|measured| measured.value);
        Json {
            name: self.name,
            value,
            unit: self.unit,
            floor: self.floor,
            holds: value.is_some_and(|value| self.holds(value)),
        }
    }
}
