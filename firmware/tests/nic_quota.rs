//! Quotas of functions: at the limit, one beyond, lowered under use, raised, over a reset, and next to
//! a function that has none.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

mod nic_bench;

use core::mem::offset_of;

use bytemuck::Pod;
use nic_bench::*;
use vrnic_abi::admin::{
    AdminOpcode, AllocMr, AllocMw, Buffer, Completion, CreateAh, CreateCq, CreateEq, CreateMr,
    CreateQp, CreateSrq, OutputBuffer, QpFlags, QpType, ReregisterMr, ResizeCq, Status, WindowType,
};
use vrnic_abi::object::DeviceAttributes;
use vrnic_abi::registers::{self as reg, DeviceState, HealthCode};
use vrnic_firmware::resource::{Quota, QuotaError, Resource, limits};

/// Everything but vectors, which no command takes.
fn countable() -> impl Iterator<Item = Resource> {
    let all = Resource::ALL.iter().copied();
    all.filter(|resource| *resource != Resource::Vectors)
}

fn status(completion: &Completion) -> Status {
    Status::from_raw(completion.status).unwrap()
}

/// Makes something that takes one of a resource.
fn make(node: &mut Node, bench: &mut Bench, resource: Resource) -> Completion {
    let (pd, cq, eq) = (node.pd, node.cq.number, node.eq.number);
    let driver = &mut node.driver;
    let mut send =
        |opcode, body: &dyn AsRef<[u8]>| driver.raw(bench, AdminOpcode::raw(opcode), body.as_ref());
    match resource {
        Resource::QueuePairs => {
            let body = CreateQp {
                pd,
                send_cq: cq,
                receive_cq: cq,
                buffer: one_page(),
                ..CreateQp::default()
            };
            send(AdminOpcode::CreateQp, &Bytes(body))
        }
        Resource::CompletionQueues => {
            let body = CreateCq {
                buffer: one_page(),
                log_entries: 4,
                eq,
                ..CreateCq::default()
            };
            send(AdminOpcode::CreateCq, &Bytes(body))
        }
        Resource::SharedReceiveQueues => {
            let body = CreateSrq {
                pd,
                buffer: one_page(),
                ..CreateSrq::default()
            };
            send(AdminOpcode::CreateSrq, &Bytes(body))
        }
        Resource::EventQueues => {
            let body = CreateEq {
                buffer: one_page(),
                log_entries: 4,
                ..CreateEq::default()
            };
            send(AdminOpcode::CreateEq, &Bytes(body))
        }
        Resource::ProtectionDomains => send(AdminOpcode::AllocPd, &[]),
        Resource::XrcDomains => send(AdminOpcode::AllocXrcd, &[]),
        Resource::Regions => {
            let body = CreateMr {
                pd,
                length: 4096,
                buffer: one_page(),
                ..CreateMr::default()
            };
            send(AdminOpcode::CreateMr, &Bytes(body))
        }
        Resource::Windows => {
            let body = AllocMw {
                pd,
                window_type: WindowType::Type1.raw(),
                ..AllocMw::default()
            };
            send(AdminOpcode::AllocMw, &Bytes(body))
        }
        Resource::AddressHandles => {
            let mut body = CreateAh {
                pd,
                ..CreateAh::default()
            };
            body.vector.gid = gid(9).0;
            body.vector.mac = mac(9).0;
            send(AdminOpcode::CreateAh, &Bytes(body))
        }
        Resource::Pages => {
            let body = AllocMr {
                pd,
                max_pages: 1,
                ..AllocMr::default()
            };
            send(AdminOpcode::AllocMr, &Bytes(body))
        }
        Resource::DoorbellPages => send(AdminOpcode::AllocDoorbellPage, &[]),
        Resource::Vectors => panic!("no command takes a vector"),
    }
}

