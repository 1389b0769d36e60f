//! Command: the registry under load, beside bare servers that answer the same and do nothing.
//!
//! `cargo bench --bench registry [-- dispatches|events|start|growth|idle …]`. The registry is the real binary in a process of
//! its own, with its store on the disk of the temporary folder; callers, executors and observers are in this process.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement that cannot go on must end loudly; it prints its figures; its peers are no tasks of the program"
)]

mod dispatches;
mod events;
mod idle;
mod peers;
mod process;
mod stored;

fn main() {
    aiwg_rs::net::descriptors::raise_limit();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if wants("dispatches") {
            dispatches::measure().await;
        }
        if wants("events") {
            events::measure().await;
        }
        if wants("start") {
            stored::measure_start().await;
        }
        if wants("growth") {
            stored::measure_growth().await;
        }
        if wants("idle") {
            idle::measure().await;
        }
    });
}
