//! Brings Soft-RoCE up with the guest's own tools: `modprobe`, `ip` and `rdma`.
//!
//! A vrnic answers no ARP and no neighbor solicitation by itself, so its Ethernet address is
//! entered as a permanent neighbor.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::talk::Identity;
use crate::vrnic::GIDS;

/// Name of the RDMA device that is made.
pub(crate) const DEVICE: &str = "rxe0";

/// Addresses of this end, with prefix lengths.
const ADDRESSES: [&str; 2] = ["10.77.0.2/24", "fd77::2/64"];
/// The same as GIDs.
pub(crate) const OWN_GIDS: [[u8; 16]; 2] = [
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 77, 0, 2],
    [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
];

/// Modules in the order in which they are needed; `rdma_rxe` asks for its checksum by name.
const MODULES: [&str; 4] = ["virtio_net", "crc32_generic", "ib_uverbs", "rdma_rxe"];

/// Configures the interface and puts Soft-RoCE on it.
pub(crate) fn bring_up(netdev: &str, peer: &Identity) -> Result<()> {
    for module in MODULES {
        run(&format!("modprobe {module}"))?;
    }
    run("ip link set lo up")?;
    run(&format!("ip link set {netdev} up"))?;
    for address in ADDRESSES {
        // Duplicate address detection would keep the IPv6 address back for a second.
        let dad = if address.contains(':') { " nodad" } else { "" };
        run(&format!("ip address add {address} dev {netdev}{dad}"))?;
    }
    let mac: Vec<_> = peer.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let mac = mac.join(":");
    for gid in GIDS {
        let address = std::net::Ipv6Addr::from(gid).to_canonical();
        let entry = format!("{address} lladdr {mac} nud permanent dev {netdev}");
        run(&format!("ip neighbor replace {entry}"))?;
    }
    run(&format!("rdma link add {DEVICE} type rxe netdev {netdev}"))
}

/// Ethernet address of the interface.
pub(crate) fn mac_of(netdev: &str) -> Result<[u8; 6]> {
    let path = format!("/sys/class/net/{netdev}/address");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let mut mac = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut mac {
        let part = parts.next().context("an Ethernet address is too short")?;
        *byte = u8::from_str_radix(part, 16)?;
    }
    Ok(mac)
}

fn run(line: &str) -> Result<()> {
    let mut words = line.split(' ');
    let program = words.next().context("a command has a name")?;
    let output = Command::new(program).args(words).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{line}` failed: {complaint}");
    Ok(())
}
