//! What may be used by several threads is, on a platform that allows it.

use crate::tables::Memory;
use crate::{
    AddressHandle, CompletionQueue, DoorbellPage, Driver, FastRegion, Filter, MemoryRegion,
    MemoryWindow, PendingCommand, ProtectionDomain, QpControl, QueuePair, ReceiveQueue, Restart,
    SendQueue, SharedReceiveQueue, SrqControl, SrqQueue, UserCompletionQueue, UserQueuePair,
    UserSharedReceiveQueue, XrcDomain, XrcTarget,
};

const fn is_shared<T: Send + Sync>() {}

const _: () = {
    is_shared::<Driver<Memory>>();
    is_shared::<PendingCommand<Memory>>();
    is_shared::<ProtectionDomain<Memory>>();
    is_shared::<DoorbellPage<Memory>>();
    is_shared::<MemoryRegion<Memory>>();
    is_shared::<FastRegion<Memory>>();
    is_shared::<MemoryWindow<Memory>>();
    is_shared::<AddressHandle<Memory>>();
    is_shared::<Filter<Memory>>();
    is_shared::<CompletionQueue<Memory>>();
    is_shared::<QueuePair<Memory>>();
    is_shared::<QpControl<Memory>>();
    is_shared::<SendQueue<Memory>>();
    is_shared::<ReceiveQueue<Memory>>();
    is_shared::<Restart<Memory>>();
    is_shared::<SharedReceiveQueue<Memory>>();
    is_shared::<SrqControl<Memory>>();
    is_shared::<SrqQueue<Memory>>();
    is_shared::<UserCompletionQueue<Memory>>();
    is_shared::<UserQueuePair<Memory>>();
    is_shared::<UserSharedReceiveQueue<Memory>>();
    is_shared::<XrcDomain<Memory>>();
    is_shared::<XrcTarget<Memory>>();
};
