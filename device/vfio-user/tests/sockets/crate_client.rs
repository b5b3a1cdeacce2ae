//! The client of the `vfio_user` crate, which nobody here wrote.

use std::os::fd::AsRawFd;

use crate::common::*;
use vfio_user::Client;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

#[test]
fn it_negotiates_and_finds_the_regions() {
    let harness = Harness::start(1);
    let client = Client::new(harness.path()).unwrap();
    let Event::Attached(_, caps) = harness.socket().event() else {
        panic!("not attached");
    };
    assert_eq!((caps.minor, caps.max_msg_fds), (1, 1));
    for index in 0..NUM_REGIONS {
        let region = client.region(index).unwrap();
        let (size, flags, areas) = match index {
            TRAPPED => (REGION_SIZE, 0b0011, 0),
            READ_ONLY => (REGION_SIZE, 0b0001, 0),
            SPARSE => (REGION_SIZE, 0b1111, 2),
            WRITE_ONLY => (REGION_SIZE, 0b0010, 0),
            WHOLE => (REGION_SIZE, 0b0111, 0),
            _ => (0, 0, 0),
        };
        assert_eq!((region.size, region.flags), (size, flags), "region {index}");
        assert_eq!(region.sparse_areas.len(), areas, "region {index}");
        let mapped = matches!(index, SPARSE | WHOLE);
        assert_eq!(region.file_offset.is_some(), mapped, "region {index}");
    }
}

#[test]
fn it_maps_a_sparse_area_that_the_device_sees() {
    let harness = Harness::start(1);
    let client = Client::new(harness.path()).unwrap();
    let region = client.region(SPARSE).unwrap();
    let area = region.sparse_areas[1];
    assert_eq!((area.offset, area.size), (3 * PAGE, 2 * PAGE));
    let file = region.file_offset.as_ref().unwrap();
    assert_eq!(file.start(), PAGE);
    let file = FileOffset::new(file.file().try_clone().unwrap(), file.start() + area.offset);
    let mapping = MmapRegion::<()>::from_file(file, area.size as usize).unwrap();
    let slice = mapping.as_volatile_slice();
    slice.write_slice(&[0xaa, 0xbb], 0x10).unwrap();
    let mut seen = [0; 2];
    rustix::io::pread(&harness.socket().file, &mut seen, PAGE + 3 * PAGE + 0x10).unwrap();
    assert_eq!(seen, [0xaa, 0xbb]);
}

#[test]
fn it_reads_and_writes_regions() {
    let harness = Harness::start(1);
    let mut client = Client::new(harness.path()).unwrap();
    let mut data = [0xee; 4];
    client.region_read(TRAPPED, 0x10, &mut data).unwrap();
    assert_eq!(data, [0x10, 0x11, 0x12, 0x13]);
    client.region_write(TRAPPED, 0x10, &[9, 8]).unwrap();
    client.region_read(TRAPPED, 0x10, &mut data).unwrap();
    assert_eq!(data, [9, 8, 0x12, 0x13]);
}

#[test]
fn it_maps_unmaps_and_resets() {
    let harness = Harness::start(1);
    let socket = harness.socket();
    let mut client = Client::new(harness.path()).unwrap();
    socket.attached();
    let memory = memfd(16 * PAGE);
    client
        .dma_map(PAGE, 0x10000, 4 * PAGE, memory.as_raw_fd())
        .unwrap();
    {
        let state = socket.state();
        let (size, fd) = &state.maps[&0x10000];
        assert_eq!(*size, 4 * PAGE);
        assert!(same_file(fd.as_ref().unwrap(), &memory));
    }
    client.dma_unmap(0x10000, 4 * PAGE).unwrap();
    assert!(matches!(socket.event(), Event::Unmap(_, None)));
    assert!(socket.state().maps.is_empty());
    client.reset().unwrap();
    assert!(matches!(socket.event(), Event::Reset(None)));
}

#[test]
fn it_sets_interrupts() {
    let harness = Harness::start(1);
    let socket = harness.socket();
    let mut client = Client::new(harness.path()).unwrap();
    socket.attached();
    let info = client.get_irq_info(MSIX).unwrap();
    assert_eq!((info.index, info.count, info.flags), (MSIX, VECTORS, 0x9));
    let eventfd = eventfd();
    // DATA_EVENTFD | ACTION_TRIGGER
    client
        .set_irqs(MSIX, 0x24, 5, 1, &[eventfd.as_raw_fd()])
        .unwrap();
    assert_eq!(socket.irqs(), "Trigger 2[5+1] 1 eventfds");
    let mut count = [0; 8];
    rustix::io::write(&socket.state().vectors[&(MSIX, 5)], &1_u64.to_ne_bytes()).unwrap();
    rustix::io::read(&eventfd, &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
    // DATA_NONE | ACTION_TRIGGER, count 0
    client.set_irqs(MSIX, 0x21, 0, 0, &[]).unwrap();
    assert_eq!(socket.irqs(), "Trigger 2[0+0] none");
    assert!(socket.state().vectors.is_empty());
}

#[test]
fn it_leaves_and_another_comes() {
    let harness = Harness::start(1);
    for _ in 0..3 {
        let client = Client::new(harness.path()).unwrap();
        harness.socket().attached();
        client.shutdown().unwrap();
        harness.socket().detached();
    }
}
