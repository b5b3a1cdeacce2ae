//! The distribution's own RDMA tools, unmodified, between two guests, and those that report.
//!
//! In: a running cluster, which a group of tools shares. A tool is a command line for each end and
//! a line that only success makes: of a pingpong, how many iterations it made; of perftest, the
//! row of results for the message size asked for. Both ends have to exit with 0 besides, and the
//! guests' kernels must not complain, which [`Cluster::close`] looks at.
//!
//! Tools meet over the guests' ordinary interface, unless they use the connection manager (perftest
//! with `-R`), which listens at the RNIC's own address, or the guests have no other network. A
//! client is started when its server has said that it is about to listen and the guest's kernel
//! shows that it does.
//!
//! The tables of tools are also those of [`super::interop`], where one of the guests has no RNIC.

use anyhow::{Context, Result, ensure};

use super::Prepared;
use super::cluster::{Cluster, Node, Plan};
use super::stock::{on, rdma_device};

/// How a server shows that a client can come.
#[derive(Clone, Copy)]
pub(super) enum Listens {
    /// On a TCP port.
    Tcp(u16),
    /// With the connection manager.
    Manager,
    /// By a line that it says: raw frames need no connection, only a receiver.
    Says(&'static str),
}

/// A tool and how its two ends are called.
pub(super) struct Tool {
    server: String,
    listens: Listens,
    /// The client's command.
    pub(super) client: String,
    /// A line of the client's output begins with these words.
    expect: Vec<String>,
}

/// Tools of one kind.
pub(super) type Table = fn(&Ends) -> Vec<Tool>;

/// What a server and a client know each other by.
pub(super) struct Ends {
    /// Arguments of verbs examples: device and GID index.
    verbs: [String; 2],
    devices: [String; 2],
    gids: [String; 2],
    macs: [String; 2],
    /// The server's RNIC.
    rnic: String,
    client_rnic: String,
    /// Where the server is reached with TCP.
    meet: String,
    /// Whether one end has Soft-RoCE.
    softroce: bool,
}

impl Ends {
    /// Of a server and a client, each with one RDMA device.
    ///
    /// # Errors
    /// One has no such device, or that device not the guest's address.
    pub(super) fn of(a: &Node, b: &Node) -> Result<Ends> {
        let each = |f: &dyn Fn(&Node) -> Result<String>| Ok::<_, anyhow::Error>([f(a)?, f(b)?]);
        let devices = each(&rdma_device)?;
        let gids = each(&gid_index)?;
        let verbs = |i: usize| Some(format!("-d {} -g {}", devices.get(i)?, gids.get(i)?));
        Ok(Ends {
            verbs: [verbs(0), verbs(1)].map(Option::unwrap_or_default),
            macs: each(&mac)?,
            devices,
            gids,
            rnic: a.address.clone(),
            client_rnic: b.address.clone(),
            meet: a.address.replacen("10.78.", "10.79.", 1),
            softroce: false,
        })
    }

