//! The following end: Soft-RoCE's, which does as it is told.

use anyhow::{Context, Result, bail};

use crate::channel::Channel;
use crate::cli::RxeArguments;
use crate::rnic::Rnic;
use crate::rxe::{Rxe, setup};
use crate::step::{Connection, End};
use crate::talk::{Answer, Identity, Order};
use crate::transfer::Transfer;

pub(crate) fn run(arguments: &RxeArguments) -> Result<()> {
    let mut channel = Channel::open_port(&arguments.port)?;
    let peer: Identity = match channel.receive()? {
        Order::Hello(identity) => identity,
        other => bail!("the other end began with {other:?}"),
    };
    let mut rnic =
        setup::bring_up(&arguments.netdev, &peer).and_then(|()| Rxe::open(&arguments.netdev));
    let hello = match &rnic {
        Ok(rnic) => Answer::Hello(rnic.identity()),
        Err(error) => Answer::Failed(format!("{error:#}")),
    };
    channel.send(&hello)?;
    let mut follower = Follower {
        rnic: rnic
            .as_mut()
            .map_err(|error| anyhow::anyhow!("{error:#}"))?,
        peer,
        connection: None,
        transfer: None,
    };
    loop {
        let order: Order = channel.receive()?;
        if order == Order::Finish {
            return Ok(());
        }
        let answer = follower.obey(order);
        let failed = answer.as_ref().err().map(|error| format!("{error:#}"));
        match (answer, failed) {
            (Ok(answer), _) => channel.send(&answer)?,
            (Err(error), why) => {
                channel.send(&Answer::Failed(why.unwrap_or_default()))?;
                return Err(error);
            }
        }
    }
}

struct Follower<'a> {
    rnic: &'a mut dyn Rnic,
    peer: Identity,
    connection: Option<Connection>,
    /// The step that is prepared, with the keys of the other end's windows.
    transfer: Option<(Transfer, Vec<u32>)>,
}

impl Follower<'_> {
    fn obey(&mut self, order: Order) -> Result<Answer> {
        match order {
            Order::Open(connection, theirs) => {
                let ours = self.rnic.create(&connection)?;
                self.rnic.connect(&connection, &self.peer, &theirs)?;
                self.connection = Some(connection);
                Ok(Answer::Opened(ours))
            }
            Order::Prepare(step, theirs) => {
                let connection = self.connection.context("nothing is connected")?;
                let mut transfer = Transfer::new(connection, step, End::Rxe)?;
                let ours = transfer.prepare(self.rnic)?;
                self.transfer = Some((transfer, theirs));
                Ok(Answer::Prepared(ours))
            }
            Order::Go => {
                let prepared = self.transfer.take();
                let (transfer, theirs) = prepared.context("no step was prepared")?;
                let outcome = transfer.finish(self.rnic, &self.peer, &theirs)?;
                Ok(Answer::Verified(outcome))
            }
            Order::Close => {
                self.connection = None;
                self.rnic.destroy()?;
                Ok(Answer::Done)
            }
            Order::Hello(_) | Order::Finish => bail!("unexpected {order:?}"),
        }
    }
}
