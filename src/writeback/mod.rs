//! Stage: what happened, back into `session.json`, and what people write there, out to the executor.
//!
//! One desk per session owns everything that touches the session's files. Nobody else reads or writes them, so there is
//! one order of things per session, and what another program wrote is noticed exactly where it is read.

pub mod arrivals;
pub mod desk;
pub mod merge;
pub mod traces;
pub mod whereabouts;
pub mod worker;
