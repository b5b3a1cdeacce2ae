//! Three guests on one RNIC, the first with the physical function, the others with a virtual one each,
//! exchange data in all directions all the time, which is compared (`rping -V`). Meanwhile
//!
//! * a further virtual function is added, and a process on this machine exchanges data with a guest by it;
//! * how fast one of the guests may send is limited, and limited anew;
//! * that function is reset while it is used;
//! * one of the guests is killed.
//!
//! Who none of this is about loses nothing: data goes on on the same connections, message after
//! message, and until a peer is killed no counter knows of a packet that was sent again or of an error.
//! Of the peers of the one that was killed, only connections with it notice.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::cluster::{Node, Plan};
use super::control::{Running, end};
use super::stock::on;
use super::{Prepared, host_client};
use crate::process::{self, Background};

/// Bytes of a message, which goes there by RDMA READ and comes back by RDMA WRITE.
const SIZE: usize = 16_000;
/// Messages of each connection that have to come back after each event.
const MORE: u64 = 20;
/// First port of the connection manager.
const PORT: usize = 7200;
/// The operator's socket.
const CONTROL: &str = "control.sock";
/// Functions of the guests.
const GUESTS: u16 = 3;
/// The function that is added, and its socket.
const ADDED: (u16, &str) = (3, "vf2.sock");
/// What guest b may send, in Mbit/s, one after the other: more and less than it wants to.
const LIMITS: [&str; 3] = ["1000", "4", "none"];
/// Time for what happens on this machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most packets that a function may send again to a peer that was killed: its two connections with
/// that may each have a message on its way, of as many packets, that is sent again seven times.
const VAIN: u64 = 2 * 7 * (SIZE as u64).div_ceil(4096);

/// Counters that grow only if something is lost, or refused.
const LOSSES: [&str; 11] = [
    "packet_seq_err",
    "out_of_sequence",
    "duplicate_request",
    "local_ack_timeout_err",
    "implied_nak_seq_err",
    "resp_cqe_error",
    "req_cqe_error",
    "rx_no_qp",
    "rx_wrong_source",
    "tx_retransmits",
    "rx_not_allowed",
];

/// All that happens, one after the other.
pub(crate) fn test(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "mesh",
        vms: GUESTS.into(),
        vfs: GUESTS - 1,
        nic: ["--control", CONTROL, "--max-vfs", "3"]
            .map(str::to_owned)
            .to_vec(),
        ..Plan::default()
    };
    on(prepared, &plan, |cluster| {
        let operator = Operator {
            vrnic: &prepared.programs.vrnic,
            dir: cluster.dir(),
        };
        let mut flows = mesh(cluster.nodes())?;
        go_on(&mut flows)?;
        let before = operator.losses()?;
        let [a, _, victim] = cluster.nodes() else {
            anyhow::bail!("three guests");
        };

        println!(
            "  a function is added, and exchanges data with guest {}",
            a.name
        );
        let added = operator.does(&["add-vf"])?;
        ensure!(
            find(&added, "function") == Some(&json!(ADDED.0)),
            "added: {added}"
        );
        let program = &prepared.programs.host_process;
        host_client::exchange(program, cluster.dir(), ADDED.1, a)?;
        go_on(&mut flows)?;

        for limit in LIMITS {
            println!("  the limit of guest b, in Mbit/s: {limit}");
            operator.does(&["policy", "1", "--max-rate", limit])?;
            go_on(&mut flows)?;
        }

        println!("  the added function is reset");
        reset_in_use(&prepared.programs.guest, &operator)?;
        go_on(&mut flows)?;
        let losses = operator.losses()?;
        ensure!(
            losses == before,
            "{LOSSES:?}: {before:?} before, {losses:?} afterwards"
        );

        println!("  guest {} is killed", victim.name);
        cluster.kill(victim)?;
        outlive(victim, flows, &operator)
    })
}

/// A connection, with a port of its own, from each guest to each other one.
fn mesh(nodes: &[Node]) -> Result<Vec<Flow<'_>>> {
    let all = nodes.iter().flat_map(|a| nodes.iter().map(move |b| (a, b)));
    let pairs = all.filter(|(a, b)| a.name != b.name);
    let flows = (PORT..).zip(pairs);
    flows.map(|(port, ends)| Flow::start(ends, port)).collect()
}

/// Data that was sent after now has come back on all of them.
fn go_on(flows: &mut [Flow]) -> Result<()> {
    flows.iter_mut().try_for_each(Flow::goes_on)
}

/// Data that goes from one guest to another and back without end.
struct Flow<'a> {
    from: &'a Node,
    to: &'a Node,
    client: Running,
    server: Running,
}

impl<'a> Flow<'a> {
    fn start((from, to): (&'a Node, &'a Node), port: usize) -> Result<Self> {
        let at = format!("-S {SIZE} -p {port} -a {}", to.address);
        let server = to.start(&format!("exec rping -s -P {at}"))?;
        // Nothing says when the server listens.
        from.run(&format!(
            "timeout 60 sh -c 'until rping -c -v -C 1 {at} | grep -q \"ping data\"; do :; done'"
        ))?;
        // The start of a line tells which message has come back.
        let client = from.start(&format!(
            "stdbuf -oL rping -c -V -v {at} 2>&1 | stdbuf -oL cut -c 1-40"
        ))?;
        Ok(Self {
            from,
            to,
            client,
            server,
        })
    }

