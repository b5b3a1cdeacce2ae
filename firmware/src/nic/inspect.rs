//! What whoever operates the NIC can see of it.

use super::{FunctionId, Nic};
use crate::frontend::Function;

impl FunctionId {
    /// The name with this number, for [`Nic::add_function_as`].
    #[must_use]
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// The number behind the name: unique among the functions that the NIC has, and given again
    /// once the function is gone.
    #[must_use]
    pub const fn index(self) -> u16 {
        self.0
    }
}

impl<H> Nic<H> {
    /// All functions.
    pub fn functions(&self) -> impl Iterator<Item = (FunctionId, &Function)> {
        let functions = (0..=u16::MAX).zip(&self.functions);
        functions.filter_map(|(index, function)| Some((FunctionId(index), function.as_ref()?)))
    }

    /// Whether the port has a link, as the functions were told.
    #[must_use]
    pub const fn is_link_up(&self) -> bool {
        self.shared.link_up
    }

    /// Speed that the port reports, in Mbit/s.
    #[must_use]
    pub const fn speed(&self) -> u32 {
        self.speed
    }
}