    /// The same if one has Soft-RoCE, on their only network.
    pub(super) fn with_softroce(self) -> Ends {
        Ends {
            meet: self.rnic.clone(),
            softroce: true,
            ..self
        }
    }
}

/// Index of the GID that stands for the RNIC's IPv4 address.
///
/// # Errors
/// There is none.
pub(super) fn gid_index(node: &Node) -> Result<String> {
    let device = rdma_device(node)?;
    let found = node.run(&format!(
        "cd /sys/class/infiniband/{device}/ports/1/gids && grep -l ':ffff:0a4e:' * | head -n 1"
    ))?;
    let index = found.text.trim().to_owned();
    let context = || format!("guest {} has no GID of 10.78.0.0/16", node.name);
    index.parse::<u8>().with_context(context)?;
    Ok(index)
}

/// Hardware address of the interface of that GID.
pub(super) fn mac(node: &Node) -> Result<String> {
    let (device, gid) = (rdma_device(node)?, gid_index(node)?);
    let port = format!("/sys/class/infiniband/{device}/ports/1");
    let address = format!("cat /sys/class/net/$(cat {port}/gid_attrs/ndevs/{gid})/address");
    Ok(node.run(&address)?.text.trim().to_owned())
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// An example of libibverbs; `more` are further arguments of both ends.
fn pingpong(ends: &Ends, tool: &str, more: &str, expect: &str) -> Tool {
    let [a, b] = &ends.verbs;
    Tool {
        server: format!("{tool} {a} -n 200 {more}"),
        listens: Listens::Tcp(18515),
        client: format!("{tool} {b} -n 200 {more} {}", ends.meet),
        expect: words(expect),
    }
}

/// perftest waits 67 ms for an acknowledgment by itself, for which an emulated processor that has
/// each packet checked by a program may take longer: this is a second.
const PATIENCE: &str = " -u 18";

/// READs and atomic operations in flight with Soft-RoCE. By itself perftest sets each end to as many
/// as the other's device answers at once, which its own device may refuse to have in flight.
const DEPTH: &str = " -o 16";

/// One of perftest, whose result is for messages of `size` bytes.
fn perftest(ends: &Ends, tool: &str, more: &str, size: u32) -> Tool {
    let manager = words(more).iter().any(|word| word == "-R");
    let size_argument = match tool.starts_with("ib_atomic") || more.contains("-a") {
        true => String::new(),
        false => format!("-s {size}"),
    };
    let more = format!("{more}{}", if ends.softroce { PATIENCE } else { "" });
    let answered = tool.starts_with("ib_read") || tool.starts_with("ib_atomic");
    let depth = if answered && ends.softroce { DEPTH } else { "" };
    let [a, b] = [0, 1].map(|i| {
        let (device, gid) = (ends.devices.get(i), ends.gids.get(i));
        let both = device.zip(gid).map(|(d, g)| format!("-d {d} -x {g}"));
        format!(
            "{tool} {} -F {size_argument} {more}{depth}",
            both.unwrap_or_default()
        )
    });
    let address = if manager { &ends.rnic } else { &ends.meet };
    Tool {
        server: a,
        listens: match manager {
            true => Listens::Manager,
            false => Listens::Tcp(18515),
        },
        client: format!("{b} {address}"),
        expect: vec![size.to_string()],
    }
}

/// A tool of librdmacm.
fn manager(ends: &Ends, server: &str, client: &str, expect: &str) -> Tool {
    Tool {
        server: server.replace("ADDRESS", &ends.rnic),
        listens: Listens::Manager,
        client: client.replace("ADDRESS", &ends.rnic),
        expect: words(expect),
    }
}

/// Frames that perftest makes itself, to the other end's address.
fn raw(ends: &Ends, tool: &str) -> Tool {
    let [a, b] = &ends.macs;
    let [device_a, device_b] = &ends.devices;
    Tool {
        server: format!("{tool} -d {device_a} -F -n 200 -s 1024 --server -B {a} -E {b}"),
        listens: Listens::Says("MAC attached"),
        client: format!("{tool} -d {device_b} -F -n 200 -s 1024 --client -B {b} -E {a}"),
        expect: words("1024"),
    }
}

/// Waits until a server listens.
///
/// # Errors
/// It does not in time, or the guest is gone.
pub(super) fn wait_for_listener(node: &Node, listens: Listens) -> Result<()> {
    let look = match listens {
        Listens::Tcp(port) => format!("ss -Hltn 'sport = :{port}' | grep -q LISTEN"),
        Listens::Manager => "rdma resource show cm_id | grep -q 'state LISTEN'".to_owned(),
        Listens::Says(_) => return Ok(()),
    };
    node.run(&format!("until {look}; do :; done"))?;
    Ok(())
}

/// Times that a tool is started whose client came too early.
const ATTEMPTS: usize = 4;

/// What perftest's client says if nobody listens: for a connection, and for a datagram service.
const TOO_EARLY: [&str; 2] = [
    "RDMA_CM_EVENT_REJECTED; error: 8",
    "RDMA_CM_EVENT_UNREACHABLE; error: 1",
];

/// Runs both ends of a tool. perftest with `-R` listens twice, once to exchange parameters and then
/// for the queue pairs. Its client does not wait for the second time, and does not survive being
/// rejected, so the tool is started anew.
///
/// # Errors
/// An end fails, or the client does not say what it should.
pub(super) fn check(a: &Node, b: &Node, tool: &Tool) -> Result<()> {
    for _ in 1..ATTEMPTS {
        match attempt(a, b, tool) {
            Err(error) if is_too_early(&format!("{error:#}")) => {}
            result => return result,
        }
    }
    attempt(a, b, tool)
}

fn is_too_early(words: &str) -> bool {
    TOO_EARLY.iter().any(|event| words.contains(event))
}

fn attempt(a: &Node, b: &Node, tool: &Tool) -> Result<()> {
    let mut server = a.start(&format!("stdbuf -oL {}", tool.server))?;
    if let Listens::Says(line) = tool.listens {
        server.wait_for(line)?;
    }
    let listens = wait_for_listener(a, tool.listens);
    listens.with_context(|| format!("{}: {}", tool.server, server.text()))?;
    let client = b.run(&tool.client);
    let client = client.with_context(|| format!("the server says: {}", server.text()))?;
    let row = |line: &&str| words(line).starts_with(&tool.expect);
    let row = client.text.lines().find(row);
    let row = row.with_context(|| {
        format!(
            "{}: no line {:?} in {}",
            tool.client, tool.expect, client.text
        )
    })?;
    println!("  {}: {}", tool.client, words(row).join(" "));
    let server = server.finish()?;
    ensure!(
        server.status == 0,
        "{}: status {}: {}",
        tool.server,
        server.status,
        server.text
    );
    Ok(())
}

/// Boots two guests and runs tools in them, one after the other.
fn group(prepared: &Prepared, name: &'static str, table: Table) -> Result<()> {
    let plan = Plan {
        name,
        ..Plan::default()
    };
    on(prepared, &plan, |cluster| use_all(cluster, table))
}

/// Runs tools between the first two guests, and asks the administrator's tools afterwards.
fn use_all(cluster: &Cluster, tools: impl FnOnce(&Ends) -> Vec<Tool>) -> Result<()> {
    let (a, b) = cluster.pair()?;
    let tools = tools(&Ends::of(a, b)?);
    tools.iter().try_for_each(|tool| check(a, b, tool))?;
    [a, b].into_iter().try_for_each(reports)
}

/// Few tools that use much of the kernel module: completions by polling and by events, a shared
/// receive queue, addresses that programs exchange and connections that the kernel makes.
pub(super) fn one_of_each(cluster: &Cluster) -> Result<()> {
    use_all(cluster, |ends| {
        vec![
            pingpong(ends, "ibv_rc_pingpong", "-c -e", "200 iters in"),
            pingpong(ends, "ibv_srq_pingpong", "-c", "200 iters in"),
            perftest(ends, "ib_write_bw", "-n 100", 65536),
            perftest(ends, "ib_send_bw", "-n 100 -R", 4096),
        ]
    })
}

/// What the administrator's tools say of an idle RNIC after all that.
///
/// # Errors
/// They say something else.
pub(super) fn reports(node: &Node) -> Result<()> {
    for (command, expect) in [
        ("ibstat", "State: Active"),
        ("ibstatus", "link_layer:\t Ethernet"),
        ("rdma link", "state ACTIVE physical_state LINK_UP"),
        // Of the tools nothing is left.
        ("rdma resource", "mr 0 ctx 0 srq 0"),
        ("rdma statistic", "rx_malformed 0"),
    ] {
        let said = node.run(command)?.text;
        let guest = node.name;
        ensure!(said.contains(expect), "guest {guest}: {command}: {said}");
    }
    Ok(())
}

/// The examples of libibverbs between two RNICs.
pub(crate) fn pingpongs(prepared: &Prepared) -> Result<()> {
    group(prepared, "tools-pingpong", examples)
}

/// The tools of librdmacm between two RNICs.
pub(crate) fn connection_manager(prepared: &Prepared) -> Result<()> {
    group(prepared, "tools-manager", managers)
}

/// perftest's operations and services between two RNICs.
pub(crate) fn services(prepared: &Prepared) -> Result<()> {
    group(prepared, "tools-services", operations)
}

/// perftest's variations between two RNICs.
pub(crate) fn variations(prepared: &Prepared) -> Result<()> {
    group(prepared, "tools-variations", varied)
}

/// All tools.
pub(super) const TABLES: [Table; 4] = [examples, managers, operations, varied];

/// The examples of libibverbs, one for each service, waiting by polling and by events.
fn examples(ends: &Ends) -> Vec<Tool> {
    let plain = |tool, more| pingpong(ends, tool, more, "200 iters in");
    vec![
        plain("ibv_rc_pingpong", "-c"),
        plain("ibv_rc_pingpong", "-c -e"),
        plain("ibv_rc_pingpong", "-c -N"),
        plain("ibv_rc_pingpong", "-c -N -t"),
        plain("ibv_uc_pingpong", "-c -e"),
        plain("ibv_ud_pingpong", "-c -e"),
        plain("ibv_srq_pingpong", "-c"),
        plain("ibv_srq_pingpong", "-c -e"),
        pingpong(ends, "ibv_xsrq_pingpong", "", "success"),
        pingpong(ends, "ibv_xsrq_pingpong", "-e", "success"),
    ]
}

/// The tools of librdmacm; `rping` compares what comes back with what it sent.
fn managers(ends: &Ends) -> Vec<Tool> {
    let tool = |server: &str, client: &str, expect: &str| manager(ends, server, client, expect);
    vec![
        tool(
            "rping -s -a ADDRESS -v -V -C 5",
            "rping -c -a ADDRESS -v -V -C 5",
            "ping data: rdma-ping-4:",
        ),
        tool("ucmatose", "ucmatose -s ADDRESS", "return status 0"),
        tool("udaddy", "udaddy -s ADDRESS", "return status 0"),
        tool(
            "rdma_server",
            "rdma_client -s ADDRESS",
            "rdma_client: end 0",
        ),
        tool(
            "rdma_xserver",
            "rdma_xclient -s ADDRESS",
            "rdma_xclient: end 0",
        ),
        tool("cmtime -n 20", "cmtime -s ADDRESS -n 20", "full connect"),
        Tool {
            listens: Listens::Says("receiving data transfers"),
            ..tool(
                "mckey -m 239.1.2.3 -b ADDRESS",
                &format!("mckey -m 239.1.2.3 -b {} -s", ends.client_rnic),
                "return status 0",
            )
        },
        Tool {
            listens: Listens::Tcp(5201),
            ..tool("iperf3 -s -1", "iperf3 -c ADDRESS -n 4M", "iperf Done.")
        },
    ]
}

/// perftest's bandwidth and latency of each operation and service.
fn operations(ends: &Ends) -> Vec<Tool> {
    let tool = |tool: &str, more: &str, size| perftest(ends, tool, more, size);
    let mut tools = Vec::new();
    for operation in ["send", "write", "read", "atomic"] {
        let size = if operation == "atomic" { 8 } else { 4096 };
        for service in ["RC", "XRC"] {
            let more = format!("-n 100 -c {service}");
            tools.push(tool(&format!("ib_{operation}_bw"), &more, size));
            tools.push(tool(&format!("ib_{operation}_lat"), &more, size));
        }
    }
    for (name, service, size) in [
        ("ib_send_bw", "UC", 4096),
        ("ib_write_bw", "UC", 4096),
        ("ib_send_bw", "UD", 1024),
        ("ib_send_lat", "UD", 1024),
    ] {
        tools.push(tool(name, &format!("-n 100 -c {service}"), size));
    }
    tools.extend(["raw_ethernet_bw", "raw_ethernet_lat"].map(|name| raw(ends, name)));
    tools
}

/// What can be varied about perftest: events, inline data, numbers of queue pairs, lists of
/// requests, shared receive queues, both directions, all sizes, the connection manager.
fn varied(ends: &Ends) -> Vec<Tool> {
    let tool = |tool, more, size| perftest(ends, tool, more, size);
    vec![
        tool("ib_send_lat", "-n 100 -e", 64),
        tool("ib_send_bw", "-n 100 -e", 4096),
        tool("ib_read_bw", "-n 100 -e", 4096),
        tool("ib_send_lat", "-n 100 -I 200", 200),
        tool("ib_write_lat", "-n 100 -I 64", 64),
        tool("ib_write_bw", "-n 50 -q 64 -t 8", 4096),
        tool("ib_send_bw", "-n 50 -q 16 --use-srq", 4096),
        tool("ib_send_bw", "-n 64 -l 8", 4096),
        tool("ib_write_bw", "-n 64 -l 8", 4096),
        tool("ib_send_bw", "-n 100 -b", 4096),
        tool("ib_read_bw", "-n 100 -b", 4096),
        tool("ib_write_bw", "-n 5 -a", 8_388_608),
        tool("ib_write_bw", "-n 100 --use_old_post_send", 4096),
        tool(
            "ib_write_bw",
            "-n 100 -q 4 --mr_per_qp --report_gbits",
            4096,
        ),
        tool("ib_send_bw", "-D 1", 4096),
        tool("ib_send_bw", "-n 100 -R", 4096),
        tool("ib_write_bw", "-n 100 -R", 4096),
        tool("ib_send_bw", "-n 100 -R -c UD", 1024),
    ]
}

/// `ibv_asyncwatch` prints what an administrator does to the Ethernet interface.
pub(crate) fn events(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "tools-events",
        vms: 1,
        ..Plan::default()
    };
    on(prepared, &plan, |cluster: &Cluster| {
        let a = cluster.nodes().first().context("there is a guest")?;
        let device = rdma_device(a)?;
        let interface = a.run(&format!("ls /sys/class/infiniband/{device}/device/net"))?;
        let interface = interface.text.trim();
        let mut watch = a.start(&format!("stdbuf -oL ibv_asyncwatch -d {device}"))?;
        watch.wait_for("async event FD")?;
        for (command, event, state) in [
            ("link set INTERFACE down", "PORT_ERR", "DOWN"),
            ("link set INTERFACE up", "PORT_ACTIVE", "ACTIVE"),
            (
                "address add 10.78.0.77/24 dev INTERFACE",
                "GID_CHANGE",
                "ACTIVE",
            ),
        ] {
            let command = command.replace("INTERFACE", interface);
            a.run(&format!("ip {command}"))?;
            let said = watch.wait_for(&format!("IBV_EVENT_{event} "))?;
            ensure!(said.ends_with("port 1"), "{command}: {said}");
            let link = a.run("rdma link")?.text;
            ensure!(
                link.contains(&format!("state {state} ")),
                "{command}: {link}"
            );
            println!("  ip {command}: {}", said.trim());
        }
        Ok(())
    })
}
