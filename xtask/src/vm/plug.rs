//! Tests of a device that comes and goes by its slot, whose bus is reset because of an error, or whose
//! vrnic is stopped or killed.
//!
//! Unlike in [`life`](super::life), nobody in the guest asked for it. What a guest may rely on: a
//! device that does not answer for a while is waited for; one that is gone is taken from its users
//! as by a removal, and its port's peer sees the link go down; one whose bus was reset comes back.
//!
//! QEMU's part is tested as far as it goes. Of QEMU 11.1, `qemu-configs/README.md` says where that
//! ends.

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::json;

use super::Prepared;
use super::cluster::{Cluster, Node, Plan};
use super::control::{Running, end};
use super::life::{Pair, UP};
use super::stock::{exchange, on};

/// What the module says of a device that does not even say who it is.
const GONE: &str = "the device is gone";
/// What it says, at level warning or above, of a device that does not answer any more, and while it
/// does not yet.
const BUS_ERROR: [&str; 3] = [
    "the device has failed: starting over",
    "memory of the device is not freed",
    "not a vrnic function",
];
/// What QEMU 11.1 says when it should unplug a vfio-user device with MSI-X, and aborts.
const CANNOT_UNPLUG: &str = "memory_region_del_subregion: Assertion";

/// A vrnic is stopped under traffic for longer than QEMU, the stack and RDMA retries are patient.
/// When it goes on, so does everything.
pub(crate) fn stopped(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "life-stopped",
        ..Plan::default()
    };
    on(prepared, &plan, |cluster| {
        let pair = Pair::new(cluster)?;
        let _server = pair
            .b
            .start(&format!("rping -s -P -a {}", pair.b.address))?;
        pair.exchange()?;
        let (_sink, mut writer) = pair.writes()?;
        cluster.signal_nic(0, Signal::STOP)?;
        // Not to wait for anything: the time is what is tested.
        pair.b.run("sleep 8")?;
        cluster.signal_nic(0, Signal::CONT)?;
        let before = rows(&writer.text()).len();
        pair.exchange()?;
        // The row that was being counted may be from before.
        while !rows(&writer.text()).iter().skip(before + 1).any(|n| *n > 0) {
            writer.wait_for(" 65536 ")?;
        }
        pair.a.forgive(&[])
    })
}

/// Operations in each row of results for messages of 64 KiB.
fn rows(text: &str) -> Vec<u64> {
    let operations = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("65536")).then(|| words.next()?.parse().ok())?
    };
    text.lines().filter_map(operations).collect()
}

/// A vrnic is killed under traffic: to the guest, the device was pulled out.
pub(crate) fn killed(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "life-killed",
        ..Plan::default()
    };
    on(prepared, &plan, |cluster| {
        let pair = Pair::new(cluster)?;
        let Pair { a, b, .. } = pair;
        let _server = b.start(&format!("rping -s -P -a {}", b.address))?;
        let mut kernel = a.start("stdbuf -oL dmesg -w")?;
        let mut watch = b.start("stdbuf -oL ibv_asyncwatch")?;
        watch.wait_for("async event FD")?;
        pair.exchange()?;
        let traffic = pair.traffic()?;
        cluster.kill_nic(0)?;
        kernel.wait_for(GONE)?;
        watch.wait_for("IBV_EVENT_PORT_ERR")?;
        end(traffic)?;
        a.run("[ -z \"$(rdma link)\" ]")?;
        a.forgive(&[GONE])?;
        // What is left of it can be removed, and nothing new is found in its place.
        let function = &pair.function;
        a.run(&format!(
            "timeout 60 sh -c 'cd /sys/bus/pci && echo 1 > devices/{function}/remove && \
             echo 1 > rescan && [ ! -e devices/{function} ]'"
        ))?;
        Ok(())
    })
}

