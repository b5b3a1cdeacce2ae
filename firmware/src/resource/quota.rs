//! How much of everything one function may have.
//!
//! A [`Quota`] is what whoever operates the NIC gives to a function: for each [`Resource`] a number
//! between what every function needs and what this firmware can serve ([`limits`]), which is also
//! what a function has until it is given less. It bounds what the function's objects cost the process.
//!
//! Invariant: what a function has is not taken away from it. Less than it has refuses it more, until
//! it has given back enough.
//!
//! Not here: when a quota may change, which is [`crate::nic::Nic::set_quota`]'s to say, and what
//! counts against it, which the tables of objects do.

use core::fmt;
use core::ops::RangeInclusive;

use vrnic_abi::doorbell;
use vrnic_abi::pci::MSIX_VECTORS;

use super::limits;

/// Declares the resources once: the variant, the field, its name, and its range.
macro_rules! resources {
    ($($(#[doc = $doc:literal])* $variant:ident $field:ident $least:literal ..= $most:expr;)*) => {
        /// What a function has a limited amount of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Resource {
            $($(#[doc = $doc])* $variant,)*
        }

        impl Resource {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its name, as the field of [`Quota`] is called.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($field),)*
                }
            }

            /// What a function can be given of it.
            #[must_use]
            pub const fn range(self) -> RangeInclusive<u32> {
                match self {
                    $(Self::$variant => $least..=$most,)*
                }
            }
        }

        /// How much a function may have of each [`Resource`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct Quota {
            $($(#[doc = $doc])* pub $field: u32,)*
        }

        impl Quota {
            /// As much as this firmware can serve.
            pub const MOST: Self = Self { $($field: $most,)* };

            /// How much of `resource`.
            #[must_use]
            pub const fn get(&self, resource: Resource) -> u32 {
                match resource {
                    $(Resource::$variant => self.$field,)*
                }
            }

            /// Changes how much of `resource`.
            pub const fn set(&mut self, resource: Resource, amount: u32) {
                match resource {
                    $(Resource::$variant => self.$field = amount,)*
                }
            }
        }
    };
}

resources! {
    /// Queue pairs; the general services interface is not counted.
    QueuePairs queue_pairs 0..=limits::QUEUE_PAIRS;
    /// Completion queues.
    CompletionQueues completion_queues 0..=limits::COMPLETION_QUEUES;
    /// Shared receive queues.
    SharedReceiveQueues shared_receive_queues 0..=limits::SHARED_RECEIVE_QUEUES;
    /// Event queues; a driver needs one for asynchronous events and one for completions.
    EventQueues event_queues 2..=limits::EVENT_QUEUES;
    /// Protection domains.
    ProtectionDomains protection_domains 0..=limits::PROTECTION_DOMAINS;
    /// XRC domains.
    XrcDomains xrc_domains 0..=limits::XRC_DOMAINS;
    /// Memory regions.
    Regions regions 0..=limits::REGIONS;
    /// Memory windows.
    Windows windows 0..=limits::WINDOWS;
    /// Address handles.
    AddressHandles address_handles 0..=limits::ADDRESS_HANDLES;
    /// Entries of the page lists of all regions and queues together.
    Pages pages 0..=limits::PAGE_LIST_ENTRIES;
    /// Doorbell pages, the driver's own one included.
    DoorbellPages doorbell_pages 1..=doorbell::PAGES;
    /// MSI-X vectors.
    Vectors vectors 1..=MSIX_VECTORS as u32;
}

impl Default for Quota {
    fn default() -> Self {
        Self::MOST
    }
}

impl Quota {
    /// Checks that every number is one that a function can be given.
    ///
    /// # Errors
    /// The first resource whose number is not.
    pub fn validate(&self) -> Result<(), QuotaError> {
        let wrong = |resource: &&Resource| !resource.range().contains(&self.get(**resource));
        match Resource::ALL.iter().find(wrong) {
            Some(resource) => Err(QuotaError::Range(*resource)),
            None => Ok(()),
        }
    }

    /// Whether MSI-X has a vector of this number.
    #[must_use]
    pub fn has_vector(&self, vector: u16) -> bool {
        u32::from(vector) < self.vectors
    }
}

/// Why a quota cannot be given to a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaError {
    /// There is no such function.
    Function,
    /// Less of a resource than every function needs, or more than there can be.
    Range(Resource),
    /// The number of MSI-X vectors of a function that is in use.
    InUse,
}

impl fmt::Display for QuotaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function => f.write_str("there is no such function"),
            Self::Range(resource) => {
                let range = resource.range();
                let (least, most) = (range.start(), range.end());
                write!(f, "{} is {least} to {most}", resource.name())
            }
            Self::InUse => f.write_str(
                "vectors cannot change while a client is attached or a driver runs the function",
            ),
        }
    }
}

impl core::error::Error for QuotaError {}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn every_resource_has_a_field_and_a_range_of_its_own() {
        for (at, resource) in Resource::ALL.iter().enumerate() {
            let most = *resource.range().end();
            let mut quota = Quota::default();
            assert_eq!(quota.get(*resource), most);
            assert_eq!(quota.validate(), Ok(()));
            for (amount, valid) in [
                (*resource.range().start(), true),
                (most, true),
                (most + 1, false),
                (u32::MAX, false),
            ] {
                quota.set(*resource, amount);
                let expected = if valid {
                    Ok(())
                } else {
                    Err(QuotaError::Range(*resource))
                };
                assert_eq!(quota.validate(), expected, "{resource:?}: {amount}");
            }
            let others = Resource::ALL.iter().enumerate().filter(|(n, _)| *n != at);
            for (_, other) in others {
                assert_eq!(quota.get(*other), *other.range().end());
                assert_ne!(other.name(), resource.name());
            }
        }
    }

    #[test]
    fn what_every_function_needs_cannot_be_taken() {
        for resource in [Resource::DoorbellPages, Resource::Vectors] {
            let mut quota = Quota::MOST;
            quota.set(resource, 0);
            let error = quota.validate().unwrap_err();
            assert_eq!(error, QuotaError::Range(resource));
            let text = error.to_string();
            assert!(text.contains(resource.name()) && text.contains(" is 1 to "));
        }
    }

    #[test]
    fn vectors_are_counted_from_zero() {
        let quota = Quota {
            vectors: 2,
            ..Quota::MOST
        };
        assert!(quota.has_vector(1) && !quota.has_vector(2));
        assert!(!quota.has_vector(u16::MAX));
    }
}
