//! Errors as the firmware names them: it only asks which address could not be reached.

use vrnic_firmware::host;

use super::{CopyError, DmaError};

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
