//! Objects: query-objects.
//!
//! Objects are asked for by kind and in pages of [`PAGE`] slots, so that the engine is never held up
//! for longer than a page takes. What an object's driver wrote about it is shown as the firmware
//! checked it; what changes under way (counters of rings) is from the moment of the look.

use serde::{Deserialize, Serialize};
use vrnic_firmware::frontend::Function;
use vrnic_firmware::frontend::inspect::{Object, ObjectKind};
use vrnic_firmware::frontend::queue_pairs::QueuePair;
use vrnic_firmware::frontend::ring::{ReceiveRing, SendRing};
use vrnic_firmware::frontend::shared_receive::SharedReceiveQueue;
use vrnic_firmware::resource::{Filter, MemoryKey, Wanted, Window, WindowKind};
use vrnic_firmware::transport::Kind as QpKind;
use vrnic_firmware::types::{Access, Gid, Mac};

use super::World;
use crate::control::names::{self, Text};
use crate::control::promise::Promise;
use crate::control::protocol::Reply;

/// Slots that one answer covers.
const PAGE: u32 = 256;

/// Kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Qp,
    Cq,
    Srq,
    Eq,
    Mr,
    Mw,
    Pd,
    Xrcd,
    Ah,
    Gid,
    Filter,
    Mcast,
}

impl Kind {
    const fn of_firmware(self) -> ObjectKind {
        match self {
            Self::Qp => ObjectKind::QueuePair,
            Self::Cq => ObjectKind::CompletionQueue,
            Self::Srq => ObjectKind::SharedReceiveQueue,
            Self::Eq => ObjectKind::EventQueue,
            Self::Mr | Self::Mw => ObjectKind::MemoryKey,
            Self::Pd => ObjectKind::ProtectionDomain,
            Self::Xrcd => ObjectKind::XrcDomain,
            Self::Ah => ObjectKind::AddressHandle,
            Self::Gid => ObjectKind::Gid,
            Self::Filter => ObjectKind::Filter,
            Self::Mcast => ObjectKind::Membership,
        }
    }

    /// Whether objects of this kind are windows or none, where a kind of the firmware has both.
    fn takes(self, object: &Object<'_>) -> bool {
        let is_window = matches!(object, Object::MemoryKey(MemoryKey::Window(_)));
        is_window == (self == Self::Mw)
    }
}

/// Arguments of query-objects.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryObjects {
    function: u16,
    kind: Kind,
    /// `next` of the page before.
    #[serde(default)]
    from: u32,
}

/// How many objects of each kind a function has.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Counts {
    qp: u32,
    cq: u32,
    srq: u32,
    eq: u32,
    mr: u32,
    mw: u32,
    pd: u32,
    xrcd: u32,
    ah: u32,
    gid: u32,
    filter: u32,
    mcast: u32,
}

/// Counts a function's objects.
pub(super) fn count(function: &Function) -> Counts {
    Counts {
        qp: function.count_of(ObjectKind::QueuePair),
        cq: function.count_of(ObjectKind::CompletionQueue),
        srq: function.count_of(ObjectKind::SharedReceiveQueue),
        eq: function.count_of(ObjectKind::EventQueue),
        mr: function.objects.keys.regions(),
        mw: function.objects.keys.windows(),
        pd: function.count_of(ObjectKind::ProtectionDomain),
        xrcd: function.count_of(ObjectKind::XrcDomain),
        ah: function.count_of(ObjectKind::AddressHandle),
        gid: function.count_of(ObjectKind::Gid),
        filter: function.count_of(ObjectKind::Filter),
        mcast: function.count_of(ObjectKind::Membership),
    }
}

/// A page of objects.
#[derive(Debug, Serialize)]
struct Page {
    objects: Vec<Facts>,
    /// Where the next page begins, if this is not the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u32>,
}

pub(super) fn list(world: &mut World<'_>, query: QueryObjects, promise: Promise) {
    world.ask_about(
        query.function,
        promise,
        move |inside, id| Some(page(inside.nic.function(id)?, &query)),
        |page| Reply::of(&page),
    );
}

