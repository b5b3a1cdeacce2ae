//! Clients that break every rule.
