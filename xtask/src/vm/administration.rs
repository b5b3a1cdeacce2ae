//! An administrator sets what virtual functions may do from the guest of their physical one, with the
//! stock tools `ip` and `devlink`.
//!
//! One guest has the physical function (PF) and two virtual ones (VFs), each in a network namespace, as
//! those of containers would be, so that what is sent from one to the other passes the device. What is
//! set is shown by the tools, holds for what the VFs send, and what it drops is counted.

use anyhow::{Context, Result, bail, ensure};

use super::Prepared;
use super::cluster::{Cluster, Node, Plan};
use super::stock::{function_of, on, rdma_device};
use crate::process::output;

const VFS: u16 = 2;
/// Namespaces of the VFs, and their addresses there.
const PLACES: [(&str, &str); 2] = [("one", "10.78.1.1"), ("two", "10.78.1.2")];
/// What VF 0 is called by its administrator, and then by another one.
const CHOSEN: &str = "02:00:00:00:00:64";
const OTHER: &str = "02:00:00:00:00:65";
/// How often to look at a counter that is to change.
const LOOKS: u32 = 100;
/// Where the operator of the RNIC reaches it.
const CONTROL: &str = "control";

/// The tools set what they say, and the operator has the last word.
pub(crate) fn test(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "administration",
        vms: 1,
        vfs: VFS,
        nic: ["--control", CONTROL].map(str::to_owned).to_vec(),
        ..Plan::default()
    };
    on(prepared, &plan, |cluster| {
        let guest = Guest::new(cluster)?;
        guest.addresses()?;
        for (vf, (namespace, address)) in (0..).zip(PLACES) {
            guest.give(vf, namespace, address)?;
        }
        guest.vlans().context("VLANs")?;
        guest.sources().context("sources")?;
        guest.rate().context("the rate")?;
        guest.link().context("the link")?;
        guest.devlink().context("devlink")?;
        let vrnic = &prepared.programs.vrnic;
        let mut operator = std::process::Command::new(vrnic);
        operator
            .args(["ctl", "--control", CONTROL, "policy", "1", "--trust", "off"])
            .current_dir(cluster.dir());
        output(&mut operator)?;
        guest.operator().context("the operator's rules")?;
        guest.node.forgive(&[])
    })
}

/// The guest, and what its PF is called there.
struct Guest<'a> {
    node: &'a Node,
    /// Its folder, its name for devlink, and its interface.
    pf: String,
    handle: String,
    interface: String,
}

impl<'a> Guest<'a> {
    /// Enables the VFs.
    fn new(cluster: &'a Cluster) -> Result<Self> {
        let node = cluster.nodes().first().context("there is a guest")?;
        let function = function_of(node, &rdma_device(node)?)?;
        let pf = format!("/sys/bus/pci/devices/{function}");
        let interface = node.run(&format!("ls {pf}/net"))?.text.trim().to_owned();
        node.run(&format!(
            "echo {VFS} > {pf}/sriov_numvfs && udevadm settle --timeout=60"
        ))?;
        for (namespace, _) in PLACES {
            node.run(&format!("ip netns add {namespace}"))?;
        }
        Ok(Self {
            node,
            pf,
            handle: format!("pci/{function}"),
            interface,
        })
    }

    /// Sets something of VF 0.
    fn set(&self, setting: &str) -> Result<()> {
        self.set_of(0, setting)
    }

    fn set_of(&self, vf: u16, setting: &str) -> Result<()> {
        let interface = &self.interface;
        self.node
            .run(&format!("ip link set {interface} vf {vf} {setting}"))?;
        Ok(())
    }

    /// What the tool shows of VF 0, with what it sent and received on the lines after that.
    fn shown(&self) -> Result<String> {
        let shown = self
            .node
            .run(&format!("ip -s link show {}", self.interface))?
            .text;
        let at = shown.find("vf 0 ");
        let from = at.and_then(|at| shown.get(at..));
        let vf = from.map(|from| from.split("vf 1 ").next().unwrap_or(from));
        Ok(vf.with_context(|| format!("no VF 0: {shown}"))?.to_owned())
    }

