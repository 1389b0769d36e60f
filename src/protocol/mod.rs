//! Stage: the shapes on the wire, one definition for both ends of each link.
//!
//! Liberal on input: unknown fields are taken and kept, values that only inform may be missing or odd. Strict on output:
//! nothing leaves that the contract does not name. A refusal always names the field.

pub mod envelope;
pub mod executor_v1;
pub mod field;
pub mod notice;
pub mod problem;
pub mod route;
