//! Tests of the kernel module's life cycle: its function goes away under traffic and comes again.
//!
//! Each way to go takes the Ethernet interface and the RDMA device from programs that use them.
//! These programs have to end, whether by themselves or when they are told to. When the kernel says
//! that the function is up again, the guest exchanges verified data with its peer as before.

use anyhow::{Context, Result, ensure};

use super::Prepared;
use super::cluster::{Cluster, Node, Plan};
use super::control::{Running, end};
use super::stock::{exchange, function_of, on, rdma_device};

/// What the module says when a function is up.
pub(super) const UP: &str = "function is up";
/// What it says, at level warning, when it takes up a function that has failed.
const FAILED: &str = "the device has failed: starting over";

/// One way for the function to go and come.
struct Departure {
    name: &'static str,
    /// A command; `$function` is the function's address.
    command: &'static str,
    /// How often the function comes up by it.
    times: usize,
    /// Warnings that belong to it.
    warnings: &'static [&'static str],
}

const DEPARTURES: [Departure; 5] = [
    Departure {
        name: "the module is unloaded and loaded",
        command: "rmmod vrnic && modprobe vrnic",
        times: 1,
        warnings: &[],
    },
    Departure {
        name: "function level reset",
        command: "echo 1 > /sys/bus/pci/devices/$function/reset",
        times: 1,
        warnings: &[],
    },
    Departure {
        name: "the driver is unbound and bound",
        command: "cd /sys/bus/pci/drivers/vrnic; for time in $(seq 10); do \
                  echo $function > unbind && echo $function > bind || exit 1; done",
        times: 10,
        warnings: &[],
    },
    Departure {
        name: "the function is removed from the bus and found again",
        command: "for time in $(seq 3); do echo 1 > /sys/bus/pci/devices/$function/remove && \
                  [ -z \"$(rdma link)\" ] && echo 1 > /sys/bus/pci/rescan || exit 1; done",
        times: 3,
        warnings: &[],
    },
    Departure {
        name: "bus mastering is switched off",
        command: "setpci -s $function COMMAND=0:4",
        times: 1,
        warnings: &[FAILED],
    },
];

/// The function of guest a goes and comes in each way, while both kinds of traffic use it.
pub(crate) fn driver(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "life-driver",
        ..Plan::default()
    };
    on(prepared, &plan, |cluster| go_and_come(cluster, &DEPARTURES))
}

/// The module of guest a is unloaded and loaded.
pub(super) fn reload(cluster: &Cluster) -> Result<()> {
    go_and_come(cluster, DEPARTURES.get(..1).unwrap_or_default())
}

fn go_and_come(cluster: &Cluster, departures: &[Departure]) -> Result<()> {
    let pair = Pair::new(cluster)?;
    let _server = pair
        .b
        .start(&format!("rping -s -P -a {}", pair.b.address))?;
    let mut kernel = pair.a.start("stdbuf -oL dmesg -w")?;
    pair.exchange()?;
    for departure in departures {
        println!("  {}", departure.name);
        let gone = pair.depart(departure, &mut kernel);
        gone.context(departure.name)?;
    }
    Ok(())
}

/// Guest a, whose function goes and comes, and its peer.
pub(super) struct Pair<'a> {
    pub a: &'a Node,
    pub b: &'a Node,
    /// Names in guest a of the RDMA device, the interface and the function.
    pub device: String,
    interface: String,
    pub function: String,
}

impl<'a> Pair<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Result<Self> {
        let (a, b) = cluster.pair()?;
        let device = rdma_device(a)?;
        let path = format!("/sys/class/infiniband/{device}/device");
        let say = |command: String| Ok::<_, anyhow::Error>(a.run(&command)?.text.trim().to_owned());
        Ok(Self {
            interface: say(format!("ls {path}/net"))?,
            function: function_of(a, &device)?,
            a,
            b,
            device,
        })
    }

    /// The function goes and comes; the programs that used it end, and new ones work.
    fn depart(&self, departure: &Departure, kernel: &mut Running) -> Result<()> {
        let traffic = self.traffic()?;
        // What the kernel says from here on is due to the departure.
        self.a
            .run(&format!("echo '{}' > /dev/kmsg", departure.name))?;
        kernel.wait_for(departure.name)?;
        let Self { function, .. } = self;
        let command = format!("function={function}; {}", departure.command);
        self.a.run(&format!("timeout 60 sh -c '{command}'"))?;
        for _ in 0..departure.times {
            kernel.wait_for(UP)?;
        }
        end(traffic)?;
        self.set_up()?;
        self.exchange()?;
        self.a.forgive(departure.warnings)
    }

    /// RDMA writes without end: the peer's program, and the one that writes.
    pub(super) fn writes(&self) -> Result<(Running, Running)> {
        let writes = "stdbuf -oL ib_write_bw --run_infinitely -D 1";
        let mut sink = self.b.start(writes)?;
        sink.wait_for("Waiting for client to connect")?;
        let mut writer = self.a.start(&format!("{writes} {}-virtio", self.b.name))?;
        // A line of results, which begins with the size of a message.
        writer.wait_for(" 65536 ")?;
        Ok((sink, writer))
    }

    /// Programs that use the function without end: RDMA writes, a server, and a flood of packets.
    pub(super) fn traffic(&self) -> Result<Vec<Running>> {
        let (a, b) = (self.a, self.b);
        let server = a.start(&format!("rping -s -P -a {}", a.address))?;
        let client = b.start(&format!(
            "until rping -c -C 1 -a {0}; do :; done; echo connected; rping -c -a {0}",
            a.address
        ))?;
        let flood = a.start(&format!("ping -q -f -s 1400 {} 2> /dev/null", b.address))?;
        let (sink, writer) = self.writes()?;
        let mut programs = vec![client];
        if let Some(client) = programs.first_mut() {
            client.wait_for("connected")?;
        }
        programs.extend([writer, server, flood, sink]);
        Ok(programs)
    }

    /// Waits for the interface and the RDMA device, and gives the interface its address.
    pub(super) fn set_up(&self) -> Result<()> {
        let Self {
            a,
            device,
            interface,
            ..
        } = self;
        a.run(&format!(
            "udevadm wait --timeout=60 --settle \
             /sys/class/net/{interface} /sys/class/infiniband/{device} && \
             ip link set {interface} mtu 9000 && \
             ip address replace {}/24 dev {interface} && ip link set {interface} up",
            a.address
        ))?;
        Ok(())
    }

    /// Packets and verified RDMA data from guest a to its peer.
    pub(super) fn exchange(&self) -> Result<()> {
        let (a, to) = (self.a, &self.b.address);
        // The first ones may come before the link is up and the device has its GIDs.
        a.run(&format!("ping -q -c 1 -w 60 {to}"))?;
        a.run(&format!(
            "timeout 60 sh -c 'until rping -c -C 1 -a {to}; do :; done'"
        ))?;
        let ping = a.run(&format!("timeout 60 ping -q -c 3 -i 0.2 {to}"))?.text;
        ensure!(ping.contains(" 0% packet loss"), "{ping}");
        exchange(a, &format!("rping -a {to}"), 20)
    }
}
