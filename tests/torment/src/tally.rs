//! How often each kind of call was made, and how often it worked. In memory that all processes
//! share, so that it survives whoever is killed.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use serde_json::{Map, Value, json};

macro_rules! calls {
    ($($name:ident),* $(,)?) => {
        /// A kind of call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Call { $($name),* }

        impl Call {
            const ALL: &'static [Call] = &[$(Call::$name),*];
        }
    };
}

calls! {
    GetContext, Map, QueryDevice, QueryPort, AllocPd, DeallocPd, RegMr, ReregMr, DeregMr, AllocMw,
    DeallocMw, CreateChannel, CreateCq, ResizeCq, DestroyCq, NotifyCq, PollCq, CreateSrq, CreateXsrq,
    ModifySrq, QuerySrq, DestroySrq, CreateQp, OpenQp, ModifyQp, Connect, QueryQp, DestroyQp,
    PostSend, CreateAh, DestroyAh, AttachMcast, DetachMcast, OpenXrcd, CloseXrcd, Mutated, Ioctl, Fork,
}

const CALLS: usize = Call::ALL.len();

#[derive(Default)]
struct Count {
    made: AtomicU64,
    worked: AtomicU64,
}

/// The counts of all calls.
#[derive(Clone, Copy)]
pub(crate) struct Tally(NonNull<[Count; CALLS]>);

// SAFETY: atomics, in memory that is never unmapped.
unsafe impl Send for Tally {}
// SAFETY: as above.
unsafe impl Sync for Tally {}

impl Tally {
    /// All zero, in memory that children share.
    pub(crate) fn new() -> Result<Self> {
        let length = size_of::<[Count; CALLS]>();
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        );
        // SAFETY: new memory, which nobody unmaps.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), length, prot, flags, -1, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        let memory = NonNull::new(memory.cast());
        memory.map(Self).ok_or_else(|| anyhow::anyhow!("no memory"))
    }

    fn count(&self, call: Call) -> Option<&Count> {
        // SAFETY: zeroed memory is a valid array of counts, and lives for ever.
        unsafe { self.0.as_ref() }.get(call as usize)
    }

    /// Notes a call and hands its result on.
    pub(crate) fn note<T, E>(&self, call: Call, result: Result<T, E>) -> Result<T, E> {
        if let Some(count) = self.count(call) {
            count.made.fetch_add(1, Ordering::Relaxed);
            count
                .worked
                .fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
        }
        result
    }

    /// How often a call has worked.
    pub(crate) fn successes(&self, call: Call) -> u64 {
        self.count(call)
            .map_or(0, |count| count.worked.load(Ordering::Relaxed))
    }

    /// All counts: made and worked.
    pub(crate) fn report(&self) -> Value {
        let mut report = Map::new();
        for &call in Call::ALL {
            let made = self
                .count(call)
                .map_or(0, |count| count.made.load(Ordering::Relaxed));
            report.insert(format!("{call:?}"), json!([made, self.successes(call)]));
        }
        Value::Object(report)
    }
}
