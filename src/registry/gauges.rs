//! Pure: figures about what is there now.

/// Figures that are read where they live.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Live missions by state.
    pub missions: Vec<(&'static str, u64)>,
    /// Registered executors.
    pub executors: u64,
    /// Those whose line is open.
    pub connected: u64,
    /// Observers.
    pub observers: u64,
    /// Dropped frames by reason.
    pub dropped: Vec<(&'static str, u64)>,
}
