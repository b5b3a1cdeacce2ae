//! Counters by name, as the datasheet has them.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::anyhow;
use serde_json::{Map, Value, json};
use vrnic_abi::counter::Counter;
use vrnic_driver::{Counters, Driver};
use vrnic_driver_vfio::HostPlatform;

use crate::cli::CountersArguments;
use crate::peer::bring_up;
use crate::report::{result, say, timed};

/// Prints all counters and what they mean.
pub(crate) fn run(arguments: &CountersArguments) -> anyhow::Result<()> {
    let driver = bring_up("-", &arguments.target)?;
    thread::sleep(Duration::from_secs(arguments.seconds));
    let counters = driver.counters()?;
    let docs = Counter::CODES.codes.iter().map(|code| code.doc);
    for ((counter, value), doc) in counters.iter().zip(docs) {
        let (name, doc) = (name(counter), doc.concat());
        say!("{name:<32} {value:>12} {doc}");
    }
    report("-", &counters, |_| true);
    let driver = Arc::try_unwrap(driver).map_err(|_| anyhow!("the driver is still in use"))?;
    timed("-", "remove", || Ok(driver.remove()?))
}

/// Prints the counters that are not zero.
pub(crate) fn summary(side: &str, driver: &Driver<HostPlatform>) -> anyhow::Result<()> {
    let counters = driver.counters()?;
    for (counter, value) in counters.iter().filter(|(_, value)| *value > 0) {
        say!("{side}  {:<32} {value:>12}", name(counter));
    }
    report(side, &counters, |value| value > 0);
    Ok(())
}

/// The line for programs, with the counters whose values are `wanted`.
fn report(side: &str, counters: &Counters, wanted: impl Fn(u64) -> bool) {
    let named = counters.iter().filter(|(_, value)| wanted(*value));
    let named: Map<String, Value> = named
        .map(|(counter, value)| (name(counter), value.into()))
        .collect();
    result(&json!({"step": "counters", "side": side, "ok": true, "counters": named}));
}

/// The name in the datasheet.
fn name(counter: Counter) -> String {
    format!("{counter:?}")
}