/// Gives back what [`make`] has made.
#[track_caller]
fn unmake(node: &mut Node, bench: &mut Bench, resource: Resource, made: u64) {
    let opcode = match resource {
        Resource::QueuePairs => AdminOpcode::DestroyQp,
        Resource::CompletionQueues => AdminOpcode::DestroyCq,
        Resource::SharedReceiveQueues => AdminOpcode::DestroySrq,
        Resource::EventQueues => AdminOpcode::DestroyEq,
        Resource::ProtectionDomains => AdminOpcode::FreePd,
        Resource::XrcDomains => AdminOpcode::FreeXrcd,
        Resource::Regions | Resource::Pages => AdminOpcode::DestroyMr,
        Resource::Windows => AdminOpcode::FreeMw,
        Resource::AddressHandles => AdminOpcode::DestroyAh,
        Resource::DoorbellPages => AdminOpcode::FreeDoorbellPage,
        Resource::Vectors => panic!("no command takes a vector"),
    };
    let object = u32::try_from(made).unwrap();
    node.driver.destroy(bench, opcode, object);
}

/// A command's body as bytes.
struct Bytes<T>(T);

impl<T: Pod> AsRef<[u8]> for Bytes<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::bytes_of(&self.0)
    }
}

/// One page that nothing is written to by these commands.
fn one_page() -> Buffer {
    Buffer {
        address: 1 << 40,
        pages: 1,
        page_shift: 12,
        ..Buffer::default()
    }
}

/// A list of pages that are not there, in reverse order.
fn listed(driver: &mut Driver, pages: u32) -> Buffer {
    let list = driver.memory(u64::from(pages) * 8, true);
    for page in 0..u64::from(pages) {
        let address: u64 = (1 << 40) - page * 4096;
        driver.hw.write(list + page * 8, &address);
    }
    Buffer {
        address: list,
        pages,
        page_shift: 12,
        list: 1,
        ..Buffer::default()
    }
}

fn in_use(bench: &Bench, node: &Node, resource: Resource) -> u32 {
    let function = bench.nic.function(node.driver.id).unwrap();
    function.in_use(resource)
}

/// The quota of a node with another amount of one resource.
#[track_caller]
fn set(bench: &mut Bench, node: &Node, resource: Resource, amount: u32) {
    let mut quota = *bench.nic.quota(node.driver.id).unwrap();
    quota.set(resource, amount);
    bench.nic.set_quota(node.driver.id, quota).unwrap();
}

fn query_device(bench: &mut Bench, driver: &mut Driver) -> DeviceAttributes {
    let length = size_of::<DeviceAttributes>() as u32;
    let address = driver.memory(length.into(), false);
    let body = OutputBuffer {
        address,
        length,
        reserved: 0,
    };
    driver.ok(bench, AdminOpcode::QueryDevice, &body);
    driver.hw.read(address)
}

/// What QueryDevice says about a resource.
fn reported(attributes: &DeviceAttributes, resource: Resource) -> u32 {
    match resource {
        Resource::QueuePairs => attributes.max_qp,
        Resource::CompletionQueues => attributes.max_cq,
        Resource::SharedReceiveQueues => attributes.max_srq,
        Resource::EventQueues => attributes.max_eq,
        Resource::ProtectionDomains => attributes.max_pd,
        Resource::XrcDomains => attributes.max_xrcd,
        Resource::Regions => attributes.max_mr,
        Resource::Windows => attributes.max_mw,
        Resource::AddressHandles => attributes.max_ah,
        Resource::Pages => attributes.max_pages,
        Resource::DoorbellPages => attributes.max_doorbell_pages,
        Resource::Vectors => attributes.vectors,
    }
}

#[test]
fn a_function_has_as_much_as_its_quota_and_no_more() {
    for resource in countable() {
        let mut bench = Bench::default();
        let mut node = Node::new(&mut bench, 1);
        let mut other = Node::new(&mut bench, 2);
        let before = in_use(&bench, &node, resource);
        set(&mut bench, &node, resource, before + 3);
        for n in 1..=3 {
            let made = make(&mut node, &mut bench, resource);
            assert_eq!(status(&made), Status::Success, "{resource:?} {n}");
            assert_eq!(in_use(&bench, &node, resource), before + n, "{resource:?}");
        }
        for _ in 0..2 {
            let refused = make(&mut node, &mut bench, resource);
            assert_eq!(status(&refused), Status::NoResources, "{resource:?}");
            assert_eq!(in_use(&bench, &node, resource), before + 3, "{resource:?}");
        }
        for _ in 0..4 {
            let made = make(&mut other, &mut bench, resource);
            assert_eq!(status(&made), Status::Success, "{resource:?} elsewhere");
        }
    }
}

