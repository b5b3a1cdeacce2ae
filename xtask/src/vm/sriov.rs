//! A guest's own SR-IOV: an administrator enables virtual functions, and disables them, as often as
//! that is wanted and whoever uses them.
//!
//! One guest has a physical function (PF) and its virtual ones (VFs) in a slot of stock QEMU. Two VFs
//! go to network namespaces, as those of containers would, so that the guest's stack cannot deliver
//! by itself what is sent from one to the other. Data that goes between them, and between one of
//! them and the PF, is checked by who receives it (`rping -V`).

use anyhow::{Context, Result, ensure};

use super::Prepared;
use super::cluster::{Cluster, Node, Plan};
use super::control::{Running, end};
use super::life::UP;
use super::stock::{exchange, function_of, on, rdma_device};

const VFS: u16 = 4;
/// How often they are enabled and disabled.
const ROUNDS: u32 = 10;
/// Bytes of data that go there and back at once, by RDMA READ and WRITE, and how often.
const SIZE: usize = 4000;
const COUNT: usize = 100;
/// The VFs that have a namespace, with its name and their addresses there.
const PAIR: [(u16, &str, &str); 2] = [(0, "one", "10.78.0.101"), (3, "two", "10.78.0.102")];

/// VFs come and go in each way there is, and work in between.
pub(crate) fn test(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "sriov",
        vms: 1,
        vfs: VFS,
        ..Plan::default()
    };
    on(prepared, &plan, |cluster| {
        let guest = Guest::new(cluster)?;
        for round in 1..=ROUNDS {
            let traffic = round == 1 || round == ROUNDS;
            let done = guest.enable_and_disable(traffic);
            done.with_context(|| format!("round {round}"))?;
        }
        let mut kernel = guest.node.start("stdbuf -oL dmesg -w")?;
        for way in &WAYS {
            println!("  {}", way.name);
            let gone = guest.go_another_way(way, &mut kernel);
            gone.context(way.name)?;
        }
        Ok(())
    })
}

/// What happens to a PF whose VFs are in use. `$pf` is its folder, `$function` its address.
struct Way {
    name: &'static str,
    command: &'static str,
    /// Whether the VFs are there afterwards.
    keeps: bool,
}

const WAYS: [Way; 4] = [
    Way {
        name: "the driver is unbound and bound",
        command: "cd /sys/bus/pci/drivers/vrnic && echo $function > unbind && echo $function > bind",
        keeps: false,
    },
    Way {
        name: "the physical function is removed from the bus and found again",
        command: "echo 1 > $pf/remove && echo 1 > /sys/bus/pci/rescan",
        keeps: false,
    },
    Way {
        name: "the module is unloaded and loaded",
        command: "rmmod vrnic && modprobe vrnic",
        keeps: false,
    },
    Way {
        name: "function level reset of the physical function",
        command: "echo 1 > $pf/reset",
        keeps: true,
    },
];

/// The guest, and what its PF is called there.
struct Guest<'a> {
    node: &'a Node,
    /// Its RDMA device, its address on the bus and its folder.
    device: String,
    function: String,
    pf: String,
}

impl<'a> Guest<'a> {
    fn new(cluster: &'a Cluster) -> Result<Self> {
        let node = cluster.nodes().first().context("there is a guest")?;
        let device = rdma_device(node)?;
        let function = function_of(node, &device)?;
        // A namespace has RDMA devices of its own only if all have.
        node.run("rdma system set netns exclusive")?;
        for (_, namespace, _) in PAIR {
            node.run(&format!("ip netns add {namespace}"))?;
        }
        Ok(Self {
            node,
            device,
            pf: format!("/sys/bus/pci/devices/{function}"),
            function,
        })
    }

    /// One round; if data is to be exchanged, they are disabled while that goes on.
    fn enable_and_disable(&self, traffic: bool) -> Result<()> {
        self.enable()?;
        let mut programs = Vec::new();
        if traffic {
            self.look_at_bus()?;
            programs = self.traffic()?;
        }
        self.write_count(0)?;
        end(programs)?;
        self.check_disabled()?;
        self.node.forgive(&[])
    }

    /// Something else happens to the PF while VFs are in use, and the PF works as before.
    fn go_another_way(&self, way: &Way, kernel: &mut Running) -> Result<()> {
        self.enable()?;
        let programs = self.traffic()?;
        // What the kernel says from here on is due to this.
        self.node.run(&format!("echo '{}' > /dev/kmsg", way.name))?;
        kernel.wait_for(way.name)?;
        let Self { function, pf, .. } = self;
        self.node.run(&format!(
            "function={function}; pf={pf}; export function pf; timeout 60 sh -c '{}'",
            way.command
        ))?;
        kernel.wait_for(&format!("{function}: {UP}"))?;
        end(programs)?;
        self.set_up_pf()?;
        if way.keeps {
            let programs = self.traffic()?;
            self.write_count(0)?;
            end(programs)?;
        }
        self.check_disabled()?;
        self.node.forgive(&[])
    }

    fn write_count(&self, count: u16) -> Result<()> {
        self.node.run(&format!(
            "timeout 60 sh -c 'echo {count} > {}/sriov_numvfs' && udevadm settle --timeout=60",
            self.pf
        ))?;
        Ok(())
    }

