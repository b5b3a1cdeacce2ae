//! Platforms of the driver.