#[test]
fn less_than_there_is_takes_nothing_away() {
    for resource in countable() {
        let mut bench = Bench::default();
        let mut node = Node::new(&mut bench, 1);
        // Two more than there were when Node::new was done, so that a limit between is allowed.
        let made: Vec<u64> = (0..4)
            .map(|_| make(&mut node, &mut bench, resource).result0)
            .collect();
        let most = in_use(&bench, &node, resource);
        set(&mut bench, &node, resource, most - 2);
        assert_eq!(in_use(&bench, &node, resource), most, "{resource:?}");
        for (gone, object) in (1..).zip(&made[..3]) {
            let refused = make(&mut node, &mut bench, resource);
            assert_eq!(status(&refused), Status::NoResources, "{resource:?}");
            // Each is still there to be given back.
            unmake(&mut node, &mut bench, resource, *object);
            assert_eq!(in_use(&bench, &node, resource), most - gone);
        }
        let again = make(&mut node, &mut bench, resource);
        assert_eq!(status(&again), Status::Success, "{resource:?}");
        let refused = make(&mut node, &mut bench, resource);
        assert_eq!(status(&refused), Status::NoResources, "{resource:?}");
        // More works at once.
        set(&mut bench, &node, resource, most - 1);
        let more = make(&mut node, &mut bench, resource);
        assert_eq!(status(&more), Status::Success, "{resource:?}");
    }
}

#[test]
fn drivers_are_told_their_quota_also_after_a_reset() {
    let mut bench = Bench::default();
    let mut driver = Driver::add(&mut bench, 1);
    let mut quota = Quota::default();
    for (n, resource) in (0..).zip(Resource::ALL) {
        quota.set(*resource, 10 + n);
    }
    bench.nic.set_quota(driver.id, quota).unwrap();
    assert_eq!(driver.hw.vectors.get(), quota.vectors as u16);
    for _ in 0..2 {
        driver.enable(&mut bench);
        let attributes = query_device(&mut bench, &mut driver);
        for resource in Resource::ALL {
            let (told, limit) = (reported(&attributes, *resource), quota.get(*resource));
            assert_eq!(told, limit, "{resource:?}");
        }
        assert_eq!(attributes.max_fast_pages, quota.pages);
        bench.nic.reset(driver.id);
        assert_eq!(bench.nic.quota(driver.id), Some(&quota));
    }
}

#[test]
fn the_general_services_interface_is_not_counted() {
    let mut bench = Bench::default();
    let mut node = Node::new(&mut bench, 1);
    let taken = in_use(&bench, &node, Resource::QueuePairs);
    set(&mut bench, &node, Resource::QueuePairs, taken);
    let (pd, none) = (node.pd, QpFlags::empty());
    let gsi = node
        .driver
        .qp_of(&mut bench, pd, &node.cq, QpType::Gsi, none);
    assert_eq!(gsi.number, 1);
    let refused = make(&mut node, &mut bench, Resource::QueuePairs);
    assert_eq!(status(&refused), Status::NoResources);
}