    /// Enables all VFs: each has an RDMA device and an interface.
    fn enable(&self) -> Result<()> {
        self.write_count(VFS)?;
        for number in 0..VFS {
            self.device_of(number)?;
            self.interface_of(number)?;
        }
        Ok(())
    }

    fn device_of(&self, number: u16) -> Result<String> {
        self.only_entry(number, "infiniband")
    }

    fn interface_of(&self, number: u16) -> Result<String> {
        self.only_entry(number, "net")
    }

    /// Name of what a VF has one of.
    fn only_entry(&self, number: u16, class: &str) -> Result<String> {
        let list = self
            .node
            .run(&format!("ls {}/virtfn{number}/{class}", self.pf))?
            .text;
        let names: Vec<_> = list.split_whitespace().collect();
        match names.as_slice() {
            [name] => Ok((*name).to_owned()),
            _ => anyhow::bail!("virtual function {number} has {names:?} in {class}"),
        }
    }

    /// Nothing is left but the PF, which works.
    fn check_disabled(&self) -> Result<()> {
        let left = self
            .node
            .run("ls /sys/class/infiniband; lspci -D -n -d 5652:")?;
        let left: Vec<_> = left.text.lines().collect();
        ensure!(
            matches!(left.as_slice(), [device, function]
                if *device == self.device && function.starts_with(&self.function)),
            "there is {left:?}"
        );
        rdma_device(self.node)?;
        Ok(())
    }

    /// Gives the PF its address again.
    fn set_up_pf(&self) -> Result<()> {
        self.node.run(&format!(
            "udevadm wait --timeout=60 --settle /sys/class/infiniband/{0} && \
             interface=$(ls {1}/net) && ip link set $interface mtu 9000 && \
             ip address replace {2}/24 dev $interface && ip link set $interface up",
            self.device, self.pf, self.node.address
        ))?;
        Ok(())
    }

    /// The bus shows five functions of hardware.
    fn look_at_bus(&self) -> Result<()> {
        let shown = self.node.run("lspci -vv -d 5652:")?.text;
        let count = |text: &str| shown.lines().filter(|line| line.contains(text)).count();
        let functions = usize::from(VFS) + 1;
        for (text, times) in [
            ("Number of VFs: 4", 1),
            ("MSI-X: Enable+ Count=64 Masked-", functions),
            ("Kernel driver in use: vrnic", functions),
            // The last three are those of the VFs' BARs, in the capability.
            ("Memory at ", 3 * functions + 3),
        ] {
            ensure!(count(text) == times, "{text:?}, not {times} times: {shown}");
        }
        for text in [
            "!!!",
            "[disabled]",
            "<unassigned>",
            "<ignored>",
            "<invalid>",
        ] {
            ensure!(count(text) == 0, "{text:?}: {shown}");
        }
        let unknown = ["Extended Capability ID", "] #", "nknown"];
        let strange = |line: &&str| {
            line.contains("Capabilities:") && unknown.iter().any(|text| line.contains(text))
        };
        ensure!(
            !shown.lines().any(|line| strange(&line)),
            "unknown capability: {shown}"
        );
        Ok(())
    }

    /// Two VFs exchange packets and verified data, and one does with the PF; and they go on.
    fn traffic(&self) -> Result<Vec<Running>> {
        for (number, namespace, address) in PAIR {
            self.give(number, namespace, address)?;
        }
        let [(_, one, address), (_, two, _)] = PAIR;
        let pf = &self.node.address;
        let server = |at: &str| format!("rping -s -P -S {SIZE} -a {at}");
        let mut programs = vec![
            self.inside(one, &server(address))?,
            self.node.start(&server(pf))?,
        ];
        for to in [address, pf] {
            programs.push(self.exchange(two, to)?);
        }
        Ok(programs)
    }

    /// Packets and verified data from a namespace to an address, until the program is ended.
    fn exchange(&self, namespace: &str, to: &str) -> Result<Running> {
        let rping = format!("stdbuf -oL rping -S {SIZE} -a {to}");
        self.node.run(&format!(
            "ip netns exec {namespace} ping -q -c 3 -i 0.2 -w 60 {to} && \
             timeout 60 ip netns exec {namespace} \
             sh -c 'until {rping} -c -v -C 1 | grep -q \"ping data\"; do :; done'"
        ))?;
        exchange(
            self.node,
            &format!("ip netns exec {namespace} {rping}"),
            COUNT,
        )?;
        let mut going_on = self.inside(namespace, &format!("{rping} -c -V -v"))?;
        going_on.wait_for("ping data")?;
        Ok(going_on)
    }

    fn inside(&self, namespace: &str, command: &str) -> Result<Running> {
        self.node
            .start(&format!("exec ip netns exec {namespace} {command}"))
    }

    /// Gives a VF to a namespace, and waits until its port is up there.
    fn give(&self, number: u16, namespace: &str, address: &str) -> Result<()> {
        let (device, interface) = (self.device_of(number)?, self.interface_of(number)?);
        self.node.run(&format!(
            "rdma dev set {device} netns {namespace} && \
             ip link set {interface} netns {namespace} && \
             ip -n {namespace} link set {interface} mtu 9000 && \
             ip -n {namespace} address add {address}/24 dev {interface} && \
             ip -n {namespace} link set {interface} up && \
             timeout 60 ip netns exec {namespace} \
             sh -c 'until rdma link show {device}/1 | grep -q ACTIVE; do :; done'"
        ))?;
        Ok(())
    }
}
