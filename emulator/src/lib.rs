//! Secrets Manager, Kosli and the Lambda Runtime API on one machine.

pub mod clock;
