//! The demonstration: all operations over a range of sizes, there and back.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use crate::channel::Channel;
use crate::cli::{PairArguments, Role};
use crate::counters;
use crate::peer::{ANSWER, Link, bring_up, configure};
use crate::report;
use crate::step::plan;

pub(crate) fn run(arguments: &PairArguments) -> anyhow::Result<()> {
    pair(arguments, initiator, responder)
}

/// Brings the function up, connects with the other side, and runs `first` or `second` on it
/// depending on the role; both, in two threads, for the role of the loop.
pub(crate) fn pair(
    arguments: &PairArguments,
    first: impl FnOnce(&mut Link, &PairArguments) -> anyhow::Result<()> + Send,
    second: impl FnOnce(&mut Link, &PairArguments) -> anyhow::Result<()> + Send,
) -> anyhow::Result<()> {
    let side = if arguments.role == Role::B { "b" } else { "a" };
    let driver = bring_up(side, &arguments.target)?;
    configure(side, &driver, arguments)?;
    let one = |side, channel, vector, act: &mut dyn FnMut(&mut Link) -> anyhow::Result<()>| {
        let mut link = Link::establish(side, &driver, channel, vector, arguments)?;
        act(&mut link)?;
        link.channel.linger()?;
        link.endpoint.destroy()
    };
    let (mut first, mut second) = (Some(first), Some(second));
    let mut act_first = |link: &mut Link| run_once(&mut first, link, arguments);
    let mut act_second = |link: &mut Link| run_once(&mut second, link, arguments);
    match arguments.role {
        Role::A => one("a", open(arguments)?, 0, &mut act_first)?,
        Role::B => one("b", open(arguments)?, 0, &mut act_second)?,
        Role::Loop => {
            let (near, far) = Channel::pair()?;
            thread::scope(|scope| {
                let other = scope.spawn(|| one("b", far, 1, &mut act_second));
                let result = one("a", near, 0, &mut act_first);
                let other = other.join().map_err(|_| anyhow!("side b panicked"))?;
                result.and(other)
            })?;
        }
    }
    counters::summary(side, &driver)?;
    let driver = Arc::try_unwrap(driver).map_err(|_| anyhow!("the driver is still in use"))?;
    report::timed(side, "remove", || Ok(driver.remove()?))
}

fn run_once<F>(
    act: &mut Option<F>,
    link: &mut Link,
    arguments: &PairArguments,
) -> anyhow::Result<()>
where
    F: FnOnce(&mut Link, &PairArguments) -> anyhow::Result<()>,
{
    let act = act.take().context("a side acts once")?;
    act(link, arguments)
}

fn open(arguments: &PairArguments) -> anyhow::Result<Channel> {
    let path = arguments
        .peer_channel
        .as_ref()
        .context("no channel was named")?;
    let patience = Duration::from_secs(arguments.peer_timeout);
    Channel::open(path, arguments.role == Role::A, patience)
}

fn initiator(link: &mut Link, arguments: &PairArguments) -> anyhow::Result<()> {
    for step in plan(arguments.seed, arguments.max_size, false) {
        link.initiate(&step, false)?;
    }
    link.channel.send("turn", ANSWER)?;
    match link.respond_all()?.as_str() {
        "finish" => Ok(()),
        other => bail!("the other side said {other:?} instead of \"finish\""),
    }
}

fn responder(link: &mut Link, arguments: &PairArguments) -> anyhow::Result<()> {
    match link.respond_all()?.as_str() {
        "turn" => {}
        other => bail!("the other side said {other:?} instead of \"turn\""),
    }
    for step in plan(arguments.seed + 1, arguments.max_size, true) {
        link.initiate(&step, false)?;
    }
    link.channel.send("finish", ANSWER)
}
