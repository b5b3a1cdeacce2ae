//! The scenarios by name, and what runs of them are put together from.

use std::time::Duration;

use vrnic_abi::pci;

use super::scenario::{Scenario, Vm, name};

/// Name of each file of `qemu-configs/` without its ending, what it shows, and its number of
/// virtual machines.
pub(crate) const FILES: [(&str, &str, usize); 5] = [
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
    (
        SOFTROCE,
        "one VM whose Linux Soft-RoCE is on the wire of a vrnic",
        1,
    ),
];

/// The scenario with Soft-RoCE.
pub(crate) const SOFTROCE: &str = "softroce";

/// Time after which a run has failed; most take a tenth of it.
pub(crate) const BOUND: Duration = Duration::from_secs(120);

/// A scenario as a person runs it.
pub(crate) fn by_hand(
    file: &'static str,
    count: usize,
    command: Option<&str>,
    qemu: &[String],
) -> Scenario {
    // VFIO in the guest needs the guest's IOMMU, and the RNIC.
    let softroce = file == SOFTROCE;
    let vfio = (file != "one-vm" && !softroce).then(rnic_ids);
    let vm = |index| Vm {
        nic: (!softroce).then_some(index),
        softroce,
        vfio: vfio.clone(),
        run: command.map(str::to_owned),
        qemu: qemu.to_vec(),
        ..Vm::default()
    };
    let vms = (0..count).map(vm).collect();
    Scenario {
        name: file,
        file,
        bound: BOUND,
        nics: match softroce {
            true => vec![wire()],
            false => links(count),
        },
        vms,
    }
}

/// Socket of the wire of an RNIC, for a virtual machine's network interface.
pub(crate) const WIRE: &str = "link.sock";

/// Arguments of an RNIC on whose wire a virtual machine's network interface is.
pub(crate) fn wire() -> Vec<String> {
    let link = format!("stream:listen={WIRE}");
    ["--link", &link, "--capture", "a.pcapng"]
        .map(str::to_owned)
        .to_vec()
}

/// One virtual machine without an RNIC.
pub(crate) fn bare(name: &'static str, file: &'static str, vm: Vm) -> Scenario {
    Scenario {
        name,
        file,
        bound: BOUND,
        nics: Vec::new(),
        vms: vec![vm],
    }
}

/// One virtual machine with an RNIC that has no link.
pub(crate) fn alone(name: &'static str, file: &'static str, vm: Vm) -> Scenario {
    Scenario {
        nics: links(1),
        vms: vec![Vm { nic: Some(0), ..vm }],
        ..bare(name, file, Vm::default())
    }
}

/// A virtual machine that runs a command.
pub(crate) fn runs(command: &str) -> Vm {
    Vm {
        run: Some(command.to_owned()),
        ..Vm::default()
    }
}

/// A virtual machine that runs a command with the RNIC in VFIO's hands.
pub(crate) fn drives(command: &str) -> Vm {
    Vm {
        vfio: Some(rnic_ids()),
        ..runs(command)
    }
}

/// Arguments of RNICs: one alone has no link, two are joined by shared memory.
pub(crate) fn links(count: usize) -> Vec<Vec<String>> {
    let arguments = |index| {
        let link = match (count, index) {
            (2, 0) => "shm:listen=link.sock",
            (2, _) => "shm:connect=link.sock",
            _ => "none",
        };
        let capture = format!("{}.pcapng", name(index));
        ["--link", link, "--capture", &capture]
            .map(str::to_owned)
            .to_vec()
    };
    (0..count).map(arguments).collect()
}

/// Ids of vrnic's physical function, as `vfio-pci` takes them.
pub(crate) fn rnic_ids() -> String {
    format!("{:04x}:{:04x}", pci::VENDOR_ID, pci::DEVICE_ID_PF)
}
