//! The tests that need virtual machines.
//!
//! A test is a scenario and a look at what its guests said. The first ones need no RNIC: they
//! hold the ground on which the others stand, so that a failure says where to look.

use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};

use super::scenario::{Report, Said, Scenario, Vm};
use super::scenarios::{BOUND, alone, bare, drives, runs};
use super::{
    Prepared, administration, backports, capture, consumers, interop, life, mesh, own_tests, plug,
    side_by_side, sriov, stock, stock_tools,
};
use crate::{demo, softroce};

/// A test: its name, and what it does.
pub(crate) type Test = (&'static str, fn(&Prepared) -> Result<()>);

/// All tests, in the order they run.
pub(crate) const ALL: &[Test] = &[
    ("vm: a stock kernel boots", boots),
    ("vm: the RDMA modules load", rdma_modules),
    (
        "vm: a function behind the guest's IOMMU is bound to VFIO",
        iommu,
    ),
    (
        "vm: a function of a guest without shared memory is bound to VFIO",
        unshared,
    ),
    ("vm: two guests talk over their serial line", serial_line),
    ("vm: lspci shows the RNIC as hardware", lspci),
    ("vm: a guest brings the RNIC up", bring_up),
    ("vm: data is verified within one function", one_function),
    ("vm: data is verified without shared memory", unshared_data),
    ("vm: data is verified without an IOMMU", no_iommu),
    (
        "vm: data is verified with neither an IOMMU nor shared memory",
        unshared_no_iommu,
    ),
    (
        "vm: after a guest was killed under traffic, the next one works",
        killed,
    ),
    ("vm: demo, its capture without a malformed packet", demo),
    ("tshark reads every opcode of every service", every_opcode),
    (
        "tshark reads a capture of functions that exchange data directly",
        capture::functions,
    ),
    (
        "vm: Linux Soft-RoCE exchanges data with a vrnic",
        softroce::test,
    ),
    (
        "vm: Linux Soft-RoCE exchanges data over a wire that loses packets",
        softroce::lossy_test,
    ),
    ("vm: a stock guest sees the RDMA device", stock::device),
    ("vm: vrnic and Soft-RoCE side by side", side_by_side::test),
    ("vm: bad user space harms nobody but itself", stock::torment),
    (
        "stock tools: pingpong between two guests",
        stock_tools::pingpongs,
    ),
    (
        "stock tools: connection manager between two guests",
        stock_tools::connection_manager,
    ),
    (
        "stock tools: perftest, all services between two guests",
        stock_tools::services,
    ),
    (
        "stock tools: perftest, variations between two guests",
        stock_tools::variations,
    ),
    (
        "stock tools: an RNIC's guest and one with Linux Soft-RoCE, both ways",
        interop::test,
    ),
    (
        "stock tools: ibv_asyncwatch hears of the port",
        stock_tools::events,
    ),
    ("vm: rdma-core's own tests pass on a vrnic", own_tests::test),
    ("vm: NFS over RDMA between stock guests", consumers::nfs),
    (
        "vm: NVMe over Fabrics between stock guests",
        consumers::nvme,
    ),
    ("vm: the driver goes and comes under traffic", life::driver),
    (
        "vm: a vrnic is stopped under traffic and goes on",
        plug::stopped,
    ),
    ("vm: a vrnic is killed under traffic", plug::killed),
    (
        "vm: a function comes back after bus errors",
        plug::bus_errors,
    ),
    (
        "vm: a function is plugged in and, where QEMU can, unplugged",
        plug::plugged,
    ),
    ("vm: a guest enables virtual functions", sriov::test),
    (
        "vm: a guest administers virtual functions",
        administration::test,
    ),
    (
        "vm: three guests on one vrnic go on while others come and go",
        mesh::test,
    ),
    (
        "vm: stock guests with the kernel of the backports",
        backports::test,
    ),
];

fn guest(report: &Report, index: usize) -> Result<&Said> {
    report
        .guests
        .get(index)
        .context("the scenario has such a guest")
}

/// The first guest of a run said all of this.
fn said(report: &Report, texts: &[&str]) -> Result<()> {
    let said = guest(report, 0)?;
    for text in texts {
        ensure!(
            said.contains(text),
            "the guest did not say {text:?} (logs: {})",
            report.dir.display()
        );
    }
    Ok(())
}

fn boots(prepared: &Prepared) -> Result<()> {
    let report = bare("boot", "one-vm", runs("uname -r; lspci")).run(prepared)?;
    let ready = guest(&report, 0)?.ready.unwrap_or_default();
    println!("  ready after {:.1} s", ready.as_secs_f64());
    said(&report, &["82G33/G31/P35/P31 Express DRAM Controller"])
}

fn rdma_modules(prepared: &Prepared) -> Result<()> {
    let command = "modprobe rdma_rxe && modprobe rdma_ucm && ls -1 /sys/class/infiniband_verbs";
    said(
        &bare("rdma-modules", "one-vm", runs(command)).run(prepared)?,
        &["abi_version"],
    )
}

/// A virtual machine with a device of QEMU's that any build has and no driver of the guest takes.
/// Its command shows VFIO's nodes, and which functions are in the device's group.
fn stand_in() -> Vm {
    let command = "ls -1 /dev/vfio /sys/bus/pci/devices/$VRNIC_DEVICE/iommu_group/devices";
    let qemu = ["-device", "edu"].map(str::to_owned).to_vec();
    Vm {
        vfio: Some("1234:11e8".to_owned()),
        qemu,
        ..runs(command)
    }
}

fn iommu(prepared: &Prepared) -> Result<()> {
    check_group(&bare("guest-iommu", "guest-iommu", stand_in()).run(prepared)?)
}

fn unshared(prepared: &Prepared) -> Result<()> {
    check_group(&bare("unshared", "unshared-memory", stand_in()).run(prepared)?)
}

fn check_group(report: &Report) -> Result<()> {
    let lines = || guest(report, 0).into_iter().flat_map(|said| &said.lines);
    let functions = lines()
        .filter(|line| line.text.starts_with("0000:"))
        .count();
    ensure!(
        functions == 1,
        "the IOMMU group holds {functions} functions"
    );
    let groups = lines()
        .filter(|line| line.text.parse::<u32>().is_ok())
        .count();
    ensure!(groups == 1, "there are {groups} nodes /dev/vfio/GROUP");
    Ok(())
}

/// Guest a speaks as soon as it can, and nothing of it may be lost; b answers with what it heard.
fn serial_line(prepared: &Prepared) -> Result<()> {
    let a = "echo hello-from-a > /dev/ttyS1; read x < /dev/ttyS1; echo heard $x";
    let b = "read x < /dev/ttyS1; echo $x-and-b > /dev/ttyS1";
    let vms = [a, b]
        .map(|command| Vm {
            peer: true,
            ..runs(command)
        })
        .to_vec();
    let name = "serial-line";
    let scenario = Scenario {
        name,
        file: "two-vms",
        bound: BOUND,
        nics: Vec::new(),
        vms,
    };
    said(&scenario.run(prepared)?, &["heard hello-from-a-and-b"])
}

fn lspci(prepared: &Prepared) -> Result<()> {
    let report = alone("lspci", "one-vm", runs("lspci -vvv -nn -d 5652:")).run(prepared)?;
    said(
        &report,
        &[
            "Infiniband controller [0207]",
            "Region 0: Memory at",
            "Region 2: Memory at",
            "Region 4: Memory at",
            "Power Management version 3",
            "Express (v2) Endpoint",
            "FLReset+",
            "LnkCap:",
            "Speed 16GT/s, Width x16",
            "MSI-X: Enable- Count=",
            "Advanced Error Reporting",
            "Device Serial Number",
        ],
    )
}

fn bring_up(prepared: &Prepared) -> Result<()> {
    let vm = drives(
        "vrnic-guest info --device $VRNIC_DEVICE && vrnic-guest counters --device $VRNIC_DEVICE",
    );
    said(
        &alone("bring-up", "guest-iommu", vm).run(prepared)?,
        &["RESULT {", "\"step\":\"port\"", "\"PortXmitData\":"],
    )
}

/// Data between two queue pairs of one function, up to a size that suits a slow path.
const WITHIN: &str = "vrnic-guest demo --role loop --max-size 70000 --device $VRNIC_DEVICE";

fn one_function(prepared: &Prepared) -> Result<()> {
    transfers(&alone("one-function", "guest-iommu", drives(WITHIN)).run(prepared)?)
}

fn unshared_data(prepared: &Prepared) -> Result<()> {
    transfers(&alone("unshared-data", "unshared-memory", drives(WITHIN)).run(prepared)?)
}

/// A virtual machine whose kernel has no IOMMU to offer: VFIO cannot be used, root can.
fn direct() -> Vm {
    let command = "vrnic-guest demo --role loop --max-size 70000 --no-iommu --hugepages 32 \
                   --device $(lspci -Dnd 5652: | cut -d' ' -f1)";
    Vm {
        kernel: vec!["intel_iommu=off", "hugepages=16"],
        ..runs(command)
    }
}

fn no_iommu(prepared: &Prepared) -> Result<()> {
    transfers(&alone("no-iommu", "one-vm", direct()).run(prepared)?)
}

fn unshared_no_iommu(prepared: &Prepared) -> Result<()> {
    transfers(&alone("unshared-no-iommu", "unshared-memory", direct()).run(prepared)?)
}

fn transfers(report: &Report) -> Result<()> {
    let transfers = demo::check(report)?;
    println!("  {transfers} transfers verified");
    Ok(())
}

fn killed(prepared: &Prepared) -> Result<()> {
    let flood = "vrnic-guest stress --role loop --flood --seconds 0 --device $VRNIC_DEVICE";
    let vm = |command| Vm {
        nic: Some(0),
        ..drives(command)
    };
    let scenario = alone("killed", "guest-iommu", vm(flood));
    let report = scenario.session(prepared, |session| {
        let guests = session.run(&scenario.vms, |_, line| {
            match line.text.contains(r#""step":"flood""#) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        ensure!(
            guests.iter().all(|said| said.exit.is_none()),
            "the flood ended by itself"
        );
        session.run(&[vm(WITHIN)], |_, _| ControlFlow::Continue(()))
    })?;
    transfers(&report)
}

fn demo(prepared: &Prepared) -> Result<()> {
    let report = demo::scenario("demo-test").run(prepared)?;
    transfers(&report)?;
    capture::check(&report.dir.join("a.pcapng"))
}

/// Needs no virtual machine, but what is prepared with them.
fn every_opcode(_: &Prepared) -> Result<()> {
    capture::every_opcode()
}
