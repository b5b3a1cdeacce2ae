//! The datasheet's tables are those of the definitions that the code is built from.
//!
//! `UPDATE_DATASHEET=1 cargo test -p vrnic-abi --test datasheet` writes them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends by panicking"
)]

use std::fmt::Write as _;
use std::path::Path;

use vrnic_abi::datasheet::sections;

/// The datasheet with its tables replaced by those of the definitions, and the tables it has.
fn regenerate(text: &str) -> (String, Vec<String>) {
    let (mut out, mut seen, mut skipping) = (String::new(), Vec::new(), false);
    for line in text.lines() {
        if line == "<!-- end -->" {
            skipping = false;
        }
        if !skipping {
            writeln!(out, "{line}").unwrap();
        }
        let name = line.strip_prefix("<!-- table: ");
        if let Some(name) = name.and_then(|rest| rest.strip_suffix(" -->")) {
            let table = sections().iter().find(|(known, _)| *known == name);
            let (_, table) = table.unwrap_or_else(|| panic!("no table is named {name}"));
            writeln!(out, "\n{table}").unwrap();
            seen.push(name.to_owned());
            skipping = true;
        }
    }
    (out, seen)
}

#[test]
fn tables_are_those_of_the_definitions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/programming-interface.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (generated, seen) = regenerate(&text);
    for (name, _) in sections() {
        assert!(
            seen.iter().any(|s| s == name),
            "the datasheet lacks the table {name}"
        );
    }
    if std::env::var_os("UPDATE_DATASHEET").is_some() {
        std::fs::write(&path, &generated).unwrap();
    } else {
        assert!(
            text == generated,
            "the datasheet differs from the definitions; run \
             `UPDATE_DATASHEET=1 cargo test -p vrnic-abi --test datasheet`"
        );
    }
}
