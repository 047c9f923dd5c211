//! Secrets Manager, Kosli and the Lambda Runtime API on one machine.
//!
//! Both services are state machines without I/O; everything that waits, listens or runs a process is around them.
//! Reading order:
//!
//! - [`clock`]: the time that everybody here shares
//! - [`secrets_manager`] and [`kosli`]: the two services
//! - `call`: what is known of one call to them
//! - `hook`: who may watch or hold a call
//! - `reply`: what the client gets to see of an answer
//! - `emulator`: the machine: both services behind one lock, and the way of a call
//! - `server`: the sockets in front of it
//! - [`tls`]: HTTPS in front of them, where it is asked for
//! - [`faults`]: what can go wrong with a call
//! - [`runtime_api`]: what a function that polls is told, and what it reports
//! - [`process`]: the function's executable, run as Lambda runs it
//! - [`lambda_endpoint`]: the same function behind an address that invokes it as Lambda's does, `sam local start-lambda` for one
//! - [`rotation`]: what Secrets Manager does once `RotateSecret` has been called
//! - `control`: what a person may see and change over HTTP
//! - [`page`]: the same for a browser, with buttons
//! - [`demo`]: one rotation, told as it happens

mod call;
pub mod clock;
mod control;
pub mod demo;
mod emulator;
mod fault_plan;
pub mod faults;
mod hook;
pub mod kosli;
pub mod lambda_endpoint;
pub mod page;
pub mod process;
mod quota;
mod reply;
pub mod rotation;
pub mod runtime_api;
pub mod secrets_manager;
mod server;
pub mod tls;

pub use call::{Call, Service};
pub use clock::Clock;
pub use emulator::{Aside, Emulator};
pub use fault_plan::FaultPlan;
pub use faults::Fault;
pub use hook::{BoxFuture, Hook};
pub use tls::Identity;
