//! A process on this machine that uses a function without a virtual machine, with a guest as its peer.
//!
//! On this machine runs the example of the how-to, `guest-driver/vfio/examples/host_process.rs`, and
//! leads; in the guest its counterpart, `host_peer.c`, by the distribution's verbs library. What the two
//! have to know of each other, which they would otherwise exchange over a network that both have,
//! passes through here. Both compare every byte.

use std::fs::File;
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::cluster::Node;
use super::stock_tools::{gid_index, mac};
use crate::process::Background;

/// Address of the process's function, which answers no ARP.
const ADDRESS: &str = "10.78.0.100";
/// Where the example looks for whom it is to connect with.
const CHANNEL: &str = "host-process.channel";
/// Time after which every wait has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// The guest's program.
const PEER: &str = include_str!("host_peer.c");

/// The process `program` uses the function on `socket` in `dir` to exchange data with a guest.
///
/// # Errors
/// Not all of it arrived as it was.
pub(super) fn exchange(program: &Path, dir: &Path, socket: &str, guest: &Node) -> Result<()> {
    guest.run(&format!(
        "cd /tmp && rm -f fifo && mkfifo fifo && cat > host_peer.c <<'END' && \
         gcc -Wall -Werror -O2 -o host_peer host_peer.c -libverbs\n{PEER}END"
    ))?;
    let mut host = Host::start(program, dir, socket)?;
    let [their_qp, _, their_mac, _] = host.hear()?;
    let their_mac = colons(their_mac.parse()?);
    let gid = gid_index(guest)?;
    guest.run(&format!(
        "ip neighbor replace {ADDRESS} lladdr {their_mac} nud permanent dev \
         $(cat /sys/class/infiniband/*/ports/1/gid_attrs/ndevs/{gid})"
    ))?;
    let mut peer = guest.start(&format!(
        "timeout 60 /tmp/host_peer {gid} {ADDRESS} /tmp/fifo"
    ))?;
    let own = peer.wait_for("own ")?;
    let own = own.strip_prefix("own ").context("two numbers")?;
    let mac = number(&mac(guest)?)?;
    host.say(&format!("{own} {mac} {}", gid_of(&guest.address)?))?;
    guest.run(&format!("echo {their_qp} > /tmp/fifo"))?;
    peer.wait_for("ready")?;
    let [ready] = host.hear()?;
    ensure!(ready == "ready", "the process says {ready:?}");
    host.say("ready")?;
    host.finish(dir)?;
    let end = peer.finish()?;
    ensure!(
        end.status == 0,
        "guest {}: the peer failed: {}",
        guest.name,
        end.text
    );
    Ok(())
}

/// The process, and the channel to it.
struct Host {
    process: Background,
    stream: UnixStream,
    lines: Lines<BufReader<UnixStream>>,
}

/// Where what it says on its standard output and error goes.
const LOG: &str = "host-process.log";

impl Host {
    /// Starts it, and waits until it has opened its channel.
    fn start(program: &Path, dir: &Path, socket: &str) -> Result<Self> {
        let log = File::create(dir.join(LOG))?;
        let listener = UnixListener::bind(dir.join(CHANNEL))?;
        listener.set_nonblocking(true)?;
        let mut process = Background::start(
            Command::new(program)
                .args([socket, ADDRESS, "connect", CHANNEL])
                .current_dir(dir)
                .stdout(log.try_clone()?)
                .stderr(log),
        )?;
        let deadline = Instant::now() + PATIENCE;
        let accept = || listener.accept().ok();
        let (stream, _) = process.wait_until("connection", deadline, accept)?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let lines = BufReader::new(stream.try_clone()?).lines();
        Ok(Self {
            process,
            stream,
            lines,
        })
    }

    /// The words of its next line.
    fn hear<const N: usize>(&mut self) -> Result<[String; N]> {
        let line = self.lines.next().context("the process is gone")??;
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        let words: Result<[String; N], _> = words.try_into();
        words
            .ok()
            .with_context(|| format!("the process says {line:?}"))
    }

    fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.stream, "{line}").context("the process is gone")
    }

    /// Waits for its end, for which it has set a time itself.
    fn finish(mut self, dir: &Path) -> Result<()> {
        let status = self.process.child().wait()?;
        let said = std::fs::read_to_string(dir.join(LOG))?;
        ensure!(status.success(), "the process failed ({status}): {said}");
        ensure!(said.contains("all bytes are right"), "it says {said}");
        Ok(())
    }
}

/// An Ethernet address as the example says it.
fn colons(mac: u64) -> String {
    let [_, _, bytes @ ..] = mac.to_be_bytes();
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// An Ethernet address as the example wants it.
fn number(mac: &str) -> Result<u64> {
    let digits: String = mac.split(':').collect();
    u64::from_str_radix(&digits, 16).with_context(|| format!("{mac:?} is no address"))
}

/// An IP address as the example wants it: the number that its GID is.
fn gid_of(address: &str) -> Result<u128> {
    let address: Ipv4Addr = address.parse()?;
    Ok(u128::from(address.to_ipv6_mapped()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_numbers_and_back() {
        assert_eq!(number("02:00:00:00:00:fe").unwrap(), 0x0200_0000_00fe);
        assert_eq!(colons(0x0200_0000_00fe), "02:00:00:00:00:fe");
        assert_eq!(gid_of("10.78.0.1").unwrap(), 0xffff_0a4e_0001);
        assert!(number("nonsense").is_err());
    }
}
