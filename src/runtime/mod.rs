//! Stage: what every service stands on: the clock, the shutdown, the tasks.

pub mod clock;
pub mod shutdown;
pub mod tasks;