/// Copies what is to be shown of a page.
fn page(function: &Function, query: &QueryObjects) -> Page {
    let kind = query.kind.of_firmware();
    let end = query.from.saturating_add(PAGE);
    let mut objects = Vec::new();
    function.inspect(kind, query.from..end, &mut |object| {
        if query.kind.takes(&object) {
            objects.push(Facts::of(&object));
        }
    });
    let next = (end < function.slots_of(kind)).then_some(end);
    Page { objects, next }
}

/// What is shown of an object.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Facts {
    QueuePair(Box<QueuePairFacts>),
    CompletionQueue {
        number: u32,
        entries: u32,
        outstanding: u32,
        eq: u32,
        armed: bool,
        failed: bool,
    },
    SharedReceiveQueue(SharedFacts),
    EventQueue {
        number: u32,
        entries: u32,
        outstanding: u32,
        vector: u16,
        armed: bool,
        held: usize,
    },
    Region {
        key: u32,
        r#type: &'static str,
        pd: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        memory: Option<RegionFacts>,
    },
    Window {
        key: u32,
        r#type: &'static str,
        pd: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        bound: Option<BindingFacts>,
    },
    Domain {
        number: u32,
        users: u32,
    },
    AddressHandle {
        number: u32,
        pd: u32,
        gid: Text<Gid>,
        mac: Text<Mac>,
    },
    Gid {
        index: u32,
        gid: Text<Gid>,
        mac: Text<Mac>,
        vlan: u16,
    },
    Filter(FilterFacts),
    Membership {
        gid: Text<Gid>,
        vlan: u16,
        qp: u32,
    },
}

impl Facts {
    fn of(object: &Object<'_>) -> Self {
        match *object {
            Object::QueuePair(number, qp) => {
                Self::QueuePair(Box::new(QueuePairFacts::of(number, qp)))
            }
            Object::CompletionQueue(number, cq) => Self::CompletionQueue {
                number,
                entries: 1 << cq.ring.log_entries,
                outstanding: cq.ring.outstanding(),
                eq: cq.eq,
                armed: cq.notifier().is_armed(),
                failed: cq.has_failed(),
            },
            Object::SharedReceiveQueue(number, srq) => {
                Self::SharedReceiveQueue(SharedFacts::of(number, srq))
            }
            Object::EventQueue(number, eq) => Self::EventQueue {
                number,
                entries: 1 << eq.ring.log_entries,
                outstanding: eq.ring.outstanding(),
                vector: eq.vector,
                armed: eq.is_armed(),
                held: eq.held(),
            },
            Object::MemoryKey(key) => Self::of_key(key),
            Object::ProtectionDomain(number, pd) => Self::Domain {
                number,
                users: pd.users,
            },
            Object::XrcDomain(number, xrcd) => Self::Domain {
                number,
                users: xrcd.users,
            },
            Object::AddressHandle(number, handle) => Self::AddressHandle {
                number,
                pd: handle.pd,
                gid: Text(handle.path.destination),
                mac: Text(handle.path.destination_mac),
            },
            Object::Gid(index, entry) => Self::Gid {
                index,
                gid: Text(entry.gid),
                mac: Text(entry.mac),
                vlan: entry.vlan,
            },
            Object::Filter(number, filter) => Self::Filter(FilterFacts::of(number, filter)),
            Object::Membership(group, qp) => Self::Membership {
                gid: Text(group.gid),
                vlan: group.vlan,
                qp,
            },
        }
    }

    fn of_key(key: &MemoryKey) -> Self {
        let memory = key.region().map(|region| RegionFacts {
            start: region.start,
            length: region.length,
            access: Text(region.access),
            windows: region.windows,
        });
        match key {
            MemoryKey::Region(region) => Self::Region {
                key: region.key,
                r#type: "region",
                pd: region.pd,
                memory,
            },
            MemoryKey::Fast(fast) => Self::Region {
                key: fast.key,
                r#type: "fast",
                pd: fast.pd,
                memory,
            },
            MemoryKey::Window(window) => Self::of_window(window),
        }
    }

    fn of_window(window: &Window) -> Self {
        Self::Window {
            key: window.key,
            r#type: match window.kind {
                WindowKind::Type1 => "1",
                WindowKind::Type2 => "2B",
            },
            pd: window.pd,
            bound: window.binding.map(|binding| BindingFacts {
                region: binding.region,
                start: binding.start,
                length: binding.length,
                access: Text(binding.access),
                qp: binding.qp,
            }),
        }
    }
}

