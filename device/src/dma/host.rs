//! Guest memory as the firmware asks for it.

use vrnic_firmware::host;

use super::{CopyError, DmaError, GuestMemory};

impl From<DmaError> for host::DmaError {
    fn from(error: DmaError) -> Self {
        Self {
            address: error.address(),
        }
    }
}

impl From<CopyError> for host::CopyError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Source(error) => Self::Source(error.into()),
            CopyError::Target(error) => Self::Target(error.into()),
        }
    }
}

impl host::Memory for GuestMemory {
    #[inline]
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), host::DmaError> {
        Ok(self.read(address, buffer)?)
    }

    #[inline]
    fn write(&self, address: u64, data: &[u8]) -> Result<(), host::DmaError> {
        Ok(self.write(address, data)?)
    }

    #[inline]
    fn write_publish(&self, address: u64, data: &[u8]) -> Result<(), host::DmaError> {
        Ok(self.write_publish(address, data)?)
    }

    #[inline]
    fn copy_to(
        &self,
        from: u64,
        other: &Self,
        to: u64,
        length: usize,
    ) -> Result<(), host::CopyError> {
        Ok(self.copy_to(from, other, to, length)?)
    }

    fn fetch_add(&self, address: u64, value: u64) -> Result<u64, host::DmaError> {
        Ok(self.fetch_add(address, value)?)
    }

    fn compare_swap(&self, address: u64, compare: u64, swap: u64) -> Result<u64, host::DmaError> {
        Ok(self.compare_swap(address, compare, swap)?)
    }
}
