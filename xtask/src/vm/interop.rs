//! The distribution's RDMA tools between a guest with an RNIC and an ordinary one, whose Linux
//! Soft-RoCE (`rdma_rxe`) on virtio-net is on the wire of that RNIC.
//!
//! In: the tables of [`super::stock_tools`], whose tools run twice, with either guest as the server,
//! but for those that Soft-RoCE cannot run ([`LEFT_OUT`]). The guests have no other network, so that
//! what tools exchange by TCP goes the same way. Nothing in the second guest was written here.
//! Out: the same as between two RNICs, and a capture in which a dissector finds nothing malformed.
//!
//! What each operation puts into memory, byte by byte, is for [`crate::softroce`].

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cluster::{Node, Plan};
use super::side_by_side::{add_softroce, ordinary};
use super::stock::on;
use super::stock_tools::{Ends, TABLES, Tool, check, reports};
use super::{Prepared, capture};

/// Time after which the test has failed: twice that of a pair of RNICs, for each tool runs twice.
const BOUND: Duration = Duration::from_secs(600);

/// What is left out: words of a client's command, and why. What is lacking is lacking in
/// `rdma_rxe`, as of Linux 6.12, and its provider.
const LEFT_OUT: [(&str, &str); 7] = [
    ("-c -N -t", "no time stamps of completions"),
    ("ibv_xsrq_pingpong", "no XRC"),
    ("rdma_xclient", "no XRC"),
    ("-c XRC", "no XRC"),
    ("raw_ethernet", "no raw packet queue pairs"),
    ("mckey", "see `multicast`"),
    (
        "-n 5 -a",
        "filling megabytes takes long; `crate::softroce` has all sizes",
    ),
];

/// All tools that both ends can run, and pings of up to the MTU, in both directions.
pub(crate) fn test(prepared: &Prepared) -> Result<()> {
    let plan = Plan {
        name: "tools-softroce",
        bound: BOUND,
        softroce: true,
        ..Plan::default()
    };
    on(prepared, &plan, |cluster| {
        let (ours, theirs) = cluster.pair()?;
        set_up(theirs)?;
        for (server, client) in [(ours, theirs), (theirs, ours)] {
            println!("  guest {} is the server", server.name);
            ping(client, server)?;
            multicast(server, client)?;
            let ends = Ends::of(server, client)?.with_softroce();
            let tools: Vec<_> = TABLES.iter().flat_map(|table| table(&ends)).collect();
            let mut tools = possible(&tools)?.into_iter();
            tools.try_for_each(|tool| check(server, client, tool))?;
        }
        reports(ours)?;
        capture::check(&cluster.dir().join("a.pcapng"))
    })
}

/// Puts Soft-RoCE on a guest's only interface, which gets the address that an RNIC would have, and
/// loads what the distribution would have loaded for an RNIC that was there from the beginning.
fn set_up(node: &Node) -> Result<()> {
    let interface = add_softroce(node, &ordinary(node))?;
    node.run(&format!(
        "for module in rdma_ucm ib_umad ib_uverbs; do modprobe $module || exit 1; done; \
         ip -4 address flush dev {interface} && ip address add {}/24 dev {interface}",
        node.address
    ))?;
    Ok(())
}

/// Those tools that Soft-RoCE has what they need for.
fn possible(tools: &[Tool]) -> Result<Vec<&Tool>> {
    for (words, lacks) in LEFT_OUT {
        let left_out = tools.iter().any(|tool| tool.client.contains(words));
        ensure!(left_out, "no tool is left out for {lacks} by {words:?}");
    }
    let lacks = |tool: &&Tool| {
        LEFT_OUT
            .iter()
            .any(|(words, _)| tool.client.contains(words))
    };
    Ok(tools.iter().filter(|tool| !lacks(tool)).collect())
}

fn ping(from: &Node, to: &Node) -> Result<()> {
    for size in [56, 8972] {
        let command = format!("ping -M do -s {size} -c 3 -i 0.2 -W 5 {}", to.address);
        let said = from.run(&command).context("ping")?.text;
        ensure!(
            said.contains(" 0% packet loss"),
            "guest {}: {said}",
            from.name
        );
    }
    Ok(())
}

/// Datagrams to a group of which both are members reach the one that receives. mckey's sender does
/// not wait for what it has posted, and Soft-RoCE drops, with the queue pair, what of that is not
/// on the wire by then (one of ten, as its own counter says): so it sends until enough has come.
fn multicast(receiver: &Node, sender: &Node) -> Result<()> {
    let tool = |node: &Node| format!("stdbuf -oL mckey -m 239.1.2.3 -b {}", node.address);
    let mut receives = receiver.start(&tool(receiver))?;
    receives.wait_for("receiving data transfers")?;
    while !receives.text().contains("data transfers complete") {
        sender.run(&format!("{} -s", tool(sender)))?;
    }
    let received = receives.finish()?;
    ensure!(
        received.text.contains("return status 0"),
        "guest {}: {}",
        receiver.name,
        received.text
    );
    println!("  mckey: datagrams from guest {}", sender.name);
    Ok(())
}