/// Configuration space is as after power-on, and the port above reports an error, under traffic. The
/// kernel has the function recover, which takes to restore what was saved, each time.
///
/// A fatal error, upon which the kernel resets the bus itself, ends at QEMU's port, whose link does not
/// come up again by its registers.
pub(crate) fn bus_errors(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "life-bus-errors",
        ..Plan::default()
    };
    on(prepared, &plan, |cluster| {
        let pair = Pair::new(cluster)?;
        let Pair { a, b, .. } = pair;
        let _server = b.start(&format!("rping -s -P -a {}", b.address))?;
        let mut kernel = a.start("stdbuf -oL dmesg -w")?;
        pair.exchange()?;
        let error = json!({ "command-line": "pcie_aer_inject_error slot1 COMP_TIME" });
        for round in 1..=2 {
            let traffic = pair.traffic()?;
            let registers = "BASE_ADDRESS_0=0 BASE_ADDRESS_2=0 BASE_ADDRESS_4=0 COMMAND=0";
            a.run(&format!("setpci -s {} {registers}", pair.function))?;
            a.qmp()?.execute("human-monitor-command", &error)?;
            let recovered = kernel.wait_for("AER: device recovery successful");
            recovered.with_context(|| format!("after bus error {round}"))?;
            end(traffic)?;
            pair.set_up()?;
            pair.exchange()?;
            a.forgive(&BUS_ERROR)?;
        }
        Ok(())
    })
}

/// A function is plugged into the slot of a running guest, works, and is unplugged under traffic,
/// three times. With a QEMU that cannot unplug it, this ends when that has aborted.
pub(crate) fn plugged(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "life-plugged",
        one_process: true,
        nic: words("--socket nic-spare.sock"),
        qemu: words("-device pcie-root-port,id=slot2,chassis=2"),
        ..Plan::default()
    };
    on(prepared, &plan, |cluster| {
        let pair = Pair::new(cluster)?;
        let Pair { a, b, .. } = pair;
        let there = b.run("ls /sys/class/infiniband/*/device/net")?.text;
        b.run(&format!("ip address add 10.80.0.2/24 dev {}", there.trim()))?;
        let _servers = [
            b.start(&format!("rping -s -P -a {}", b.address))?,
            b.start("rping -s -P -p 7175 -a 10.80.0.2")?,
        ];
        let mut kernel = a.start("stdbuf -oL dmesg -w")?;
        kernel.wait_for(UP)?;
        for round in 1..=3 {
            plug(a, &mut kernel).with_context(|| format!("plugging, round {round}"))?;
            pair.exchange()?;
            if !unplug(cluster, a, &pair.device)? {
                // The other guest's function, of the same process, does not mind.
                return exchange(b, &format!("rping -a {}", b.address), 20);
            }
            pair.exchange()?;
            a.forgive(&[])?;
        }
        Ok(())
    })
}

/// Plugs the spare function in, and sets its interface up.
fn plug(a: &Node, kernel: &mut Running) -> Result<()> {
    let socket = json!({ "type": "unix", "path": "nic-spare.sock" });
    let device =
        json!({ "driver": "vfio-user-pci", "id": "nic2", "bus": "slot2", "socket": socket });
    a.qmp()?.execute("device_add", &device)?;
    kernel.wait_for(UP)?;
    a.run(
        "udevadm settle && interface=$(ls /sys/bus/pci/devices/0000:02:00.0/net) && \
         ip link set $interface mtu 9000 up && ip address add 10.80.0.1/24 dev $interface",
    )?;
    Ok(())
}

/// Unplugs it under traffic. False if QEMU, instead, has aborted as it is known to.
fn unplug(cluster: &Cluster, a: &Node, other: &str) -> Result<bool> {
    let client = "rping -c -V -p 7175 -a 10.80.0.2";
    a.run(&format!("until {client} -C 100; do :; done"))?;
    let mut client = a.start(&format!("stdbuf -oL {client} -v"))?;
    client.wait_for("ping data")?;
    let mut qmp = a.qmp()?;
    qmp.execute("device_del", &json!({ "id": "nic2" }))?;
    if let Err(error) = qmp.wait_for("DEVICE_DELETED", "nic2") {
        let words = cluster.bury(a)?;
        ensure!(words.contains(CANNOT_UNPLUG), "{error:#}: {words}");
        println!(
            "  QEMU has aborted, see qemu-configs/README.md: {}",
            words.trim()
        );
        return Ok(false);
    }
    let end = client.finish()?;
    ensure!(end.status != 0, "the client does not mind: {}", end.text);
    let left = a.run("rdma link")?.text;
    ensure!(
        left.lines().count() == 1 && left.contains(other),
        "after the removal there is {left}"
    );
    Ok(true)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_results_are_told_from_the_rest() {
        let text = " #bytes     #iterations\n 65536      14348            0.00\n 65536  0  0.00\n";
        assert_eq!(rows(text), [14348, 0]);
    }
}
