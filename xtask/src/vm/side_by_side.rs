//! The same program on two devices of the same guests: perftest on two functions of one vrnic, and on
//! the kernel's Soft-RoCE over the guests' virtio-net interface, whose MTU has room for a path MTU of 4096.
//!
//! Both are measured in turns in one run, several times, and the best of each counts: what else the
//! machine does only ever makes a number worse. So a ratio that is too small is looked at some more
//! times before it counts.

use anyhow::{Context, Result, ensure};

use super::Prepared;
use super::cluster::{Cluster, Node, Plan};
use super::stock::rdma_device;
use super::stock_tools::{Listens, wait_for_listener};
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

/// A device of both guests, and which addresses its GID is one of, as the first bytes of them.
struct Device {
    /// Its name in each guest.
    names: [String; 2],
    /// The first half of the IPv4 address in its GID, in hexadecimal digits.
    network: &'static str,
}

/// Makes a guest's interface with a certain address a Soft-RoCE device with room for a path MTU of
/// 4096, and returns the interface's name.
///
/// # Errors
/// There is no such interface, or the guest's kernel refuses.
pub(super) fn add_softroce(node: &Node, address: &str) -> Result<String> {
    let script = format!(
        "set -e; modprobe rdma_rxe; \
         net=$(ip -o -4 addr show | awk '$4 ~ /^{address}\\// {{ print $2 }}'); \
         ip link set \"$net\" mtu 9000; rdma link add rxe0 type rxe netdev \"$net\"; \
         echo \"$net\""
    );
    Ok(node.run(&script)?.text.trim().to_owned())
}

/// Address of a guest's ordinary interface.
pub(super) fn ordinary(node: &Node) -> String {
    node.address.replacen("10.78.", "10.79.", 1)
}

/// The arguments that choose a device.
fn choose(node: &Node, name: &str, network: &str) -> Result<String> {
    let folder = format!("/sys/class/infiniband/{name}/ports/1/gids");
    let found = node.run(&format!(
        "cd {folder} && grep -l ':ffff:{network}:' * | head -n 1"
    ))?;
    let index: u8 =
        found.text.trim().parse().with_context(|| {
            format!("guest {}: {name} has no GID of its IPv4 address", node.name)
        })?;
    Ok(format!("-d {name} -x {index}"))
}

/// Runs a measurement once between two guests, which exchange parameters over their ordinary
/// interface.
fn measure(a: &Node, b: &Node, row: &Row, device: &Device, iterations: u32) -> Result<f64> {
    let [at_a, at_b] = &device.names;
    let command = format!("{} -F -n {iterations}", row.command);
    let at_a = choose(a, at_a, device.network)?;
    let at_b = choose(b, at_b, device.network)?;
    let server = a.start(&format!("{command} {at_a}"))?;
    wait_for_listener(a, Listens::Tcp(18515))?;
    let said = b.run(&format!("{command} {at_b} {}", ordinary(a)))?.text;
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
    let plan = Plan {
        name: "side-by-side",
        one_process: true,
        ..Plan::default()
    };
    let debian = Debian::get(&prepared.programs, plan.kernel)?;
    let cluster = Cluster::boot(prepared, &debian, &plan)?;
    let (a, b) = cluster.pair()?;
    let ours = Device {
        names: [rdma_device(a)?, rdma_device(b)?],
        network: "0a4e",
    };
    for node in [a, b] {
        add_softroce(node, &ordinary(node))?;
    }
    let theirs = Device {
        names: ["rxe0", "rxe0"].map(str::to_owned),
        network: "0a4f",
    };
    let mut best = [[None::<f64>; 2]; ROWS.len()];
    for round in 0..ROUNDS + MORE_ROUNDS {
        for (row, best) in ROWS.iter().zip(&mut best) {
            if round >= ROUNDS && holds(row, best) {
                continue;
            }
            let devices = [&ours, &theirs].into_iter().zip(row.iterations);
            for ((device, iterations), best) in devices.zip(best) {
                let found = measure(a, b, row, device, iterations)?;
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
