//! What runs on the NIC.
#![no_std]