    fn shows(&self, words: &[&str]) -> Result<()> {
        let shown = self.shown()?;
        for word in words {
            ensure!(shown.contains(word), "no {word:?} in {shown}");
        }
        Ok(())
    }

    /// What of VF 0 was dropped: received, and sent.
    fn dropped(&self) -> Result<[u64; 2]> {
        let shown = self.shown()?;
        let lines: Vec<_> = shown.lines().collect();
        let column = |title: &str| -> Result<u64> {
            let at = lines
                .iter()
                .position(|line| line.trim_start().starts_with(title));
            let titles = at.and_then(|at| lines.get(at)).context("no titles")?;
            let numbers = at.and_then(|at| lines.get(at + 1)).context("no numbers")?;
            // The first title names the direction.
            let titles = titles.split_whitespace().skip(1);
            let mut pairs = titles.zip(numbers.split_whitespace());
            let found = pairs.find(|(title, _)| *title == "dropped");
            Ok(found.context("no column")?.1.parse()?)
        };
        let both = column("RX:").and_then(|received| Ok([received, column("TX:")?]));
        both.with_context(|| format!("in {shown}"))
    }

    fn interface_of(&self, vf: u16) -> Result<String> {
        let names = self.node.run(&format!("ls {}/virtfn{vf}/net", self.pf))?;
        Ok(names.text.trim().to_owned())
    }

    /// A VF has the address that it was given as soon as it is bound anew.
    fn addresses(&self) -> Result<()> {
        let address = |vf: u16| -> Result<String> {
            let interface = self.interface_of(vf)?;
            let file = format!("/sys/class/net/{interface}/address");
            Ok(self
                .node
                .run(&format!("cat {file}"))?
                .text
                .trim()
                .to_owned())
        };
        let before = address(0)?;
        self.shows(&["spoof checking off", "link-state auto", "trust on", &before])?;
        self.set(&format!("mac {CHOSEN}"))?;
        self.shows(&[CHOSEN])?;
        ensure!(
            address(0)? == before,
            "the address changed under the driver"
        );
        self.bind_anew(0)?;
        let after = address(0)?;
        ensure!(after == CHOSEN, "VF 0 has the address {after}");
        let taken = format!("vf 1 mac {CHOSEN}");
        self.fails(&format!("ip link set {} {taken}", self.interface), "busy")
    }

    fn bind_anew(&self, vf: u16) -> Result<()> {
        let virtfn = format!("{}/virtfn{vf}", self.pf);
        self.node.run(&format!(
            "function=$(basename $(readlink -f {virtfn})); \
             cd /sys/bus/pci/drivers/vrnic && echo $function > unbind && echo $function > bind && \
             udevadm settle --timeout=60"
        ))?;
        Ok(())
    }

    fn fails(&self, command: &str, why: &str) -> Result<()> {
        let said = self.node.run(&format!("! {command} 2>&1"))?.text;
        ensure!(said.contains(why), "{command}: {said}");
        Ok(())
    }

    /// Gives a VF to a namespace.
    fn give(&self, vf: u16, namespace: &str, address: &str) -> Result<()> {
        let interface = self.interface_of(vf)?;
        self.node.run(&format!(
            "ip link set {interface} netns {namespace} name eth && \
             ip -n {namespace} address add {address}/24 dev eth && \
             ip -n {namespace} link set eth up"
        ))?;
        self.wait_for_carrier(namespace, 1)
    }

    fn wait_for_carrier(&self, namespace: &str, carrier: u8) -> Result<()> {
        self.node.run(&format!(
            "timeout 60 ip netns exec {namespace} \
             sh -c 'until [ $(cat /sys/class/net/eth/carrier) = {carrier} ]; do :; done'"
        ))?;
        Ok(())
    }

    /// Whether the VFs reach each other.
    fn reach(&self) -> Result<bool> {
        let [(one, _), (two, address)] = PLACES;
        // What one has learned of the other does not count.
        for namespace in [one, two] {
            let flush = format!("ip -n {namespace} neighbour flush dev eth");
            self.node.run(&flush)?;
        }
        let ping = format!("ip netns exec {one} ping -q -c 2 -i 0.2 -W 3 {address} || true");
        let said = self.node.run(&ping)?.text;
        match (
            said.contains(" 0% packet loss"),
            said.contains(" 100% packet loss"),
        ) {
            (true, _) => Ok(true),
            (_, true) => Ok(false),
            _ => bail!("{said}"),
        }
    }

