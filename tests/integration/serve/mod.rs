//! The registry behind real sockets. The executors here are foreign programs, played by `peer`.

mod browser;
mod callers;
mod conformance;
mod crowd;
mod dashboard;
mod dispatch;
mod durability;
mod events;
mod executors;
mod faults;
mod fleet;
pub(crate) mod fuzz;
mod guards;
mod kills;
mod limits;
mod missions;
mod notices;
mod openapi;
pub(crate) mod peer;
mod process;
mod reader;
mod reading;
mod schemathesis;
mod secrets;
mod sockets;
mod tls;
mod webhooks;
