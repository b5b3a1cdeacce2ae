//! The driver core.
#![no_std]
