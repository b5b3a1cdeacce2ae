//! Macros that define a register block, a structure or a set of codes together with its
//! description, so that code and datasheet cannot disagree.
//!
//! Each definition expands to the Rust item and to a constant table ([`Register`], [`Layout`],
//! [`Codes`]) that [`crate::datasheet`] prints.

/// Who may do what with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterAccess {
    /// Read only; writes are ignored.
    ReadOnly,
    /// Reads return what was last written.
    ReadWrite,
    /// Writing triggers an action; reads return zero.
    WriteOnly,
}

impl RegisterAccess {
    /// The abbreviation used in the datasheet.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "RO",
            Self::ReadWrite => "RW",
            Self::WriteOnly => "WO",
        }
    }
}

/// A field within a 32-bit register.
#[derive(Clone, Copy, Debug)]
pub struct RegisterField {
    /// Name, without the register's.
    pub name: &'static str,
    /// Most significant bit.
    pub high: u32,
    /// Least significant bit.
    pub low: u32,
    /// What it means.
    pub doc: &'static [&'static str],
}

impl RegisterField {
    /// The field's bits within the register.
    #[must_use]
    pub const fn mask(&self) -> u32 {
        (u32::MAX >> (31 - (self.high - self.low))) << self.low
    }

    /// The field's value in `register`.
    #[must_use]
    pub const fn get(&self, register: u32) -> u32 {
        (register & self.mask()) >> self.low
    }

    /// `value` moved to the field's place; excess bits are cut off.
    #[must_use]
    pub const fn put(&self, value: u32) -> u32 {
        (value << self.low) & self.mask()
    }
}

/// A 32-bit register of a block.
#[derive(Clone, Copy, Debug)]
pub struct Register {
    /// Name.
    pub name: &'static str,
    /// Byte offset in the BAR, a multiple of 4.
    pub offset: u32,
    /// Access.
    pub access: RegisterAccess,
    /// What it is for.
    pub doc: &'static [&'static str],
    /// Its fields; empty if the register is one number.
    pub fields: &'static [RegisterField],
}

/// A field of a structure.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name.
    pub name: &'static str,
    /// Byte offset in the structure.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// What it means.
    pub doc: &'static [&'static str],
}

/// A structure in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Name.
    pub name: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// What it is for.
    pub doc: &'static [&'static str],
    /// Its fields in ascending order of offset; `reserved` ones included.
    pub fields: &'static [Field],
}

/// One code of an enumeration.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// Name.
    pub name: &'static str,
    /// Value as it stands in memory, or number of the bit.
    pub value: u64,
    /// What it means.
    pub doc: &'static [&'static str],
}

/// An enumeration that appears in registers or structures.
#[derive(Clone, Copy, Debug)]
pub struct Codes {
    /// Name.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static [&'static str],
    /// Whether values are numbers of bits, of which several can be set.
    pub bits: bool,
    /// Its codes in ascending order.
    pub codes: &'static [Code],
}

macro_rules! access {
    (ro) => {
        $crate::RegisterAccess::ReadOnly
    };
    (rw) => {
        $crate::RegisterAccess::ReadWrite
    };
    (wo) => {
        $crate::RegisterAccess::WriteOnly
    };
}

