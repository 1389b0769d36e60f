//! Service: starts a mission's runs: what is to be run, where, and in which environment.

use super::Unit;
use crate::executor::agent_runtime::COMMON_ENV;
use crate::executor::hitl_files;
use crate::executor::log_file;
use crate::executor::process_table;
use crate::executor::run::{Run, RunKind};
use crate::executor::runner_protocol::{RunOrder, ToRunner};
use std::collections::BTreeMap;
use std::path::PathBuf;

impl Unit {
    /// Starts a run, or says why that cannot be.
    pub(super) async fn start(&mut self, run: &Run) -> Result<(), String> {
        let is_written = self.promised.take().as_ref() == Some(run);
        self.record.run = Some(run.clone());
        self.record.boot_id = Some(process_table::boot_id());
        // A new runner starts up while this goes to the disk. It does nothing before its order comes, and that comes only
        // once a restart would know of it and not start a second one; the end of the run before this one, which its runner
        // may keep, is written down with it.
        let written = (!is_written).then(|| self.write_durably());
        let order = self.prepare(run);
        let runners = self.shared.runners.clone();
        let link = self.told.take().map_or_else(|| runners.take(), Ok);
        if let Some(written) = written {
            written.await.map_err(|error| error.to_string())?;
        }
        let mut link = link.map_err(|error| format!("start its runner: {error}"))?;
        let order = ToRunner::Run(Box::new(order?));
        if link.send(&order).await.is_err() {
            // One that had waited for work may be gone.
            link = runners.start().map_err(|error| format!("start its runner: {error}"))?;
            link.send(&order).await.map_err(|error| format!("give its runner the order: {error}"))?;
        }
        self.link = Some(link);
        Ok(())
    }

    fn prepare(&self, run: &Run) -> Result<RunOrder, String> {
        let log = self.shared.store.directory_of(&self.record.mission_id);
        self.shared.store.make_questions(&self.record.mission_id).map_err(|error| error.to_string())?;
        let working = self
            .environment
            .as_ref()
            .map_or_else(|| self.shared.config.workspace.clone(), |e| e.snapshot().working_directory);
        let order = self.run_order(run, working);
        if run.kind != RunKind::Agent || run.iteration > 1 {
            drop(log_file::remark(&log, &format!("{} (round {})", run.name(), run.iteration)));
        }
        Ok(order)
    }

    fn run_order(&self, run: &Run, directory: PathBuf) -> RunOrder {
        let runtime = &self.order.runtime;
        let inherited = COMMON_ENV.iter().copied().chain(runtime.pass_env.iter().map(String::as_str));
        let mut env: BTreeMap<String, String> = inherited
            .filter_map(|name| std::env::var(name).ok().map(|value| (name.to_owned(), value)))
            .collect();
        env.extend(runtime.env.clone());
        env.extend(self.env.clone());
        env.insert(hitl_files::VARIABLE.to_owned(), self.hitl_directory().display().to_string());
        env.insert("AIWG_MISSION_ID".to_owned(), self.record.mission_id.as_str().to_owned());
        env.insert("AIWG_SESSION_ID".to_owned(), self.record.session_id.clone());
        let sections = self
            .environment
            .as_ref()
            .map(|environment| environment.snapshot().soft_constraints.prompt_sections)
            .unwrap_or_default();
        let command = match run.kind {
            RunKind::Setup => self.order.setup.clone(),
            RunKind::Check => {
                ["/bin/sh", "-c", self.order.check.as_deref().unwrap_or("true")].map(str::to_owned).to_vec()
            }
            RunKind::Agent => {
                let prompt = self.order.prompt(&sections, run.unmet.as_deref());
                runtime.arguments(&prompt, &self.order.objective)
            }
        };
        let is_agent = run.kind == RunKind::Agent;
        RunOrder {
            files: self.shared.store.run_files(&self.record, run),
            run_id: self.record.run_id.clone(),
            command,
            directory,
            env,
            terminal: is_agent && runtime.terminal,
            json_progress: is_agent && runtime.json_progress,
            log_limit_bytes: self.shared.config.log_limit_bytes,
            grace_ms: u64::try_from(self.shared.config.grace.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
