//! Tests of what a stock Debian guest does with the RNIC: its own kernel with our module, its own
//! verbs library with our provider, its own programs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Prepared;
use super::cluster::{Cluster, Node, Plan};
use crate::debian::Debian;

/// A test on a number of machines.
///
/// # Errors
/// The machines do not come up, the test fails, or they do not end well.
pub(super) fn on(
    prepared: &Prepared,
    plan: &Plan,
    test: impl FnOnce(&Cluster) -> Result<()>,
) -> Result<()> {
    let debian = Debian::get(&prepared.programs, plan.kernel)?;
    let cluster = Cluster::boot(prepared, &debian, plan)?;
    let dir = cluster.dir().to_owned();
    let logs = format!("logs: {}", dir.display());
    test(&cluster).context(logs.clone())?;
    cluster.close().context(logs)?;
    remove_captures(&dir)
}

/// Captures of a test that passed, of which some have gigabytes, are of no use to anybody.
fn remove_captures(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "pcapng")
        {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// `ibv_devinfo` lists an active device, and the guests reach each other over its Ethernet
/// interface.
pub(crate) fn device(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "stock-device",
        ..Plan::default()
    };
    on(prepared, &plan, check_device)
}

/// The device is there and active in each guest, and the first two guests reach each other.
pub(super) fn check_device(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let device = rdma_device(node)?;
        let info = node.run(&format!("ibv_devinfo -v -d {device}"))?.text;
        for line in ["PORT_ACTIVE", "link_layer:\t\tEthernet", "max_qp:"] {
            ensure!(
                info.contains(line),
                "guest {}: no {line:?} in {info}",
                node.name
            );
        }
        let driver = node.run(&format!(
            "readlink /sys/class/infiniband/{device}/device/driver"
        ))?;
        ensure!(
            driver.text.trim().ends_with("/vrnic"),
            "{device} has the driver {}",
            driver.text
        );
    }
    let (a, b) = cluster.pair()?;
    for (from, to) in [(a, b), (b, a)] {
        let ping = from.run(&format!("ping -c 3 -W 5 {}", to.address))?.text;
        ensure!(
            ping.contains(" 0% packet loss"),
            "guest {}: {ping}",
            from.name
        );
    }
    Ok(())
}

/// An unprivileged process does to a guest's device whatever it may (`tests/torment`), while that
/// guest goes on to open connections to the other and to exchange verified data. The kernel has
/// nothing to say about it, and afterwards nothing is left of it.
pub(crate) fn torment(prepared: &Prepared) -> Result<()> {
    const WARNINGS: &str = "--level emerg,alert,crit,err,warn";
    let program = &prepared.programs.torment;
    let folder = program.parent().context("the program is in a folder")?;
    let share = format!(
        "local,path={},mount_tag=programs,security_model=none,readonly=on",
        folder.display()
    );
    let plan = Plan {
        name: "stock-torment",
        qemu: vec!["-virtfs".to_owned(), share],
        ..Plan::default()
    };
    on(prepared, &plan, |cluster| {
        let (a, b) = cluster.pair()?;
        a.run(
            "modprobe 9pnet_virtio && mkdir /programs && \
             mount -t 9p -o trans=virtio,version=9p2000.L,ro programs /programs",
        )?;
        let _server = b.start(&format!("rping -s -P -V -a {}", b.address))?;
        // `rping` ends with 0 whatever happens.
        let exchange = |count| {
            let rping = format!("rping -c -V -v -C {count} -a {}", b.address);
            format!("[ $({rping} | grep -c '^ping data') = {count} ]")
        };
        a.run(&format!("until {}; do :; done", exchange(1)))?;
        let state = || -> Result<_> { Ok((a.run("rdma resource")?.text, a.dmesg(WARNINGS)?)) };
        let before = state()?;
        let others = a.start(&format!(
            "until [ -e /tmp/over ]; do {} || exit 1; echo verified; done",
            exchange(100)
        ))?;
        let torment = a.run("/programs/vrnic-torment --seconds 25")?.text;
        println!("  {}", torment.trim());
        a.run("touch /tmp/over")?;
        let others = others.finish()?;
        ensure!(
            others.status == 0 && others.text.contains("verified"),
            "others were disturbed: {}",
            others.text
        );
        let after = state()?;
        ensure!(before == after, "before: {before:?}\nafterwards: {after:?}");
        a.run(&exchange(100))?;
        b.run("pkill rping")?;
        Ok(())
    })
}

/// Data goes so many times from where `rping` is run by `command` to its server and back, and is
/// verified there. It ends with 0 whatever happens, so what it says is counted.
///
/// # Errors
/// It was not as often.
pub(super) fn exchange(node: &Node, command: &str, count: usize) -> Result<()> {
    let said = node.run(&format!("timeout 60 {command} -c -V -v -C {count}"))?;
    let verified = said.text.lines();
    let verified = verified
        .filter(|line| line.starts_with("ping data"))
        .count();
    ensure!(
        verified == count,
        "guest {}: {command}: {verified} of {count}: {}",
        node.name,
        said.text
    );
    Ok(())
}

/// Name of the one RDMA device, as the distribution's rules have made it, when its port is up.
///
/// # Errors
/// There is not one, or the port stays down.
pub(super) fn rdma_device(node: &Node) -> Result<String> {
    let list = node.run("ls /sys/class/infiniband")?.text;
    let names: Vec<_> = list.split_whitespace().collect();
    let [name] = names.as_slice() else {
        anyhow::bail!("guest {} has RDMA devices {names:?}, not one", node.name);
    };
    // The port follows the Ethernet interface, a moment after that was set up.
    node.run(&format!(
        "timeout 60 sh -c 'until rdma link show {name}/1 | grep -q ACTIVE; do :; done'"
    ))?;
    Ok((*name).to_owned())
}

/// Name on the PCI bus of the function that an RDMA device belongs to.
///
/// # Errors
/// There is no such device.
pub(super) fn function_of(node: &Node, device: &str) -> Result<String> {
    let function = node.run(&format!(
        "basename $(readlink -f /sys/class/infiniband/{device}/device)"
    ))?;
    Ok(function.text.trim().to_owned())
}
