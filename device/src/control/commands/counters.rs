//! Counters: query-counters.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use vrnic_abi::counter::Counter;
use vrnic_firmware::frontend::objects::COUNTERS;
use vrnic_firmware::nic::PortDrops;

use super::World;
use crate::control::names;
use crate::control::promise::Promise;
use crate::control::protocol::Reply;
use crate::engine::PortState;

/// Arguments of query-counters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryCounters {
    /// The function; the port if none is given.
    function: Option<u16>,
}

/// The counters of the port.
#[derive(Debug, Serialize)]
struct PortCounters {
    link: LinkCounters,
    drops: Drops,
}

#[derive(Debug, Serialize)]
struct LinkCounters {
    tx_frames: u64,
    tx_bytes: u64,
    rx_frames: u64,
    rx_bytes: u64,
    tx_no_peer: u64,
    tx_failed: u64,
    tx_blocked: u64,
    rx_runt: u64,
    rx_oversize: u64,
    violations: u64,
    ups: u64,
    downs: u64,
}

/// Frames that the port dropped.
#[derive(Debug, Serialize)]
struct Drops {
    not_roce: u64,
    not_ours: u64,
    malformed: u64,
    switched_off: u64,
}

pub(super) fn show(world: &mut World<'_>, query: &QueryCounters, promise: Promise) {
    let Some(number) = query.function else {
        return promise.ask(
            world.engine,
            |inside| (inside.port(), inside.nic.drops()),
            |(port, drops)| Reply::of(&PortCounters::of(&port, drops)),
        );
    };
    world.ask_about(
        number,
        promise,
        |inside, id| Some(inside.nic.function(id)?.objects.counters),
        |counters| Reply::of(&by_name(&counters)),
    );
}

fn by_name(counters: &[u64; COUNTERS]) -> Map<String, Value> {
    let named = Counter::ALL.iter().zip(counters);
    named
        .map(|(counter, value)| (names::counter(*counter), Value::from(*value)))
        .collect()
}

impl PortCounters {
    fn of(port: &PortState, drops: PortDrops) -> Self {
        let link = port.link;
        Self {
            link: LinkCounters {
                tx_frames: link.tx_frames,
                tx_bytes: link.tx_bytes,
                rx_frames: link.rx_frames,
                rx_bytes: link.rx_bytes,
                tx_no_peer: link.tx_no_peer,
                tx_failed: link.tx_failed,
                tx_blocked: link.tx_blocked,
                rx_runt: link.rx_runt,
                rx_oversize: link.rx_oversize,
                violations: link.violations,
                ups: link.ups,
                downs: link.downs,
            },
            drops: Drops {
                not_roce: drops.not_roce,
                not_ours: drops.not_ours,
                malformed: drops.malformed,
                switched_off: port.cut_off,
            },
        }
    }
}