/// Page lists are set aside before they are read, and given back when the command fails.
#[test]
fn page_lists_are_counted_while_they_are_read() {
    let mut bench = Bench::default();
    let mut node = Node::new(&mut bench, 1);
    let before = in_use(&bench, &node, Resource::Pages);
    set(&mut bench, &node, Resource::Pages, before + 1000);
    // 600 entries take two slices; of two such commands under way, one is too many.
    let body = |node: &mut Node| CreateMr {
        pd: node.pd,
        length: 600 * 4096,
        buffer: listed(&mut node.driver, 600),
        ..CreateMr::default()
    };
    let (first, second) = (body(&mut node), body(&mut node));
    for body in [&first, &second] {
        let bytes = bytemuck::bytes_of(body);
        node.driver.put(AdminOpcode::CreateMr.raw(), bytes);
    }
    node.driver.announce(&mut bench);
    bench.step();
    assert_eq!(in_use(&bench, &node, Resource::Pages), before + 600);
    bench.run();
    let ends = [(); 2].map(|()| node.driver.take(&mut bench).unwrap());
    assert_eq!(status(&ends[0]), Status::NoResources, "the second one");
    let at = 8 + offset_of!(CreateMr, buffer) as u32;
    assert_eq!(ends[0].syndrome, at);
    assert_eq!(status(&ends[1]), Status::Success);
    let key = ends[1].result0;

    // A region that is registered again, and a queue that moves, hold both lists for a while.
    let again = ReregisterMr {
        key: u32::try_from(key).unwrap(),
        pd: node.pd,
        length: 600 * 4096,
        buffer: second.buffer,
        ..ReregisterMr::default()
    };
    let refused = node
        .driver
        .command(&mut bench, AdminOpcode::ReregisterMr, &again);
    assert_eq!(status(&refused), Status::NoResources);
    let moved = ResizeCq {
        cq: node.cq.number,
        log_entries: 16,
        buffer: listed(&mut node.driver, (64 << 16) / 4096),
        ..ResizeCq::default()
    };
    let refused = node
        .driver
        .command(&mut bench, AdminOpcode::ResizeCq, &moved);
    assert_eq!(status(&refused), Status::NoResources);
    assert_eq!(in_use(&bench, &node, Resource::Pages), before + 600);
    set(&mut bench, &node, Resource::Pages, before + 1200);
    node.driver
        .ok(&mut bench, AdminOpcode::ReregisterMr, &again);
    unmake(&mut node, &mut bench, Resource::Regions, key);
    assert_eq!(in_use(&bench, &node, Resource::Pages), before);
}

/// What is contiguous costs nothing, and a driver may go on with it.
#[test]
fn without_pages_contiguous_memory_still_works() {
    let mut bench = Bench::default();
    let mut node = Node::new(&mut bench, 1);
    set(&mut bench, &node, Resource::Pages, 0);
    let made = make(&mut node, &mut bench, Resource::Regions);
    assert_eq!(status(&made), Status::Success);
    let attributes = query_device(&mut bench, &mut node.driver);
    assert_eq!((attributes.max_pages, attributes.max_fast_pages), (1, 0));
    let refused = make(&mut node, &mut bench, Resource::Pages);
    assert_eq!(status(&refused), Status::NoResources);
}

#[test]
fn event_queues_have_no_vectors_beyond_the_quota() {
    let mut bench = Bench::default();
    let mut driver = Driver::add(&mut bench, 1);
    let quota = Quota {
        vectors: 3,
        ..Quota::default()
    };
    bench.nic.set_quota(driver.id, quota).unwrap();
    driver.enable(&mut bench);
    let with = |vector| CreateEq {
        buffer: one_page(),
        log_entries: 4,
        vector,
        ..CreateEq::default()
    };
    driver.ok(&mut bench, AdminOpcode::CreateEq, &with(2));
    for vector in [3, 63, u16::MAX] {
        let refused = driver.command(&mut bench, AdminOpcode::CreateEq, &with(vector));
        let at = 8 + offset_of!(CreateEq, vector) as u32;
        let expected = (Status::BadArgument, at);
        assert_eq!((status(&refused), refused.syndrome), expected, "{vector}");
    }
    let function = bench.nic.function(driver.id).unwrap();
    // The admin queue's, and the event queue's.
    assert_eq!(function.in_use(Resource::Vectors), 2);
}

#[test]
fn the_admin_queue_has_no_vector_beyond_the_quota() {
    let mut bench = Bench::default();
    let driver = Driver::add(&mut bench, 1);
    let quota = Quota {
        vectors: 1,
        ..Quota::default()
    };
    bench.nic.set_quota(driver.id, quota).unwrap();
    for (vector, state) in [(1, DeviceState::Error), (0, DeviceState::Ready)] {
        let queue = reg::admin_queue::LOG_ENTRIES.put(4)
            | reg::admin_queue::VECTOR.put(vector)
            | reg::admin_queue::INTERRUPT.put(1);
        driver.write_register(&mut bench, &reg::ADMIN_QUEUE, queue);
        driver.write_register(&mut bench, &reg::DEVICE_CONTROL, 1);
        assert_eq!(driver.state(), u32::from(state.raw()), "vector {vector}");
        if state == DeviceState::Error {
            let code = driver.hw.register(&reg::HEALTH_CODE);
            assert_eq!(code, u32::from(HealthCode::BadAdminQueue.raw()));
        }
        bench.nic.reset(driver.id);
    }
}

