//! The registry behind real sockets. The executors here are foreign programs, played by `peer`.

mod dispatch;
mod durability;
mod events;
mod executors;
mod guards;
mod limits;
mod missions;
mod notices;
mod openapi;
pub(crate) mod peer;
mod process;
mod reading;
mod sockets;
mod webhooks;
