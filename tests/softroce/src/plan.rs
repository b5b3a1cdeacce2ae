//! The list of steps, made from tables: not every combination, but each operation in each
//! direction over each path MTU, with the sizes at which something changes.
//!
//! FLUSH is not in it. `rdma_rxe` (as of Linux 6.12) computes the ICRC of a FLUSH over its transport
//! headers twice, because its table of opcodes says that the payload, of which there is none,
//! starts where the packet does. So it drops ours, and we drop its. Nor are its atomic writes where
//! packets are lost: when it sends one again, it names address 0, and is told that it may not.

use crate::step::{Connection, End, Family, Operation, Service, Step, mix};

/// How much is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Everything, on a wire that loses nothing.
    Full,
    /// What a lossy wire is hard on.
    Lossy,
    /// One or two packets of every kind.
    Sample,
}

/// A connection and the steps over it.
pub(crate) type Stage = (Connection, Vec<Step>);

const SERVICES: [Service; 3] = [Service::Rc, Service::Uc, Service::Ud];
const MTUS: [u32; 5] = [256, 512, 1024, 2048, 4096];
const ENDS: [End; 2] = [End::Vrnic, End::Rxe];
const MIB: u32 = 1 << 20;

const fn operations(service: Service) -> &'static [Operation] {
    use Operation::{
        AtomicWrite, CompareSwap, FetchAdd, Read, Send, SendImmediate, SendInvalidate, Write,
        WriteImmediate,
    };
    match service {
        Service::Rc => &[
            Send,
            SendImmediate,
            SendInvalidate,
            Write,
            WriteImmediate,
            Read,
            CompareSwap,
            FetchAdd,
            AtomicWrite,
        ],
        Service::Uc => &[Send, SendImmediate, Write, WriteImmediate],
        Service::Ud => &[Send, SendImmediate],
    }
}

/// All of it.
pub(crate) fn plan(extent: Extent, seed: u64) -> Vec<Stage> {
    let mut stages: Vec<Stage> = SERVICES
        .into_iter()
        .flat_map(|service| match extent {
            Extent::Full => full(service),
            Extent::Lossy => lossy(service),
            Extent::Sample => sample(service),
        })
        .collect();
    let steps = stages.iter_mut().flat_map(|(_, steps)| steps);
    for (step, index) in steps.zip(0..) {
        step.seed = mix(seed, index);
    }
    stages
}

fn connection(service: Service, family: Family, mtu: u32) -> Connection {
    Connection {
        service,
        family,
        mtu,
        qps: 1,
        lossy: false,
    }
}

/// The steps of [`plain`] and, where the service has memory windows, those through them.
fn steps(connection: &Connection, sizes: &[u32], count: impl Fn(u32) -> u32) -> Vec<Step> {
    let mut steps = plain(connection, sizes, count);
    if connection.service == Service::Rc {
        let through = plain(connection, &[64, connection.mtu + 1], |_| 4);
        let through = through.into_iter().filter(|step| !step.operation.is_send());
        steps.extend(through.map(|step| Step {
            windows: true,
            ..step
        }));
    }
    steps
}

/// A step for each operation and direction, and for each of the sizes that suits it.
fn plain(connection: &Connection, sizes: &[u32], count: impl Fn(u32) -> u32) -> Vec<Step> {
    let mut steps = Vec::new();
    for &operation in operations(connection.service) {
        let sizes = if operation.is_atomic() { &[8] } else { sizes };
        for (from, &size) in ENDS
            .into_iter()
            .flat_map(|from| sizes.iter().map(move |size| (from, size)))
        {
            let too_long = connection.service == Service::Ud && size > connection.mtu;
            let cannot_repeat = operation == Operation::AtomicWrite && from == End::Rxe;
            if too_long || connection.lossy && cannot_repeat {
                continue;
            }
            steps.push(Step {
                operation,
                from,
                size,
                count: count(size),
                windows: operation == Operation::SendInvalidate,
                seed: 0,
            });
        }
    }
    steps
}

fn full(service: Service) -> Vec<Stage> {
    let mut stages = Vec::new();
    for (index, mtu) in MTUS.into_iter().enumerate() {
        // The ends of the range over both versions of IP, the rest in turn.
        let families: &[Family] = match index {
            0 | 4 => &[Family::V4, Family::V6],
            1 | 3 => &[Family::V6],
            _ => &[Family::V4],
        };
        for &family in families {
            let mut sizes = vec![0, 1, 3, 64, mtu - 1, mtu, mtu + 1, 65_539];
            match (mtu, family) {
                (1024, _) => sizes.push(MIB),
                (4096, Family::V4) => sizes.push(8 * MIB),
                _ => {}
            }
            let connection = connection(service, family, mtu);
            let steps = steps(&connection, &sizes, |size| if size < MIB { 4 } else { 1 });
            stages.push((connection, steps));
        }
    }
    stages.push(many(service, false));
    stages
}

/// Many queue pairs at once.
fn many(service: Service, lossy: bool) -> Stage {
    let connection = Connection {
        qps: 64,
        lossy,
        ..connection(service, Family::V4, 1024)
    };
    (connection, steps(&connection, &[64, 1024, 5000], |_| 256))
}

fn lossy(service: Service) -> Vec<Stage> {
    let mut stages = Vec::new();
    let paths: &[_] = match service {
        Service::Rc => &[(256, Family::V6), (1024, Family::V4), (4096, Family::V4)],
        // What was lost does not come again: the path MTU makes little difference.
        Service::Uc | Service::Ud => &[(1024, Family::V4)],
    };
    for &(mtu, family) in paths {
        let connection = Connection {
            lossy: true,
            ..connection(service, family, mtu)
        };
        // In packets, because that is what is lost. After each loss in a READ, Soft-RoCE first sends
        // all that it was asked for before, so long ones take very long.
        let sizes = [64, mtu, 16 * mtu + 3, 64 * mtu];
        let steps = steps(
            &connection,
            &sizes,
            |size| if size < 64 * mtu { 32 } else { 4 },
        );
        stages.push((connection, steps));
    }
    stages.push(many(service, true));
    stages.into_iter().flat_map(separated).collect()
}

/// A connection of its own for each step, where receive requests may be left over.
fn separated((connection, steps): Stage) -> Vec<Stage> {
    if !connection.loses_messages() {
        return vec![(connection, steps)];
    }
    steps
        .into_iter()
        .map(|step| (connection, vec![step]))
        .collect()
}

fn sample(service: Service) -> Vec<Stage> {
    let stage = |family| {
        let connection = connection(service, family, 256);
        (connection, steps(&connection, &[61, 600], |_| 1))
    };
    [Family::V4, Family::V6].map(stage).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;
    use crate::rnic::{DEPTH, MAX_QPS};

    #[test]
    fn every_step_is_possible() {
        for extent in [Extent::Full, Extent::Lossy, Extent::Sample] {
            for (connection, steps) in plan(extent, 1) {
                assert!(connection.qps <= MAX_QPS);
                for step in steps {
                    // Markers take a place in the queue, too.
                    let each = step.count.div_ceil(connection.qps);
                    assert!(each < DEPTH, "{step:?}");
                    Image::new(connection, step, End::Rxe).expect("fits into memory");
                }
            }
        }
    }
}