#[test]
fn vectors_change_only_while_nobody_has_seen_them() {
    let mut bench = Bench::default();
    let mut driver = Driver::add(&mut bench, 1);
    let few = Quota {
        vectors: 2,
        ..Quota::default()
    };
    driver.hw.attached.set(true);
    assert_eq!(
        bench.nic.set_quota(driver.id, few),
        Err(QuotaError::InUse),
        "a client is attached"
    );
    driver.hw.attached.set(false);
    driver.enable(&mut bench);
    assert_eq!(
        bench.nic.set_quota(driver.id, few),
        Err(QuotaError::InUse),
        "a driver runs the function"
    );
    assert_eq!(bench.nic.quota(driver.id), Some(&Quota::default()));
    // All else may change meanwhile.
    let other = Quota {
        queue_pairs: 1,
        ..Quota::default()
    };
    bench.nic.set_quota(driver.id, other).unwrap();
    bench.nic.reset(driver.id);
    bench.nic.set_quota(driver.id, few).unwrap();
    assert_eq!(driver.hw.vectors.get(), 2);
}

/// Reports so many asynchronous events to all functions.
fn report(bench: &mut Bench, events: usize) {
    for _ in 0..events {
        let up = bench.nic.is_link_up();
        bench.nic.set_link(!up);
    }
}

/// The memory for what waits is bounded by what the objects of the quota can report.
#[test]
fn events_that_wait_are_bounded_by_the_quota() {
    let mut bench = Bench::default();
    let ready = u32::from(DeviceState::Ready.raw());
    let nodes = [1, 2, 3].map(|n| Node::new(&mut bench, n));
    let few = Quota {
        queue_pairs: 10,
        completion_queues: 5,
        shared_receive_queues: 0,
        ..Quota::default()
    };
    bench.nic.set_quota(nodes[0].driver.id, few).unwrap();
    let entries = 1 << nodes[0].eq.log_entries;
    let most = entries + limits::held_events(10, 0, 5);
    report(&mut bench, most);
    assert_eq!(nodes[0].driver.state(), ready);
    // What waits already is no fault of a quota that comes then.
    bench.nic.set_quota(nodes[1].driver.id, few).unwrap();
    report(&mut bench, 1);
    assert_eq!(nodes[0].driver.state(), u32::from(DeviceState::Error.raw()));
    let code = nodes[0].driver.hw.register(&reg::HEALTH_CODE);
    assert_eq!(code, u32::from(HealthCode::EventsLost.raw()));
    report(&mut bench, limits::held_events(10, 0, 5) - 1);
    for node in &nodes[1..] {
        assert_eq!(node.driver.state(), ready);
    }
    report(&mut bench, 1);
    let states = nodes.map(|node| node.driver.state() == ready);
    assert_eq!(states, [false, false, true]);
}

#[test]
fn a_wrong_quota_changes_nothing() {
    let mut bench = Bench::default();
    let driver = Driver::add(&mut bench, 1);
    for resource in Resource::ALL {
        for amount in [*resource.range().end() + 1, u32::MAX] {
            let mut quota = Quota {
                queue_pairs: 5,
                ..Quota::default()
            };
            quota.set(*resource, amount);
            let refused = bench.nic.set_quota(driver.id, quota);
            assert_eq!(refused, Err(QuotaError::Range(*resource)));
        }
    }
    assert_eq!(bench.nic.quota(driver.id), Some(&Quota::default()));
    let gone = driver.id;
    bench.nic.remove_function(gone).unwrap();
    let quota = Quota::default();
    assert_eq!(bench.nic.set_quota(gone, quota), Err(QuotaError::Function));
    assert_eq!(bench.nic.quota(gone), None);
}

/// A place that is given to another function has nothing of the former one's quota.
#[test]
fn a_new_function_has_the_most() {
    let mut bench = Bench::default();
    let first = Driver::add(&mut bench, 1);
    let few = Quota {
        regions: 1,
        vectors: 1,
        ..Quota::default()
    };
    bench.nic.set_quota(first.id, few).unwrap();
    bench.nic.remove_function(first.id).unwrap();
    let second = Driver::add(&mut bench, 2);
    assert_eq!(second.id, first.id);
    assert_eq!(bench.nic.quota(second.id), Some(&Quota::default()));
}
