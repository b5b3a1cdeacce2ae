//! The scenarios by name, and the tests that run on them.
//!
//! A test is a [`Scenario`] and a look at what its guests said. Those of the first group need no
//! RNIC: they hold the ground on which the others stand.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vrnic_abi::pci;

use super::scenario::{Report, Said, Scenario, Vm, name};
use super::{Prepared, capture};
use crate::demo;

/// Name of each file of `qemu-configs/` without its ending, what it shows, and its number of
/// virtual machines.
pub(crate) const FILES: [(&str, &str, usize); 4] = [
    ("one-vm", "one VM with one vrnic", 1),
    ("two-vms", "two VMs, each with a vrnic, over a link", 2),
    (
        "guest-iommu",
        "one VM whose vrnic is behind the guest's IOMMU",
        1,
    ),
    (
        "unshared-memory",
        "one VM whose memory the vrnic cannot map",
        1,
    ),
];

/// Time after which any of these has failed; they take a tenth of it.
const BOUND: Duration = Duration::from_secs(60);

/// A test that needs virtual machines.
pub(crate) struct Test {
    /// Name, `vm: …`.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(&Prepared) -> Result<()>,
}

/// All tests, in the order they run.
pub(crate) fn all() -> Vec<Test> {
    vec![
        Test {
            name: "vm: a stock kernel boots",
            run: boots,
        },
        Test {
            name: "vm: a function behind the guest's IOMMU is bound to VFIO",
            run: iommu,
        },
        Test {
            name: "vm: memory that is not shared",
            run: unshared,
        },
        Test {
            name: "vm: two guests talk over their serial line",
            run: serial_line,
        },
        Test {
            name: "vm: the RDMA modules load",
            run: rdma_modules,
        },
        Test {
            name: "vm: demo, its capture without a malformed packet",
            run: demo,
        },
    ]
}

/// A scenario as a person runs it: with RNICs if this checkout has them.
pub(crate) fn by_hand(
    prepared: &Prepared,
    file: &'static str,
    count: usize,
    command: Option<&str>,
    qemu: &[String],
) -> Scenario {
    let rnics = prepared.programs.vrnic().is_ok();
    let vm = |index| Vm {
        nic: rnics.then_some(index),
        peer: false,
        run: command.map(str::to_owned),
        qemu: qemu.to_vec(),
        ..Vm::default()
    };
    Scenario {
        name: file,
        file,
        bound: Duration::MAX,
        nics: if rnics { links(count) } else { Vec::new() },
        vms: (0..count).map(vm).collect(),
    }
}

/// Arguments of RNICs: one alone has no link, two are joined by shared memory.
pub(crate) fn links(count: usize) -> Vec<Vec<String>> {
    let link = |index| {
        let link = match (count, index) {
            (2, 0) => "shm:listen=link.sock",
            (2, _) => "shm:connect=link.sock",
            _ => "none",
        };
        vec![
            "--link".to_owned(),
            link.to_owned(),
            "--capture".to_owned(),
            format!("{}.pcapng", name(index)),
        ]
    };
    (0..count).map(link).collect()
}

/// Ids of vrnic's physical function, as `vfio-pci` takes them.
pub(crate) fn rnic_ids() -> String {
    format!("{:04x}:{:04x}", pci::VENDOR_ID, pci::DEVICE_ID_PF)
}

fn one(name: &'static str, file: &'static str, vm: Vm) -> Scenario {
    Scenario {
        name,
        file,
        bound: BOUND,
        nics: Vec::new(),
        vms: vec![vm],
    }
}

fn runs(command: &str) -> Vm {
    Vm {
        run: Some(command.to_owned()),
        ..Vm::default()
    }
}

fn guest(report: &Report, index: usize) -> Result<&Said> {
    report
        .guests
        .get(index)
        .context("the scenario has such a guest")
}

fn boots(prepared: &Prepared) -> Result<()> {
    let vm = runs("uname -r && lspci -vv && sleep 0");
    let report = one("boot", "one-vm", vm).run(prepared)?;
    let said = guest(&report, 0)?;
    ensure!(
        said.contains("82G33/G31/P35/P31 Express DRAM Controller"),
        "lspci shows no host bridge"
    );
    println!(
        "  ready after {:.1} s",
        said.ready.unwrap_or_default().as_secs_f64()
    );
    Ok(())
}

/// A device of QEMU's that any build has and no driver of the guest takes.
const STAND_IN: (&str, &str) = ("1234:11e8", "edu");

fn stand_in(command: &str) -> Vm {
    let (ids, device) = STAND_IN;
    let qemu = vec!["-device".to_owned(), device.to_owned()];
    Vm {
        vfio: Some(ids.to_owned()),
        qemu,
        ..runs(command)
    }
}

/// Shows the group's device node and that the function is in the IOMMU's hands.
const BOUND_TO_VFIO: &str =
    "ls -1 /dev/vfio /sys/bus/pci/devices/$VRNIC_DEVICE/iommu_group/devices";

fn iommu(prepared: &Prepared) -> Result<()> {
    let report = one("guest-iommu", "guest-iommu", stand_in(BOUND_TO_VFIO)).run(prepared)?;
    check_group(guest(&report, 0)?)
}

fn unshared(prepared: &Prepared) -> Result<()> {
    let report = one("unshared", "unshared-memory", stand_in(BOUND_TO_VFIO)).run(prepared)?;
    check_group(guest(&report, 0)?)
}

fn check_group(said: &Said) -> Result<()> {
    let functions = said
        .lines
        .iter()
        .filter(|line| line.text.starts_with("0000:"))
        .count();
    ensure!(functions == 1, "the function shares its IOMMU group");
    ensure!(
        said.lines
            .iter()
            .any(|line| line.text.parse::<u32>().is_ok()),
        "no /dev/vfio/GROUP"
    );
    Ok(())
}

fn serial_line(prepared: &Prepared) -> Result<()> {
    // a speaks as soon as it can, and nothing of it may be lost; b answers with what it heard.
    let a = "echo hello-from-a > /dev/ttyS1; read x < /dev/ttyS1; echo heard $x";
    let b = "read x < /dev/ttyS1; echo $x-and-b > /dev/ttyS1";
    let vm = |command| Vm {
        peer: true,
        ..runs(command)
    };
    let scenario = Scenario {
        name: "serial-line",
        file: "two-vms",
        bound: BOUND,
        nics: Vec::new(),
        vms: vec![vm(a), vm(b)],
    };
    let report = scenario.run(prepared)?;
    ensure!(
        guest(&report, 0)?.contains("heard hello-from-a-and-b"),
        "bytes were lost"
    );
    Ok(())
}

fn rdma_modules(prepared: &Prepared) -> Result<()> {
    let command = "modprobe rdma_rxe && modprobe rdma_ucm && modprobe virtio_net && ls /sys/class/infiniband_verbs";
    let report = one("rdma-modules", "one-vm", runs(command)).run(prepared)?;
    ensure!(
        guest(&report, 0)?.contains("abi_version"),
        "ib_uverbs is not there"
    );
    Ok(())
}

fn demo(prepared: &Prepared) -> Result<()> {
    let report = demo::scenario("demo-test").run(prepared)?;
    let transfers = demo::show(&report)?;
    println!("  {transfers} transfers verified");
    capture::check(&report.dir.join("a.pcapng"))
}
