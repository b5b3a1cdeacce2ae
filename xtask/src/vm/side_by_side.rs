//! The same program on two devices of the same guests: perftest on vrnic, and on the kernel's
//! Soft-RoCE over the guests' virtio-net interface, whose MTU has room for a path MTU of 4096.
//!
//! Both are measured in turns in one run, several times, and the best of each counts: what else the
//! machine does only ever makes a number worse. So a ratio that is too small is looked at some more
//! times before it counts.

use anyhow::{Context, Result, ensure};

use super::Prepared;
use super::cluster::{Cluster, Node, Plan};
use crate::debian::Debian;

/// Rounds of all measurements.
const ROUNDS: usize = 2;
/// Further rounds of those whose ratio is too small.
const MORE_ROUNDS: usize = 4;
/// vrnic moves at least so many times the bytes a second, in messages of 64 KiB.
const BANDWIDTH: f64 = 10.0;
/// Soft-RoCE takes at least so many times the time, for messages of 64 B.
const LATENCY: f64 = 4.0;

/// A measurement: its name, the command, and which column of its result counts.
struct Row {
    name: &'static str,
    command: &'static str,
    /// For both devices, as one may be many times slower: iterations.
    iterations: [u32; 2],
    column: usize,
    /// Bandwidth, not latency.
    more_is_better: bool,
    /// Ratio in favour of vrnic that is asked for, if any.
    floor: Option<f64>,
}

const ROWS: [Row; 5] = [
    Row {
        name: "WRITE of 64 KiB, MiB/s",
        command: "ib_write_bw -s 65536",
        iterations: [2000, 200],
        column: 3,
        more_is_better: true,
        floor: Some(BANDWIDTH),
    },
    Row {
        name: "READ of 64 KiB, MiB/s",
        command: "ib_read_bw -s 65536",
        iterations: [2000, 200],
        column: 3,
        more_is_better: true,
        floor: None,
    },
    Row {
        name: "SEND of 64 KiB, MiB/s",
        command: "ib_send_bw -s 65536",
        iterations: [2000, 200],
        column: 3,
        more_is_better: true,
        floor: None,
    },
    Row {
        name: "WRITE of 64 B, typical latency, µs",
        command: "ib_write_lat -s 64",
        iterations: [2000, 500],
        column: 4,
        more_is_better: false,
        floor: Some(LATENCY),
    },
    Row {
        name: "SEND of 64 B, typical latency, µs",
        command: "ib_send_lat -s 64",
        iterations: [2000, 500],
        column: 4,
        more_is_better: false,
        floor: None,
    },
];

/// Address of a guest on one of the networks.
fn address(node: &Node, virtio: bool) -> String {
    if virtio {
        node.address.replacen("10.78.", "10.79.", 1)
    } else {
        node.address.clone()
    }
}

/// Makes the interface that has the guest's other address a Soft-RoCE device.
fn add_softroce(node: &Node) -> Result<()> {
    let address = address(node, true);
    let script = format!(
        "set -e; modprobe rdma_rxe; \
         net=$(ip -o -4 addr show | awk '$4 ~ /^{address}\\// {{ print $2 }}'); \
         ip link set \"$net\" mtu 9000; rdma link add rxe0 type rxe netdev \"$net\""
    );
    node.run(&script).map(drop)
}

/// Runs a measurement once between two guests.
fn measure(a: &Node, b: &Node, row: &Row, virtio: bool) -> Result<f64> {
    let iterations = row.iterations[usize::from(virtio)];
    let command = format!("stdbuf -oL {} -R -F -n {iterations}", row.command);
    let mut server = a.start(&command)?;
    server.wait_for("Waiting for client to connect")?;
    let said = b.run(&format!("{command} {}", address(a, virtio)))?.text;
    server.finish()?;
    result(&said, row.column).with_context(|| format!("{command} said: {said}"))
}

/// The number in a column of the last line of numbers.
fn result(said: &str, column: usize) -> Option<f64> {
    let numbers = |line: &str| {
        let words: Option<Vec<f64>> = line
            .split_whitespace()
            .map(|word| word.parse().ok())
            .collect();
        words.filter(|numbers| numbers.len() > column)
    };
    said.lines().rev().find_map(numbers)?.get(column).copied()
}

/// How many times better ours is.
fn ratio(row: &Row, best: &[Option<f64>; 2]) -> f64 {
    let [ours, theirs] = best.map(Option::unwrap_or_default);
    if row.more_is_better {
        ours / theirs
    } else {
        theirs / ours
    }
}

/// Whether what is asked for is reached.
fn holds(row: &Row, best: &[Option<f64>; 2]) -> bool {
    row.floor.is_none_or(|floor| ratio(row, best) >= floor)
}

/// Measures all rows on both devices, prints the table, and holds the ratios that are asked for.
pub(crate) fn test(prepared: &Prepared) -> Result<()> {
    let debian = Debian::get(&prepared.programs)?;
    let plan = Plan {
        name: "side-by-side",
        ..Plan::default()
    };
    let cluster = Cluster::boot(prepared, &debian, &plan)?;
    let (a, b) = cluster.pair()?;
    for node in [a, b] {
        add_softroce(node)?;
    }
    let mut best = [[None::<f64>; 2]; ROWS.len()];
    for round in 0..ROUNDS + MORE_ROUNDS {
        for (row, best) in ROWS.iter().zip(&mut best) {
            if round >= ROUNDS && holds(row, best) {
                continue;
            }
            for (virtio, best) in [false, true].into_iter().zip(best) {
                let found = measure(a, b, row, virtio)?;
                let better = |known: f64| (found > known) == row.more_is_better;
                if best.is_none_or(better) {
                    *best = Some(found);
                }
            }
        }
    }
    cluster.close()?;
    report(&best)
}

fn report(best: &[[Option<f64>; 2]; ROWS.len()]) -> Result<()> {
    println!("  | perftest between two guests | vrnic | Soft-RoCE | ratio |");
    println!("  |---|---|---|---|");
    let mut missed = Vec::new();
    for (row, best) in ROWS.iter().zip(best) {
        let [ours, theirs] = best.map(Option::unwrap_or_default);
        let ratio = ratio(row, best);
        println!("  | {} | {ours:.0} | {theirs:.0} | {ratio:.1} |", row.name);
        if !holds(row, best) {
            missed.push(format!("{}: {ratio:.1} times better", row.name));
        }
    }
    ensure!(missed.is_empty(), "too little: {}", missed.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_perftest_are_found() {
        let said = " #bytes     #iterations    BW peak[MiB/sec]    BW average[MiB/sec]   MsgRate[Mpps]\n \
            65536      200              41.02              40.55              0.000649\n\
            ---------------\n";
        assert_eq!(result(said, 3), Some(40.55));
        assert_eq!(result(said, 5), None);
        assert_eq!(result("nothing", 0), None);
    }
}
