//! The programming interface of vrnic.
#![no_std]
#![forbid(unsafe_code)]
