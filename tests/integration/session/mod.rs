//! The folder: sessions that others write too, writers that are killed, disks that are full.

mod inbox;
mod interleaving;
pub(crate) mod stress;
mod trouble;
