//! How fast guest memory is copied, read and looked up, beside `memcpy` of the same size.
//!
//! `cargo run --release -p vrnic --example dma_copy`

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};
use vrnic::dma::{Backing, FileLimits, FileTable, GuestMemory, Prot};

const PAGE: u64 = 4096;
const MEMORY: u64 = 64 << 20;

/// 64 MiB of guest memory, in one mapping or in pages that do not continue each other.
fn guest(scattered: bool) -> Result<GuestMemory> {
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC)?;
    ftruncate(&fd, MEMORY)?;
    let file = FileTable::new(FileLimits::default()).map(fd, 0, MEMORY, true)?;
    let mut memory = GuestMemory::default();
    let (count, len) = if scattered {
        (MEMORY / PAGE, PAGE)
    } else {
        (1, MEMORY)
    };
    for n in 0..count {
        let offset = n * 1531 % count * len;
        let backing = Backing::File {
            file: file.clone(),
            offset,
        };
        memory.map(n * len, len, Prot::READ | Prot::WRITE, backing)?;
    }
    // Touch every page, so that no fault is measured.
    for page in 0..MEMORY / PAGE {
        memory.write(page * PAGE, &[1; 64])?;
    }
    Ok(memory)
}

/// Two buffers of shared memory, the kind that guest memory is, for `memcpy` to work on.
fn shared() -> Result<MmapRegion> {
    let fd = memfd_create("plain", MemfdFlags::CLOEXEC)?;
    ftruncate(&fd, 2 << 20)?;
    let region = MmapRegion::from_file(FileOffset::new(fd.into(), 0), 2 << 20)?;
    region.as_volatile_slice().copy_from(&vec![1u8; 2 << 20]);
    Ok(region)
}

/// The shortest times of the candidates, measured in turns, in nanoseconds per call.
fn shortest<const N: usize>(mut candidates: [&mut dyn FnMut(); N]) -> [f64; N] {
    let calls = 20u32;
    let mut best = [Duration::MAX; N];
    let end = Instant::now() + Duration::from_millis(800);
    while Instant::now() < end {
        for (best, run) in best.iter_mut().zip(&mut candidates) {
            let start = Instant::now();
            (0..calls).for_each(|_| run());
            *best = start.elapsed().min(*best);
        }
    }
    best.map(|time| time.as_nanos() as f64 / f64::from(calls))
}

fn main() -> Result<()> {
    let (source, target, scattered) = (guest(false)?, guest(false)?, guest(true)?);
    let plain = shared()?;
    println!(
        "{:>8} {:>10} {:>10} {:>7} {:>12} {:>7}",
        "bytes", "memcpy", "copy_to", "ratio", "4 KiB maps", "ratio"
    );
    for len in [64usize, 4 << 10, 64 << 10, 1 << 20] {
        let (from, to) = (plain.get_slice(0, len)?, plain.get_slice(1 << 20, len)?);
        let [memcpy, copy, pages] = shortest([
            &mut || black_box(&from).copy_to_volatile_slice(black_box(to)),
            &mut || black_box(source.copy_to(0, &target, 0, black_box(len))).unwrap_or(()),
            &mut || black_box(scattered.copy_to(0, &target, 0, black_box(len))).unwrap_or(()),
        ]);
        let (a, b) = (memcpy / copy, memcpy / pages);
        println!("{len:>8} {memcpy:>7.1} ns {copy:>7.1} ns {a:>7.3} {pages:>9.1} ns {b:>7.3}");
        source.copy_to(0, &target, 0, len).context("copy")?;
    }
    let mut at = 0u64;
    let [lookup] = shortest([&mut || {
        at = (at + 7919 * PAGE) % MEMORY;
        let _ = black_box(scattered.read_u64_acquire(at));
    }]);
    println!(
        "8-byte read among {} mappings, each time another: {lookup:.1} ns",
        scattered.mappings()
    );
    Ok(())
}
