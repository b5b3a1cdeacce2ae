//! Requests to calls of the [`Device`], checked against what it said of
//! itself and against what the client mapped.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use crate::device::{Device, DmaMap, DmaUnmap, IrqData, SetIrqs};
use crate::request::Request;
use crate::session::Active;
use crate::wire::Fixed;
use crate::wire::access::{RegionAccess, WriteMulti};
use crate::wire::device::{self as device_wire, DeviceInfo};
use crate::wire::irq::IrqInfo;
use crate::wire::region::{self, RegionInfo};

/// The body of a reply and its descriptors.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<Arc<OwnedFd>>,
}

impl Answer {
    pub(crate) fn bytes(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            fds: Vec::new(),
        }
    }

    fn emit(emit: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = Vec::new();
        emit(&mut bytes);
        Self::bytes(bytes)
    }
}

/// What a request can touch.
pub(crate) struct Dispatch<'a, D> {
    pub(crate) active: &'a mut Active,
    pub(crate) device: &'a mut D,
}

impl<D: Device> Dispatch<'_, D> {
    /// Requests that are answered at once.
    pub(crate) fn immediate(&mut self, request: Request<'_>) -> Result<Answer, Errno> {
        match request {
            Request::DmaMap(map) => self.map(map),
            Request::GetInfo => Ok(self.info()),
            Request::GetRegionInfo { index, argsz } => self.region_info(index, argsz),
            Request::GetRegionIoFds(index) => self.region_io_fds(index),
            Request::GetIrqInfo(index) => self.irq_info(index),
            Request::SetIrqs(set) => self.set_irqs(set),
            Request::RegionRead(access) => self.region_read(access),
            Request::RegionWrite(access, data) => {
                self.write(access, data)?;
                Ok(Answer::emit(|out| access.emit(out)))
            }
            Request::RegionWriteMulti(writes) => self.write_multi(writes),
            // Deferred; the session sees to them.
            Request::DmaUnmap(..) | Request::Reset => Err(Errno::INVAL),
        }
    }

    fn map(&mut self, map: DmaMap) -> Result<Answer, Errno> {
        let caps = &self.active.caps;
        // The lowest bit is the smallest page.
        let page = caps.pgsizes & caps.pgsizes.wrapping_neg();
        let offset = if map.fd.is_some() { map.offset } else { 0 };
        if (map.iova | map.size | offset) & page.wrapping_sub(1) != 0 {
            return Err(Errno::INVAL);
        }
        let (iova, size) = (map.iova, map.size);
        let mappings = &mut self.active.mappings;
        mappings.check(iova, size, caps.max_dma_maps)?;
        self.device.dma_map(map)?;
        mappings.add(iova, size);
        Ok(Answer::default())
    }

    /// Forgets mappings; the device is then to be told.
    pub(crate) fn unmap(&mut self, unmap: DmaUnmap, can_defer: bool) -> Result<(), Errno> {
        if !can_defer {
            return Err(Errno::BUSY);
        }
        self.active.mappings.remove(unmap)
    }

    /// Whether the device is to be reset.
    pub(crate) fn reset(&mut self, can_defer: bool) -> Result<(), Errno> {
        if !self.device.info().resettable {
            return Err(Errno::NOTSUP);
        }
        if !can_defer {
            return Err(Errno::BUSY);
        }
        Ok(())
    }

    fn info(&self) -> Answer {
        let info = self.device.info();
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let info = DeviceInfo {
            argsz: DeviceInfo::SIZE,
            flags: flag(info.pci, device_wire::FLAG_PCI)
                | flag(info.resettable, device_wire::FLAG_RESET),
            num_regions: info.num_regions,
            num_irqs: info.num_irqs,
        };
        Answer::emit(|out| info.emit(out))
    }

    /// A reply that the client has no room for is cut to its fixed part, which
    /// says how much room it takes; `cap_offset` stays, since QEMU's client
    /// checks it before it asks again. The descriptor comes each time.
    fn region_info(&self, index: u32, argsz: u32) -> Result<Answer, Errno> {
        if index >= self.device.info().num_regions {
            return Err(Errno::INVAL);
        }
        let region = self.device.region(index);
        let can_map = self.active.caps.max_msg_fds > 0;
        let mmap = region.mmap.filter(|_| can_map && region.size > 0);
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let mut info = RegionInfo {
            argsz: RegionInfo::SIZE,
            flags: flag(region.readable, region::FLAG_READ)
                | flag(region.writable, region::FLAG_WRITE)
                | flag(mmap.is_some(), region::FLAG_MMAP),
            index,
            cap_offset: 0,
            size: region.size,
            offset: mmap.as_ref().map_or(0, |m| m.offset),
        };
        let areas = mmap.as_ref().map_or(&[][..], |m| &m.areas);
        if !areas.is_empty() {
            let caps = region::sparse_mmap_size(areas.len()).ok_or(Errno::OVERFLOW)?;
            info.argsz = info.argsz.checked_add(caps).ok_or(Errno::OVERFLOW)?;
            info.flags |= region::FLAG_CAPS;
            info.cap_offset = RegionInfo::SIZE;
        }
        let mut answer = Answer::emit(|out| {
            info.emit(out);
            if !areas.is_empty() && argsz >= info.argsz {
                region::emit_sparse_mmap(out, areas.iter().map(|a| (a.offset, a.size)));
            }
        });
        answer.fds.extend(mmap.map(|m| m.fd));
        Ok(answer)
    }

    fn region_io_fds(&self, index: u32) -> Result<Answer, Errno> {
        if index >= self.device.info().num_regions {
            return Err(Errno::INVAL);
        }
        Err(Errno::NOTSUP)
    }

    fn irq_info(&self, index: u32) -> Result<Answer, Errno> {
        if index >= self.device.info().num_irqs {
            return Err(Errno::INVAL);
        }
        let irq = self.device.irq(index);
        let info = IrqInfo {
            argsz: IrqInfo::SIZE,
            flags: irq.flags,
            index,
            count: irq.count,
        };
        Ok(Answer::emit(|out| info.emit(out)))
    }

    fn set_irqs(&mut self, set: SetIrqs) -> Result<Answer, Errno> {
        if set.index >= self.device.info().num_irqs {
            return Err(Errno::INVAL);
        }
        let available = self.device.irq(set.index).count;
        let end = set.start.checked_add(set.count).ok_or(Errno::INVAL)?;
        if set.start >= available || end > available {
            return Err(Errno::INVAL);
        }
        if set.count == 0 && !matches!(set.data, IrqData::None) {
            return Err(Errno::INVAL);
        }
        self.device.set_irqs(set)?;
        Ok(Answer::default())
    }

    fn region_read(&mut self, access: RegionAccess) -> Result<Answer, Errno> {
        let length = self.check(access, |region| region.readable)?;
        let mut bytes = Vec::with_capacity(length.saturating_add(RegionAccess::SIZE as usize));
        access.emit(&mut bytes);
        bytes.resize(length.saturating_add(RegionAccess::SIZE as usize), 0);
        if let Some(data) = bytes.get_mut(RegionAccess::SIZE as usize..) {
            if !data.is_empty() {
                self.device
                    .region_read(access.region, access.offset, data)?;
            }
        }
        Ok(Answer::bytes(bytes))
    }

    /// On failure of a later write, the reply counts those done before.
    fn write_multi(&mut self, writes: WriteMulti<'_>) -> Result<Answer, Errno> {
        if !self.active.caps.write_multiple {
            return Err(Errno::NOTSUP);
        }
        let mut done = 0;
        for write in writes {
            let data = write.data().ok_or(Errno::INVAL);
            match data.and_then(|data| self.write(write.access, data)) {
                Ok(()) => done += 1,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(Answer::emit(|out| WriteMulti::emit_reply(out, done)))
    }

    fn write(&mut self, access: RegionAccess, data: &[u8]) -> Result<(), Errno> {
        self.check(access, |region| region.writable)?;
        if data.is_empty() {
            return Ok(());
        }
        self.device.region_write(access.region, access.offset, data)
    }

    /// Checks an access and returns its length.
    fn check(
        &self,
        access: RegionAccess,
        allowed: impl FnOnce(&crate::device::RegionAccess) -> bool,
    ) -> Result<usize, Errno> {
        if access.region >= self.device.info().num_regions
            || access.count > self.active.caps.max_data_xfer_size
        {
            return Err(Errno::INVAL);
        }
        let region = self.device.region_access(access.region);
        let end = access.offset.checked_add(u64::from(access.count));
        if end.is_none_or(|end| end > region.size) || !allowed(&region) {
            return Err(Errno::INVAL);
        }
        usize::try_from(access.count).map_err(|_| Errno::INVAL)
    }
}
