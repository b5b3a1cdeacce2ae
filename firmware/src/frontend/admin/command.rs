//! Admin commands, parsed: bytes to typed requests, and what refusals look like.

use bytemuck::Pod;
use vrnic_abi::admin::{
    AdminOpcode, AllocMr, AllocMw, Command, ConfigureCongestion, ConfigureVf, CreateAh, CreateCq,
    CreateEq, CreateMr, CreateQp, CreateSrq, ModifyCq, ModifyPort, ModifyQp, ModifySrq,
    MulticastGroup, ObjectOutput, ObjectReference, OutputBuffer, ReregisterMr, ResizeCq, SetFilter,
    SetGid, Status,
};

/// Why a command is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What the completion says.
    pub status: Status,
    /// Byte offset of the refused argument in the command; [`ATTRIBUTE`] plus its offset for one
    /// in a structure that the command points to; 0 if it is none.
    pub syndrome: u32,
}

/// Added to the offset of an argument in a structure that the command points to.
pub(super) const ATTRIBUTE: u32 = 0x100;

impl Refusal {
    /// A refusal.
    #[must_use]
    pub(super) const fn new(status: Status, syndrome: u32) -> Self {
        Self { status, syndrome }
    }
}

/// Byte offset in the command of a field of its body.
macro_rules! argument {
    ($body:ident, $($field:tt).+) => {{
        const OFFSET: usize = 8 + core::mem::offset_of!($body, $($field).+);
        OFFSET as u32
    }};
}
pub(super) use argument;

/// Results of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    /// result0.
    pub result0: u64,
    /// result1.
    pub result1: u64,
}

impl Reply {
    /// A reply with one number.
    #[must_use]
    pub(super) fn number(number: u32) -> Self {
        Self {
            result0: number.into(),
            result1: 0,
        }
    }
}

/// A command that this function knows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    /// Does nothing.
    Nop,
    /// QueryDevice.
    QueryDevice(OutputBuffer),
    /// QueryPort.
    QueryPort(OutputBuffer),
    /// ModifyPort.
    ModifyPort(ModifyPort),
    /// QueryCounters.
    QueryCounters(OutputBuffer),
    /// ConfigureCongestion.
    ConfigureCongestion(ConfigureCongestion),
    /// QueryCongestion.
    QueryCongestion(OutputBuffer),
    /// SetGid.
    SetGid(SetGid),
    /// QueryGid.
    QueryGid(ObjectOutput),
    /// AllocDoorbellPage.
    AllocDoorbellPage,
    /// FreeDoorbellPage.
    FreeDoorbellPage(u32),
    /// AllocPd.
    AllocPd,
    /// FreePd.
    FreePd(u32),
    /// Creates an object that has pages, or gives it others.
    Create(Create),
    /// AllocMr.
    AllocMr(AllocMr),
    /// DestroyMr.
    DestroyMr(u32),
    /// QueryMr.
    QueryMr(ObjectOutput),
    /// AllocMw.
    AllocMw(AllocMw),
    /// FreeMw.
    FreeMw(u32),
    /// DestroyEq.
    DestroyEq(u32),
    /// SetAsyncEq.
    SetAsyncEq(u32),
    /// QueryEq.
    QueryEq(ObjectOutput),
    /// DestroyCq.
    DestroyCq(u32),
    /// ModifyCq.
    ModifyCq(ModifyCq),
    /// QueryCq.
    QueryCq(ObjectOutput),
    /// DestroySrq.
    DestroySrq(u32),
    /// ModifySrq.
    ModifySrq(ModifySrq),
    /// QuerySrq.
    QuerySrq(ObjectOutput),
    /// AllocXrcd.
    AllocXrcd,
    /// FreeXrcd.
    FreeXrcd(u32),
    /// DestroyQp.
    DestroyQp(u32),
    /// ModifyQp.
    ModifyQp(ModifyQp),
    /// QueryQp.
    QueryQp(ObjectOutput),
    /// CreateAh.
    CreateAh(CreateAh),
    /// DestroyAh.
    DestroyAh(u32),
    /// QueryAh.
    QueryAh(ObjectOutput),
    /// AttachMulticast.
    AttachMulticast(MulticastGroup),
    /// DetachMulticast.
    DetachMulticast(MulticastGroup),
    /// SetFilter.
    SetFilter(SetFilter),
    /// ClearFilter.
    ClearFilter(u32),
    /// ConfigureVf.
    ConfigureVf(ConfigureVf),
    /// QueryVf.
    QueryVf(ObjectOutput),
}