    fn is_with(&self, node: &Node) -> bool {
        self.from.name == node.name || self.to.name == node.name
    }

    /// Messages that have come back as they were sent, which is all of them, in order.
    fn verified(&self) -> Result<u64> {
        let text = self.client.text();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let verified = count(whole);
        verified.with_context(|| format!("guest {} to {}", self.from.name, self.to.name))
    }

    fn goes_on(&mut self) -> Result<()> {
        let next = self.verified()? + MORE;
        self.client.wait_for(&format!("rdma-ping-{next}:"))?;
        Ok(())
    }

    /// Ends both programs; returns what was verified.
    fn end(self) -> Result<u64> {
        let verified = self.verified()?;
        end([self.client, self.server])?;
        Ok(verified)
    }
}

/// How many lines of `rping` there are, if each is about the message after the one before.
fn count(text: &str) -> Result<u64> {
    let number = |line: &str| {
        let (number, _) = line
            .strip_prefix("ping data: rdma-ping-")?
            .split_once(':')?;
        number.parse::<u64>().ok()
    };
    let mut next = 0;
    for line in text.lines() {
        ensure!(number(line) == Some(next), "{line:?} is not message {next}");
        next += 1;
    }
    Ok(next)
}

/// A process on this machine uses the added function alone, until the operator resets that.
fn reset_in_use(guest: &Path, operator: &Operator) -> Result<()> {
    let (function, socket) = ADDED;
    let log = File::create(operator.dir.join("added.log"))?;
    let mut user = Background::start(
        Command::new(guest)
            .args(["stress", "--role", "loop", "--seconds", "0"])
            .args(["--max-size", "65536", "--transfer-timeout", "20"])
            .args(["--socket", socket])
            .current_dir(operator.dir)
            .stdout(log.try_clone()?)
            .stderr(log),
    )?;
    let moved = || operator.counters(function, ["local_bytes"]);
    let [before] = moved()?;
    let more = || moved().ok().filter(|[bytes]| *bytes > before + (1 << 20));
    user.wait_until("traffic", Instant::now() + PATIENCE, more)?;
    operator.does(&["reset", &function.to_string()])?;
    let status = user.child().wait()?;
    ensure!(!status.success(), "its user does not mind the reset");
    Ok(())
}

/// The connections with a guest that is gone come to nothing, and the others go on. Those whose turn
/// it was to hear from it wait for ever, as nothing tells them.
fn outlive(victim: &Node, flows: Vec<Flow>, operator: &Operator) -> Result<()> {
    let (theirs, mut others): (Vec<_>, Vec<_>) =
        flows.into_iter().partition(|flow| flow.is_with(victim));
    go_on(&mut others)?;
    drop(theirs);
    for function in [0, 1] {
        let names = ["tx_retransmits", "packet_seq_err", "out_of_sequence"];
        let [vain, errors, gaps] = operator.counters(function, names)?;
        ensure!(
            vain <= VAIN,
            "function {function} sent {vain} packets again"
        );
        ensure!(
            (errors, gaps) == (0, 0),
            "function {function}: {errors} sequence errors, {gaps} gaps"
        );
    }
    for flow in others {
        let (from, to) = (flow.from.name, flow.to.name);
        let count = flow.end()?;
        println!("  guest {from} to {to}: {count} messages of {SIZE} bytes there and back");
    }
    Ok(())
}

/// Whoever operates the RNIC.
struct Operator<'a> {
    vrnic: &'a Path,
    dir: &'a Path,
}

impl Operator<'_> {
    /// Carries out a subcommand of `vrnic ctl`; returns its answer.
    fn does(&self, arguments: &[&str]) -> Result<Value> {
        let mut ctl = Command::new(self.vrnic);
        ctl.args(["ctl", "--control", CONTROL, "--json"])
            .args(arguments)
            .current_dir(self.dir);
        let said = process::output(&mut ctl)?;
        serde_json::from_str(&said).with_context(|| format!("vrnic ctl {arguments:?}: {said}"))
    }

    fn counters<const N: usize>(&self, function: u16, names: [&str; N]) -> Result<[u64; N]> {
        let arguments = json!({ "function": function });
        let request = json!({ "execute": "query-counters", "arguments": arguments });
        let counters = self.does(&["raw", &request.to_string()])?;
        let mut counted = [0; N];
        for (counter, name) in counted.iter_mut().zip(names) {
            let found = find(&counters, name).and_then(Value::as_u64);
            *counter = found.with_context(|| format!("there is no {name}: {counters}"))?;
        }
        Ok(counted)
    }

    /// What the guests' functions count of [`LOSSES`].
    fn losses(&self) -> Result<Vec<[u64; LOSSES.len()]>> {
        let functions = 0..GUESTS;
        functions
            .map(|function| self.counters(function, LOSSES))
            .collect()
    }
}

/// The member of that name, however deep it is.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let members = value.as_object()?;
    let deeper = || members.values().find_map(|member| find(member, name));
    members.get(name).or_else(deeper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_if_none_is_missing() {
        let line = |n| format!("ping data: rdma-ping-{n}: ABC\n");
        assert_eq!(count(&[0, 1, 2].map(line).concat()).unwrap(), 3);
        assert!(count(&[0, 2].map(line).concat()).is_err());
        assert!(count("data mismatch!\n").is_err());
    }
}
