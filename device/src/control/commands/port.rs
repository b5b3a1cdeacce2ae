//! The port: query-link, set-link, query-impair, impair-set, impair-clear.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vrnic_firmware::impair::{self, Counters, Directed, Direction, Impairment, Profile, Settings};

use super::World;
use crate::control::events::Event;
use crate::control::promise::Promise;
use crate::control::protocol::{Error, Reply};
use crate::link::LinkSpec;

/// Impairments and events that one command takes: each frame is compared with every event.
const MAX_TEXTS: usize = 256;

/// Arguments of set-link.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetLink {
    up: bool,
}

/// Arguments of impair-set.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImpairSet {
    /// As --impair takes them.
    #[serde(default)]
    impair: Vec<String>,
    /// As --impair-event takes them.
    #[serde(default)]
    events: Vec<String>,
}

impl ImpairSet {
    /// Nothing happens to frames.
    pub(super) fn nothing() -> Self {
        Self::default()
    }

    fn parse(&self) -> Result<impair::Spec, Error> {
        if self.impair.len() + self.events.len() > MAX_TEXTS {
            return Err(Error::generic(format!("these are more than {MAX_TEXTS}")));
        }
        let mut spec = impair::Spec::default();
        for text in &self.impair {
            let settings = text.parse::<Directed<Settings>>();
            let set = settings.and_then(|settings| spec.set(&settings));
            set.map_err(|error| Error::generic(format!("impair: {error}")))?;
        }
        for text in &self.events {
            let event = text.parse::<Directed<impair::Event>>();
            spec.add(&event.map_err(|error| Error::generic(format!("events: {error}")))?);
        }
        Ok(spec)
    }
}

#[derive(Debug, Serialize)]
struct Link {
    link: String,
    up: bool,
    carrier: bool,
    enabled: bool,
    speed: u32,
}

pub(super) fn show(world: &mut World<'_>, promise: Promise) {
    let link = world.link.to_string();
    promise.ask(
        world.engine,
        |inside| inside.port(),
        |port| {
            Reply::of(&Link {
                link,
                up: port.up,
                carrier: port.carrier,
                enabled: port.enabled,
                speed: port.speed,
            })
        },
    );
}

pub(super) fn set(world: &mut World<'_>, change: &SetLink, promise: Promise) {
    let up = change.up;
    promise.ask(
        world.engine,
        move |inside| inside.enable_port(up),
        |()| Reply::done(),
    );
}

pub(super) fn impair(
    world: &mut World<'_>,
    change: &ImpairSet,
    promise: Promise,
    tell: &mut dyn FnMut(&Event<'_>),
) {
    if *world.link == LinkSpec::None {
        let desc = "there is no link that could be impaired; start vrnic with --link";
        return promise.answer(Err(Error::generic(desc)));
    }
    match change.parse() {
        Err(error) => promise.answer(Err(error)),
        Ok(spec) => {
            tell(&Event::ImpairChanged {});
            promise.ask(
                world.engine,
                move |inside| inside.impair(&spec),
                |()| Reply::done(),
            );
        }
    }
}

/// What impairs one direction.
#[derive(Debug, Serialize)]
struct Wire {
    direction: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    drop: f64,
    #[serde(skip_serializing_if = "is_zero")]
    dup: f64,
    #[serde(skip_serializing_if = "is_zero")]
    reorder: f64,
    #[serde(skip_serializing_if = "is_zero")]
    corrupt: f64,
    #[serde(skip_serializing_if = "is_zero")]
    ecn: f64,
    #[serde(skip_serializing_if = "is_none")]
    delay_ns: u64,
    #[serde(skip_serializing_if = "is_none")]
    jitter_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u64>,
    seed: u64,
    events: Vec<Acting>,
    counters: Done,
}

#[derive(Debug, Serialize)]
struct Acting {
    event: String,
    acted: bool,
}

#[derive(Debug, Serialize)]
struct Done {
    frames: u64,
    dropped: u64,
    duplicated: u64,
    reordered: u64,
    delayed: u64,
    corrupted: u64,
    marked: u64,
    rate_dropped: u64,
    overflowed: u64,
    events: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(chance: &f64) -> bool {
    *chance == 0.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_none(time: &u64) -> bool {
    *time == 0
}

/// What is copied of a wire on the engine's thread.
type Copied = (Direction, Profile, Counters, Vec<(impair::Event, bool)>);

pub(super) fn show_impairment(world: &mut World<'_>, promise: Promise) {
    promise.ask(
        world.engine,
        |inside| {
            let both = [Direction::Transmit, Direction::Receive];
            both.map(|direction| Some(copy(direction, inside.impairment(direction)?)))
        },
        |both| {
            let wires = both.into_iter().flatten().map(Wire::of);
            Reply::of(&wires.collect::<Vec<_>>())
        },
    );
}

fn copy(direction: Direction, wire: &Impairment) -> Copied {
    let events = wire.events().map(|(event, acted)| (*event, acted));
    (
        direction,
        *wire.profile(),
        wire.counters(),
        events.collect(),
    )
}

impl Wire {
    fn of((direction, profile, done, events): Copied) -> Self {
        let chance = |chance: impair::Chance| f64::from(chance.get()) / 1e9;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let acting = |(event, acted): (impair::Event, bool)| Acting {
            event: event.to_string(),
            acted,
        };
        Self {
            direction: match direction {
                Direction::Transmit => "tx",
                Direction::Receive => "rx",
            },
            drop: chance(profile.drop),
            dup: chance(profile.duplicate),
            reorder: chance(profile.reorder),
            corrupt: chance(profile.corrupt),
            ecn: chance(profile.ecn),
            delay_ns: nanos(profile.delay),
            jitter_ns: nanos(profile.jitter),
            rate: profile.rate,
            seed: profile.seed,
            events: events.into_iter().map(acting).collect(),
            counters: Done {
                frames: done.frames,
                dropped: done.dropped,
                duplicated: done.duplicated,
                reordered: done.reordered,
                delayed: done.delayed,
                corrupted: done.corrupted,
                marked: done.marked,
                rate_dropped: done.rate_dropped,
                overflowed: done.overflowed,
                events: done.events,
            },
        }
    }
}
