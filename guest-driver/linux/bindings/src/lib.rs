//! The kernel's declarations, made from its headers when the module is built.
#![no_std]
#![allow(warnings, clippy::all, clippy::pedantic)]

include!(env!("VRNIC_BINDINGS"));