/// Defines the 32-bit registers of a block as constants of type [`Register`], a module of field
/// constants for each register that has fields, and the table `ALL`.
macro_rules! registers {
    ($(
        $(#[doc = $doc:literal])+
        $offset:literal $access:ident $name:ident $(/ $module:ident {
            $( $(#[doc = $fdoc:literal])+ $field:ident = $high:literal : $low:literal; )+
        })? ;
    )+) => {
        $(
            $(#[doc = $doc])+
            pub const $name: $crate::Register = $crate::Register {
                name: stringify!($name),
                offset: $offset,
                access: access!($access),
                doc: &[$($doc),+],
                fields: registers!(@fields $($module)?),
            };
            const _: () = assert!($offset % 4 == 0, "registers are 4-byte aligned");
            $(
                #[doc = concat!("Fields of [`", stringify!($name), "`].")]
                pub mod $module {
                    $(
                        $(#[doc = $fdoc])+
                        pub const $field: $crate::RegisterField = $crate::RegisterField {
                            name: stringify!($field),
                            high: $high,
                            low: $low,
                            doc: &[$($fdoc),+],
                        };
                    )+
                    /// All fields, as the datasheet lists them.
                    pub const FIELDS: &[$crate::RegisterField] = &[$($field),+];
                }
            )?
        )+
        /// Every register of the block in ascending order of offset.
        pub const ALL: &[$crate::Register] = &[$($name),+];
    };
    (@fields) => { &[] };
    (@fields $module:ident) => { $module::FIELDS };
}

/// Defines a plain-old-data structure with asserted offsets and its [`Layout`].
macro_rules! layout {
    (
        $(#[doc = $doc:literal])+
        $name:ident [$size:literal] {
            $( $(#[doc = $fdoc:literal])+ $offset:literal $field:ident : $ty:ty, )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(C)]
        pub struct $name {
            $( $(#[doc = $fdoc])+ pub $field: $ty, )+
        }

        impl Default for $name {
            /// All bytes zero.
            fn default() -> Self {
                bytemuck::Zeroable::zeroed()
            }
        }

        impl $name {
            /// Size in bytes.
            pub const SIZE: usize = $size;
            /// Description for the datasheet.
            pub const LAYOUT: $crate::Layout = $crate::Layout {
                name: stringify!($name),
                size: $size,
                doc: &[$($doc),+],
                fields: &[$( $crate::Field {
                    name: stringify!($field),
                    offset: $offset,
                    size: size_of::<$ty>(),
                    doc: &[$($fdoc),+],
                } ),+],
            };
        }

        const _: () = assert!(size_of::<$name>() == $size, stringify!($name));
        $( const _: () = assert!(
            core::mem::offset_of!($name, $field) == $offset,
            concat!(stringify!($name), ".", stringify!($field))
        ); )+
    };
}

/// Defines an enumeration of codes with checked conversion from the raw integer.
macro_rules! codes {
    (
        $(#[doc = $doc:literal])+
        $name:ident : $raw:ident {
            $( $(#[doc = $cdoc:literal])+ $code:ident = $value:literal, )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr($raw)]
        pub enum $name {
            $( $(#[doc = $cdoc])+ $code = $value, )+
        }

        impl $name {
            /// Every code in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$code),+];
            /// Description for the datasheet.
            pub const CODES: $crate::Codes = $crate::Codes {
                name: stringify!($name),
                doc: &[$($doc),+],
                bits: false,
                codes: &[$( $crate::Code {
                    name: stringify!($code),
                    value: $value,
                    doc: &[$($cdoc),+],
                } ),+],
            };

            /// The code as it stands in memory.
            #[must_use]
            pub const fn raw(self) -> $raw {
                self as $raw
            }

            /// The code that `raw` stands for, or `None` if this version defines none.
            #[must_use]
            pub const fn from_raw(raw: $raw) -> Option<Self> {
                match raw {
                    $( $value => Some(Self::$code), )+
                    _ => None,
                }
            }
        }
    };
}

/// Defines a set of bits with [`bitflags`] and its [`Codes`].
macro_rules! flags {
    (
        $(#[doc = $doc:literal])+
        $name:ident : $raw:ident {
            $( $(#[doc = $cdoc:literal])+ $code:ident = $bit:literal, )+
        }
    ) => {
        bitflags::bitflags! {
            $(#[doc = $doc])+
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
            pub struct $name: $raw {
                $( $(#[doc = $cdoc])+ const $code = 1 << $bit; )+
            }
        }

        impl $name {
            /// Description for the datasheet; values are bit numbers.
            pub const CODES: $crate::Codes = $crate::Codes {
                name: stringify!($name),
                doc: &[$($doc),+],
                bits: true,
                codes: &[$( $crate::Code {
                    name: stringify!($code),
                    value: $bit,
                    doc: &[$($cdoc),+],
                } ),+],
            };
        }
    };
}
