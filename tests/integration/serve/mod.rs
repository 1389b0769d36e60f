//! The registry behind real sockets. The executors here are foreign programs, played by `peer`.

mod dispatch;
mod durability;
mod events;
mod executors;
mod missions;
pub(crate) mod peer;
mod sockets;