/// A command that brings an object's pages.
#[derive(Clone, Copy, Debug)]
pub(super) enum Create {
    /// CreateMr.
    Mr(CreateMr),
    /// ReregisterMr.
    MrPages(ReregisterMr),
    /// CreateEq.
    Eq(CreateEq),
    /// CreateCq.
    Cq(CreateCq),
    /// ResizeCq.
    CqPages(ResizeCq),
    /// CreateSrq.
    Srq(CreateSrq),
    /// CreateQp.
    Qp(CreateQp),
}

/// Parses a command.
///
/// # Errors
/// If the opcode is unknown, or reserved for something that the function cannot do.
pub(super) fn parse(command: &Command) -> Result<Request, Refusal> {
    use AdminOpcode as Op;
    let opcode = Op::from_raw(command.header.opcode).ok_or(Refusal::new(Status::BadOpcode, 0))?;
    let object = || body::<ObjectReference>(command).object;
    Ok(match opcode {
        Op::Nop => Request::Nop,
        Op::QueryDevice => Request::QueryDevice(body(command)),
        Op::QueryPort => Request::QueryPort(body(command)),
        Op::ModifyPort => Request::ModifyPort(body(command)),
        Op::QueryCounters => Request::QueryCounters(body(command)),
        Op::ConfigureCongestion => Request::ConfigureCongestion(body(command)),
        Op::QueryCongestion => Request::QueryCongestion(body(command)),
        Op::SetGid => Request::SetGid(body(command)),
        Op::QueryGid => Request::QueryGid(body(command)),
        Op::AllocDoorbellPage => Request::AllocDoorbellPage,
        Op::FreeDoorbellPage => Request::FreeDoorbellPage(object()),
        Op::AllocPd => Request::AllocPd,
        Op::FreePd => Request::FreePd(object()),
        Op::CreateMr => Request::Create(Create::Mr(body(command))),
        Op::DestroyMr => Request::DestroyMr(object()),
        Op::QueryMr => Request::QueryMr(body(command)),
        Op::AllocMr => Request::AllocMr(body(command)),
        Op::ReregisterMr => Request::Create(Create::MrPages(body(command))),
        Op::AllocMw => Request::AllocMw(body(command)),
        Op::FreeMw => Request::FreeMw(object()),
        Op::CreateEq => Request::Create(Create::Eq(body(command))),
        Op::DestroyEq => Request::DestroyEq(object()),
        Op::SetAsyncEq => Request::SetAsyncEq(object()),
        Op::CreateCq => Request::Create(Create::Cq(body(command))),
        Op::QueryEq => Request::QueryEq(body(command)),
        Op::ResizeCq => Request::Create(Create::CqPages(body(command))),
        Op::ModifyCq => Request::ModifyCq(body(command)),
        Op::DestroyCq => Request::DestroyCq(object()),
        Op::QueryCq => Request::QueryCq(body(command)),
        Op::CreateSrq => Request::Create(Create::Srq(body(command))),
        Op::DestroySrq => Request::DestroySrq(object()),
        Op::ModifySrq => Request::ModifySrq(body(command)),
        Op::QuerySrq => Request::QuerySrq(body(command)),
        Op::AllocXrcd => Request::AllocXrcd,
        Op::FreeXrcd => Request::FreeXrcd(object()),
        Op::CreateQp => Request::Create(Create::Qp(body(command))),
        Op::DestroyQp => Request::DestroyQp(object()),
        Op::ModifyQp => Request::ModifyQp(body(command)),
        Op::QueryQp => Request::QueryQp(body(command)),
        Op::CreateAh => Request::CreateAh(body(command)),
        Op::DestroyAh => Request::DestroyAh(object()),
        Op::QueryAh => Request::QueryAh(body(command)),
        Op::AttachMulticast => Request::AttachMulticast(body(command)),
        Op::DetachMulticast => Request::DetachMulticast(body(command)),
        Op::SetFilter => Request::SetFilter(body(command)),
        Op::ClearFilter => Request::ClearFilter(object()),
        Op::ConfigureVf => Request::ConfigureVf(body(command)),
        Op::QueryVf => Request::QueryVf(body(command)),
        Op::SetVfQuota => return Err(Refusal::new(Status::Unsupported, 0)),
    })
}

/// The first bytes of the body as a structure, which is not larger than the body.
fn body<T: Pod>(command: &Command) -> T {
    const { assert!(size_of::<T>() <= size_of::<[u64; 7]>()) };
    let bytes: &[u8] = bytemuck::bytes_of(&command.body);
    bytes
        .get(..size_of::<T>())
        .map_or_else(T::zeroed, bytemuck::pod_read_unaligned)
}

/// A refusal of the argument at `at`.
pub(super) const fn bad(at: u32) -> Refusal {
    Refusal::new(Status::BadArgument, at)
}

/// A refusal of the number at `at`.
pub(super) const fn no_such(at: u32) -> Refusal {
    Refusal::new(Status::NoSuchObject, at)
}
