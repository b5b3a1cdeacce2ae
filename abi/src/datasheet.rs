//! The tables of the datasheet, as Markdown.
//!
//! [`sections`] yields each table with the name under which `docs/programming-interface.md`
//! includes it.

use core::fmt;

use crate::{Codes, Layout, Register};
use crate::{admin, counter, cqe, eqe, object, registers, wqe};

/// A table that prints itself as Markdown.
#[derive(Clone, Copy, Debug)]
pub enum Table {
    /// A register block.
    Registers(&'static [Register]),
    /// A structure.
    Layout(&'static Layout),
    /// Codes or bit numbers.
    Codes(&'static Codes),
}

/// All tables with their names, in no particular order.
#[must_use]
pub fn sections() -> &'static [(&'static str, Table)] {
    macro_rules! tables {
        (layouts: $($module:ident::$layout:ident),+; codes: $($cmodule:ident::$codes:ident),+;) => {
            &[
                ("registers", Table::Registers(registers::ALL)),
                $( (stringify!($layout), Table::Layout(&$module::$layout::LAYOUT)), )+
                $( (stringify!($codes), Table::Codes(&$cmodule::$codes::CODES)), )+
            ]
        };
    }
    tables! {
        layouts:
            admin::CommandHeader, admin::Command, admin::Completion, admin::Buffer,
            admin::ConfigureCongestion, admin::AllocMr, admin::AllocMw, admin::ResizeCq, admin::ModifyCq,
            admin::CreateSrq, admin::ModifySrq, admin::CreateAh, admin::MulticastGroup, admin::SetFilter,
            object::CongestionAttributes, object::SrqAttributes, object::AhAttributes,
            object::EqAttributes, wqe::XrcSegment, wqe::FlushSegment, wqe::FastRegisterSegment,
            wqe::BindSegment, wqe::SegmentationSegment,
            admin::ObjectReference, admin::OutputBuffer, admin::ObjectOutput, admin::ModifyPort,
            admin::SetGid, admin::CreateMr, admin::ReregisterMr, admin::CreateEq, admin::CreateCq, admin::CreateQp,
            admin::ModifyQp, admin::ConfigureVf, object::VfAttributes, object::DeviceAttributes, object::PortAttributes, object::GidEntry,
            object::MrAttributes, object::CqAttributes, object::AddressVector,
            object::QpAttributes, wqe::ControlSegment, wqe::RemoteSegment, wqe::AtomicSegment,
            wqe::DatagramSegment, wqe::DataSegment, cqe::CompletionEntry, eqe::EventEntry;
        codes:
            admin::CongestionFlags, admin::WindowType, admin::SrqType, admin::FilterType,
            admin::FilterFlags, object::KeyType, wqe::FlushPlacement, wqe::FlushExtent,
            registers::DeviceState, registers::HealthCode, registers::Capabilities,
            admin::AdminOpcode, admin::Status, admin::GidType, admin::AccessFlags, admin::QpType,
            admin::QpFlags, admin::VfSettings, admin::VfFlags, admin::VfLink, object::PortState, object::PathMtu, object::QpState,
            object::MigrationState, object::QpMask, wqe::WqeOpcode, wqe::WqeFlags,
            cqe::CompletionOpcode, cqe::CompletionStatus, cqe::CompletionFlags, eqe::EventType,
            counter::Counter;
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registers(registers) => write_registers(f, registers),
            Self::Layout(layout) => write_layout(f, layout),
            Self::Codes(codes) => write_codes(f, codes),
        }
    }
}

fn write_doc(f: &mut fmt::Formatter<'_>, lines: &[&str]) -> fmt::Result {
    for (n, line) in lines.iter().enumerate() {
        let line = line.trim();
        write!(f, "{}{}", if n == 0 { "" } else { " " }, Unlinked(line))?;
    }
    Ok(())
}

/// A line of documentation without the brackets of links between items.
struct Unlinked<'a>(&'a str);

impl fmt::Display for Unlinked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in self.0.split("[`") {
            let mut halves = piece.splitn(2, "`]");
            let (first, second) = (halves.next().unwrap_or(""), halves.next());
            f.write_str(first)?;
            if let Some(rest) = second {
                f.write_str(rest)?;
            }
        }
        Ok(())
    }
}

fn write_registers(f: &mut fmt::Formatter<'_>, registers: &[Register]) -> fmt::Result {
    writeln!(f, "| Offset | Bits | Name | Access | Meaning |")?;
    writeln!(f, "|---|---|---|---|---|")?;
    for register in registers {
        let access = register.access.name();
        write!(
            f,
            "| `{:#05x}` | 31:0 | **{}** | {access} | ",
            register.offset, register.name
        )?;
        write_doc(f, register.doc)?;
        writeln!(f, " |")?;
        for field in register.fields {
            write!(
                f,
                "| | {}:{} | {} | {access} | ",
                field.high, field.low, field.name
            )?;
            write_doc(f, field.doc)?;
            writeln!(f, " |")?;
        }
    }
    Ok(())
}

fn write_layout(f: &mut fmt::Formatter<'_>, layout: &Layout) -> fmt::Result {
    write_doc(f, layout.doc)?;
    writeln!(f, " Size: {} bytes.\n", layout.size)?;
    writeln!(f, "| Offset | Size | Field | Meaning |")?;
    writeln!(f, "|---|---|---|---|")?;
    for field in layout.fields {
        write!(
            f,
            "| `{:#04x}` | {} | `{}` | ",
            field.offset, field.size, field.name
        )?;
        write_doc(f, field.doc)?;
        writeln!(f, " |")?;
    }
    Ok(())
}

fn write_codes(f: &mut fmt::Formatter<'_>, codes: &Codes) -> fmt::Result {
    write_doc(f, codes.doc)?;
    let number = if codes.bits { "Bit" } else { "Value" };
    writeln!(f, "\n\n| {number} | Name | Meaning |")?;
    writeln!(f, "|---|---|---|")?;
    for code in codes.codes {
        if codes.bits {
            write!(f, "| {} | `{}` | ", code.value, code.name)?;
        } else {
            write!(f, "| {:#x} | `{}` | ", code.value, code.name)?;
        }
        write_doc(f, code.doc)?;
        writeln!(f, " |")?;
    }
    Ok(())
}