    /// A limit holds for what the VF sends, and does it no other harm.
    fn rate(&self) -> Result<()> {
        const MBITS: u32 = 10;
        const BYTES: u32 = 2_000_000;
        self.set(&format!("max_tx_rate {MBITS}"))?;
        self.shows(&[&format!("max_tx_rate {MBITS}Mbps")])?;
        let [(one, _), (two, address)] = PLACES;
        let said = self.node.run(&format!(
            "ip netns exec {two} timeout 120 python3 -c \"\
             import socket; c = socket.create_server(('{address}', 7000)).accept()[0]; \
             print(sum(iter(lambda: len(c.recv(65536)), 0)))\" > /tmp/received & \
             timeout 60 sh -c 'until ip netns exec {two} ss -ltn | grep -q :7000; do :; done' && \
             ip netns exec {one} timeout 120 python3 -c \"\
             import socket, time; s = socket.create_connection(('{address}', 7000)); \
             t = time.monotonic(); s.sendall(bytes({BYTES})); s.shutdown(socket.SHUT_WR); \
             s.recv(1); print(time.monotonic() - t)\" && wait && cat /tmp/received"
        ))?;
        let mut words = said.text.split_whitespace();
        let seconds: f64 = words.next().context("no time")?.parse()?;
        let received: u32 = words.next().context("no count")?.parse()?;
        ensure!(received == BYTES, "{received} bytes arrived");
        // All but the burst that may go at once, in frames with headers.
        let least = 0.9 * f64::from(BYTES * 8) / f64::from(MBITS * 1_000_000);
        ensure!(seconds >= least, "{BYTES} bytes in {seconds} s");
        let interface = &self.interface;
        self.fails(
            &format!("ip link set {interface} vf 0 max_tx_rate 50 min_tx_rate 10"),
            "not supported",
        )?;
        self.set("max_tx_rate 0")
    }

    /// Only VFs of a VLAN reach each other.
    fn vlans(&self) -> Result<()> {
        ensure!(self.reach()?, "they do not reach each other");
        self.set("vlan 100 qos 3")?;
        self.shows(&["vlan 100, qos 3"])?;
        ensure!(!self.reach()?, "they do, in different VLANs");
        self.strangers()?;
        self.set_of(1, "vlan 100")?;
        ensure!(self.reach()?, "they do not in one VLAN");
        let interface = &self.interface;
        self.fails(
            &format!("ip link set {interface} vf 0 vlan 100 proto 802.1ad"),
            "not supported",
        )?;
        self.fails(
            &format!("ip link set {interface} vf 0 vlan 4095"),
            "Invalid",
        )?;
        self.fails(&format!("ip link set {interface} vf 2 trust on"), "Invalid")
    }

    /// What comes from another VLAN is dropped and counted, also if it has VF 0's address.
    fn strangers(&self) -> Result<()> {
        let [(_, address), (two, _)] = PLACES;
        let [before, _] = self.dropped()?;
        self.node.run(&format!(
            "ip -n {two} neighbour replace {address} lladdr {CHOSEN} dev eth nud permanent && \
             ! ip netns exec {two} ping -q -c 3 -i 0.2 -W 1 {address} && \
             ip -n {two} neighbour del {address} dev eth"
        ))?;
        let [received, _] = self.dropped()?;
        ensure!(
            received - before >= 3,
            "{} frames dropped",
            received - before
        );
        Ok(())
    }

