//! The leading end: the vrnic's, which knows the plan.

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::channel::Channel;
use crate::cli::VrnicArguments;
use crate::plan::{self, Extent};
use crate::report;
use crate::rnic::Rnic;
use crate::step::{Connection, End, Family, Service, Step};
use crate::talk::{Answer, Identity, Order, Outcome, QpEnd};
use crate::transfer::Transfer;
use crate::vrnic::Vrnic;

pub(crate) fn run(arguments: &VrnicArguments) -> Result<()> {
    let mut rnic = Vrnic::open(&arguments.socket)?;
    let channel = Channel::connect(&arguments.channel)?;
    let extent = match (arguments.sample, arguments.lossy) {
        (true, _) => Extent::Sample,
        (_, true) => Extent::Lossy,
        _ => Extent::Full,
    };
    let mut leader = Leader::meet(&mut rnic, channel)?;
    for (connection, steps) in plan::plan(extent, arguments.seed) {
        leader.go_through(connection, &steps)?;
    }
    leader.channel.send(&Order::Finish)?;
    rnic.close()
}

struct Leader<'a> {
    rnic: &'a mut dyn Rnic,
    channel: Channel,
    peer: Identity,
}

impl<'a> Leader<'a> {
    fn meet(rnic: &'a mut dyn Rnic, mut channel: Channel) -> Result<Self> {
        channel.send(&Order::Hello(rnic.identity()))?;
        match channel.receive()? {
            Answer::Hello(peer) => Ok(Self {
                rnic,
                channel,
                peer,
            }),
            other => bail!("the other end began with {other:?}"),
        }
    }

    /// Connects, takes all steps, and disconnects.
    fn go_through(&mut self, connection: Connection, steps: &[Step]) -> Result<()> {
        self.open(connection)
            .with_context(|| format!("opening {connection:?}"))?;
        for step in steps {
            let outcomes = self.take(connection, *step);
            let outcomes = outcomes.with_context(|| format!("{step:?} over {connection:?}"))?;
            print(&connection, step, &outcomes);
        }
        self.ask(&Order::Close)?;
        self.rnic.destroy()
    }

    fn open(&mut self, connection: Connection) -> Result<()> {
        let ours = self.rnic.create(&connection)?;
        let theirs: Vec<QpEnd> = match self.answer(&Order::Open(connection, ours))? {
            Answer::Opened(ends) => ends,
            other => bail!("the other end said {other:?}"),
        };
        self.rnic.connect(&connection, &self.peer, &theirs)
    }

    /// Takes a step; returns what the initiator saw, and the responder.
    fn take(&mut self, connection: Connection, step: Step) -> Result<[Outcome; 2]> {
        let mut transfer = Transfer::new(connection, step, End::Vrnic)?;
        let ours = transfer.prepare(self.rnic)?;
        let theirs = match self.answer(&Order::Prepare(step, ours))? {
            Answer::Prepared(keys) => keys,
            other => bail!("the other end said {other:?}"),
        };
        // The initiator goes first: how long the other one waits, depends on it.
        if transfer.initiates() {
            let here = transfer.finish(self.rnic, &self.peer, &theirs)?;
            Ok([here, self.verified()?])
        } else {
            let there = self.verified()?;
            let here = transfer.finish(self.rnic, &self.peer, &theirs)?;
            Ok([there, here])
        }
    }

    fn verified(&mut self) -> Result<Outcome> {
        match self.answer(&Order::Go)? {
            Answer::Verified(outcome) => Ok(outcome),
            other => bail!("the other end said {other:?}"),
        }
    }

    fn ask(&mut self, order: &Order) -> Result<()> {
        match self.answer(order)? {
            Answer::Done => Ok(()),
            other => bail!("the other end said {other:?}"),
        }
    }

    fn answer(&mut self, order: &Order) -> Result<Answer> {
        self.channel.send(order)?;
        match self.channel.receive()? {
            Answer::Failed(why) => bail!("Soft-RoCE: {why}"),
            answer => Ok(answer),
        }
    }
}

/// Prints a step that went well.
fn print(connection: &Connection, step: &Step, [initiator, responder]: &[Outcome; 2]) {
    let service = match connection.service {
        Service::Rc => "RC",
        Service::Uc => "UC",
        Service::Ud => "UD",
    };
    let family = match connection.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let (from, at_vrnic, at_rxe) = match step.from {
        End::Vrnic => ("vrnic", initiator.bytes, responder.bytes),
        End::Rxe => ("rxe", responder.bytes, initiator.bytes),
    };
    report(&json!({
        "step": "transfer", "ok": true, "service": service, "family": family,
        "mtu": connection.mtu, "qps": connection.qps, "lossy": connection.lossy,
        "op": step.operation.name(), "windows": step.windows, "from": from, "size": step.size, "count": step.count,
        "completed": initiator.completions, "received": responder.completions,
        "us": initiator.microseconds, "verified_vrnic": at_vrnic, "verified_rxe": at_rxe,
    }));
}
