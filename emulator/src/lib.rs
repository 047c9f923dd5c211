//! Secrets Manager, Kosli and the Lambda Runtime API on one machine.

pub mod clock;
pub mod kosli;
pub mod secrets_manager;