    /// Frames with a forged source, or with a tag that is not the VF's to make, go nowhere.
    fn sources(&self) -> Result<()> {
        self.set("trust off")?;
        self.set("spoofchk on")?;
        self.shows(&["spoof checking on", "trust off"])?;
        let [_, before] = self.dropped()?;
        let (namespace, _) = PLACES[0];
        let count = 5;
        let own = CHOSEN.replace(':', "");
        for (source, tag) in [("02000000dead", ""), (own.as_str(), "81000007")] {
            let frame = format!("ffffffffffff{source}{tag}88b5{}", "a5".repeat(60));
            self.node.run(&format!(
                "ip netns exec {namespace} python3 -c \"\
                 import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); \
                 s.bind(('eth', 0)); \
                 [s.send(bytes.fromhex('{frame}')) for _ in range({count})]\""
            ))?;
        }
        let wanted = before + 2 * count;
        let mut dropped = before;
        // Sent is not yet dropped.
        for _ in 0..LOOKS {
            [_, dropped] = self.dropped()?;
            if dropped >= wanted {
                break;
            }
        }
        ensure!(dropped == wanted, "{} frames dropped", dropped - before);
        ensure!(self.reach()?, "what is allowed goes no more");
        Ok(())
    }

    /// A VF has a link as its administrator wants it.
    fn link(&self) -> Result<()> {
        let (namespace, _) = PLACES[0];
        self.set("state disable")?;
        self.shows(&["link-state disable"])?;
        self.wait_for_carrier(namespace, 0)?;
        self.set("state enable")?;
        self.shows(&["link-state enable"])?;
        self.wait_for_carrier(namespace, 1)?;
        ensure!(self.reach()?, "they do not reach each other");
        self.set("state auto")?;
        self.shows(&["link-state auto"])
    }

    /// The same device as devlink shows it.
    fn devlink(&self) -> Result<()> {
        let handle = &self.handle;
        let run = |command: &str| -> Result<String> {
            Ok(self.node.run(&format!("devlink {command}"))?.text)
        };
        let says = |said: &str, words: &[&str]| -> Result<()> {
            for word in words {
                ensure!(said.contains(word), "no {word:?} in {said}");
            }
            Ok(())
        };
        let info = run(&format!("dev info {handle}"))?;
        says(
            &info,
            &[
                "driver vrnic",
                "serial_number",
                "fw 0.1.0",
                "fw.mgmt.api 1.",
            ],
        )?;
        let ports = run("port show")?;
        let port = |vf: u16| format!("{handle}/{}", vf + 1);
        says(&ports, &[&port(0), &port(1), "flavour pcivf", "vfnum 1"])?;
        says(
            &ports,
            &[&format!("hw_addr {CHOSEN} state active opstate attached")],
        )?;
        run(&format!("port function set {} hw_addr {OTHER}", port(0)))?;
        says(&run(&format!("port show {}", port(0)))?, &[OTHER])?;
        self.shows(&[OTHER])?;
        self.set(&format!("mac {CHOSEN}"))?;
        self.service()
    }

    /// A VF that is taken out of service goes from its users, and comes back when it is put back.
    fn service(&self) -> Result<()> {
        let (namespace, address) = PLACES[0];
        let devices = format!("$(ls {}/virtfn0/infiniband 2>/dev/null)", self.pf);
        for (state, there) in [("inactive", "-z"), ("active", "-n")] {
            let port = format!("{}/1", self.handle);
            self.node.run(&format!(
                "devlink port function set {port} state {state} && \
                 timeout 60 sh -c 'until [ {there} \"{devices}\" ]; do :; done' && \
                 udevadm settle --timeout=60"
            ))?;
        }
        self.give(0, namespace, address)?;
        ensure!(self.reach()?, "they do not reach each other");
        // The driver says once that it is out of service.
        self.node
            .forgive(&["starting over", "reports fatal error 7"])
    }

    /// What the operator has settled stays as it is.
    fn operator(&self) -> Result<()> {
        let denied = "Operation not permitted";
        let interface = &self.interface;
        for setting in ["trust on", "vlan 0", "mac 02:00:00:00:00:66"] {
            let command = format!("ip link set {interface} vf 0 {setting}");
            self.fails(&command, denied)?;
        }
        let port = format!("{}/1", self.handle);
        self.fails(
            &format!("devlink port function set {port} hw_addr {OTHER}"),
            denied,
        )?;
        self.shows(&[CHOSEN, "vlan 100, qos 3", "trust off"])?;
        self.set_of(1, "trust off")
    }
}
