//! Stage: resources before work, given back in reverse.
//!
//! A *provider* hands out a *lease* of one kind of resource; the *orchestrator* combines the leases that a mission asks for
//! into one environment. Hard constraints (a lease's allocation) are facts that hold whatever the agent does; soft
//! constraints (environment variables, sentences for the prompt, metadata) tell the agent about them. Nothing above
//! the providers knows their names.

pub mod environment_record;
pub mod git;
pub mod git_save;
pub mod git_worktree;
pub mod inventory;
pub mod options;
pub mod orchestrator;
pub mod path_rules;
pub mod plan;
pub mod port_block;
pub mod port_lock;
pub mod port_range;
pub mod provider;
pub mod repository_queue;
pub mod worktree_include;
pub mod worktree_lease;
