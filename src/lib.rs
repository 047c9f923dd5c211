//! Rotates Kosli service-account API keys for AWS Secrets Manager.

pub mod budget;
pub mod clock;
pub mod config;
pub mod document;
pub mod error;
pub mod event;
pub mod http_client;
pub mod identity;
pub mod kosli;
pub mod log;
pub mod marker;
pub mod metrics;
pub mod rotation;
pub mod secrets_manager;
pub mod staging;