#[derive(Debug, Serialize)]
struct RegionFacts {
    start: u64,
    length: u64,
    access: Text<Access>,
    windows: u32,
}

#[derive(Debug, Serialize)]
struct BindingFacts {
    region: u32,
    start: u64,
    length: u64,
    access: Text<Access>,
    #[serde(skip_serializing_if = "Option::is_none")]
    qp: Option<u32>,
}

#[derive(Debug, Serialize)]
struct QueuePairFacts {
    number: u32,
    r#type: &'static str,
    state: &'static str,
    /// What went wrong first since the last reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Peer>,
    pd: u32,
    send_cq: u32,
    receive_cq: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    srq: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xrcd: Option<u32>,
    /// Basic blocks of its send queue that are in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    send: Option<RingFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receive: Option<RingFacts>,
}

/// A ring that the driver fills: how much was ever announced, and done.
#[derive(Debug, Serialize)]
struct RingFacts {
    producer: u32,
    consumer: u32,
}

/// The other end of a connection.
#[derive(Debug, Serialize)]
struct Peer {
    qp: u32,
    gid: Text<Gid>,
    mac: Text<Mac>,
    source_gid: Text<Gid>,
    vlan: u16,
    mtu: u32,
}

impl QueuePairFacts {
    fn of(number: u32, qp: &QueuePair) -> Self {
        let (transport, queues) = (&qp.transport, &qp.queues);
        let send = |ring: &SendRing| RingFacts {
            producer: ring.producer(),
            consumer: ring.consumer(),
        };
        let receive = |ring: &ReceiveRing| RingFacts {
            producer: ring.producer(),
            consumer: ring.consumer(),
        };
        Self {
            number,
            r#type: names::qp_type(transport.kind()),
            state: names::qp_state(transport.state()),
            error: queues.trouble.map(names::trouble),
            peer: Peer::of(qp, transport.kind()),
            pd: queues.pd,
            send_cq: queues.send_cq,
            receive_cq: queues.receive_cq,
            srq: queues.srq,
            xrcd: queues.xrcd,
            send: queues.send.as_ref().map(send),
            receive: queues.receive.as_ref().map(receive),
        }
    }
}

impl Peer {
    /// The peer of a queue pair that has been given one.
    fn of(qp: &QueuePair, kind: QpKind) -> Option<Self> {
        let path = qp.transport.path();
        if !kind.is_connected() || path.destination.is_zero() {
            return None;
        }
        let attributes = qp.transport.attributes();
        Some(Self {
            qp: attributes.remote_qpn.get(),
            gid: Text(path.destination),
            mac: Text(path.destination_mac),
            source_gid: Text(path.source),
            vlan: path.vlan,
            mtu: attributes.path_mtu.bytes(),
        })
    }
}

#[derive(Debug, Serialize)]
struct SharedFacts {
    number: u32,
    r#type: &'static str,
    pd: u32,
    entries: u32,
    producer: u32,
    consumer: u32,
    limit: u32,
    users: u32,
    failed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    xrcd: Option<u32>,
}

impl SharedFacts {
    fn of(number: u32, srq: &SharedReceiveQueue) -> Self {
        Self {
            number,
            r#type: if srq.extended.is_some() {
                "XRC"
            } else {
                "BASIC"
            },
            pd: srq.domain.pd,
            entries: srq.ring.entries(),
            producer: srq.ring.producer(),
            consumer: srq.ring.consumer(),
            limit: srq.limit(),
            users: srq.users,
            failed: srq.has_failed(),
            xrcd: srq.xrcd(),
        }
    }
}

#[derive(Debug, Serialize)]
struct FilterFacts {
    number: u32,
    wants: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<Text<Mac>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
    spread: bool,
    qp: u32,
}

impl FilterFacts {
    fn of(number: u32, filter: &Filter) -> Self {
        let (wants, mac) = match filter.wanted {
            Wanted::Address(mac) => ("address", Some(Text(mac))),
            Wanted::Broadcast => ("broadcast", None),
            Wanted::AllMulticast => ("all_multicast", None),
            Wanted::Promiscuous => ("promiscuous", None),
        };
        Self {
            number,
            wants,
            mac,
            vlan: filter.vlan,
            spread: filter.spread,
            qp: filter.qpn,
        }
    }
}
