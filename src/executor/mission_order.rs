//! Pure: what a dispatch asks of this host: which agent, which resources, which limits.

use crate::executor::agent_runtime::AgentRuntime;
use crate::executor::provision::plan::compose_prompt;
use crate::executor::provision::provider::Request;
use crate::executor::run::{Limits, Plan};
use crate::protocol::executor_v1::DEFAULT_COMPLETION;
use serde_json::Value;
use std::time::Duration;

/// What this host offers to every mission.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The agents that are there.
    pub runtimes: Vec<AgentRuntime>,
    /// The one for missions that ask for none.
    pub default_runtime: String,
    /// The resources for missions that ask for none.
    pub default_resources: Vec<Request>,
    /// Run in the working directory before the agent.
    pub setup: Vec<String>,
    /// The limits for missions that ask for none.
    pub limits: Limits,
}

impl Offer {
    /// Returns the names of the agents that are there, and whether the one for missions that ask for none is among them.
    pub fn found(&self) -> (String, bool) {
        let names: Vec<&str> = self.runtimes.iter().map(|runtime| runtime.name.as_str()).collect();
        (names.join(", "), names.contains(&self.default_runtime.as_str()))
    }
}

/// A dispatch, understood.
#[derive(Debug, Clone)]
pub struct MissionOrder {
    /// The agent.
    pub runtime: AgentRuntime,
    /// What to lease.
    pub resources: Vec<Request>,
    /// What the machine needs to know.
    pub plan: Plan,
    /// The set-up command.
    pub setup: Vec<String>,
    /// What to do.
    pub objective: String,
    /// A command that decides whether it is done.
    pub check: Option<String>,
    /// A sentence that says when it is done.
    pub criterion: Option<String>,
}

/// A mission that this host cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// That agent is not here.
    #[error("there is no runtime {asked:?} here; there are {known}")]
    Runtime {
        /// The one asked for.
        asked: String,
        /// Those that are there.
        known: String,
    },
    /// The resources cannot be read.
    #[error("metadata.resources is no array of {{kind, options}}: {problem}")]
    Resources {
        /// What is wrong.
        problem: String,
    },
}

impl Offer {
    /// Understands a dispatch body.
    ///
    /// # Errors
    /// [`OrderError`] names what is not here.
    pub fn understand(&self, payload: &Value) -> Result<MissionOrder, OrderError> {
        let metadata = payload.get("metadata").unwrap_or(&Value::Null);
        let runtime = self.runtime(payload, metadata)?;
        let resources = match metadata.get("resources") {
            None | Some(Value::Null) => self.default_resources.clone(),
            Some(asked) => serde_json::from_value(asked.clone())
                .map_err(|error| OrderError::Resources { problem: error.to_string() })?,
        };
        let text = |key: &str| payload.get(key).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
        let completion = text("completion");
        let check = completion.strip_prefix("cmd:").map(|command| command.trim().to_owned());
        let criterion = (check.is_none() && !completion.is_empty() && completion != DEFAULT_COMPLETION)
            .then(|| completion.clone());
        Ok(MissionOrder {
            plan: Plan {
                has_setup: !self.setup.is_empty(),
                has_check: check.is_some(),
                terminal: runtime.terminal,
                questions: runtime.questions.clone(),
                runtime: runtime.name.clone(),
                limits: self.limits(metadata),
            },
            runtime,
            resources,
            setup: self.setup.clone(),
            objective: text("objective"),
            check,
            criterion,
        })
    }

    fn runtime(&self, payload: &Value, metadata: &Value) -> Result<AgentRuntime, OrderError> {
        let filtered = || {
            let capabilities = payload.pointer("/executor_filter/capabilities")?.as_array()?;
            capabilities.iter().find_map(|c| c.as_str()?.strip_prefix("runtime:"))
        };
        // Other executors have agents of other names there, which say nothing about how one is run here.
        let agent = || {
            let agent = payload.pointer("/executor_filter/agent_id")?.as_str()?;
            let agent = if agent == "claude" { "claude-code" } else { agent };
            let is_one = |known: &AgentRuntime| known.name == agent;
            (self.runtimes.iter().any(is_one) || AgentRuntime::built_in().iter().any(is_one)).then_some(agent)
        };
        let asked = metadata.get("runtime").and_then(Value::as_str).or_else(filtered).or_else(agent);
        let asked = asked.unwrap_or(&self.default_runtime).trim_start_matches("runtime:");
        let name = if asked == "custom:shell" { "shell" } else { asked };
        self.runtimes
            .iter()
            .find(|runtime| runtime.name == name)
            .cloned()
            .ok_or_else(|| OrderError::Runtime { asked: asked.to_owned(), known: self.found().0 })
    }

    fn limits(&self, metadata: &Value) -> Limits {
        let budget = metadata.get("budget").unwrap_or(&Value::Null);
        let number = |value: Option<&Value>| value.and_then(Value::as_u64).filter(|number| *number > 0);
        let seconds = |value: Option<&Value>| {
            let seconds = value.and_then(Value::as_f64).filter(|seconds| *seconds > 0.0)?;
            Duration::try_from_secs_f64(seconds).ok()
        };
        let iterations = number(metadata.get("maxIterations"))
            .or(number(metadata.get("max_iterations")))
            .or(number(budget.get("attempts")));
        // A mission may ask for less than the host allows, not for more.
        let least = |asked: Option<Duration>, allowed: Option<Duration>| match (asked, allowed) {
            (Some(asked), Some(allowed)) => Some(asked.min(allowed)),
            (asked, allowed) => asked.or(allowed),
        };
        Limits {
            timeout: least(seconds(metadata.get("timeout_seconds")), self.limits.timeout),
            stall: least(seconds(metadata.get("stall_seconds")), self.limits.stall),
            iterations: iterations
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(self.limits.iterations)
                .min(1000),
            tokens: number(budget.get("tokens")).or(self.limits.tokens),
            time_budget: seconds(budget.get("wall_clock_seconds")).or(self.limits.time_budget),
            answer_within: self.limits.answer_within,
        }
    }
}

impl MissionOrder {
    /// Writes the prompt of one round.
    pub fn prompt(&self, sections: &[String], unmet: Option<&str>) -> String {
        let mut prompt = self.objective.clone();
        if let Some(criterion) = &self.criterion {
            prompt.push_str("\n\nIt is done when: ");
            prompt.push_str(criterion);
        }
        if let Some(check) = &self.check {
            prompt.push_str("\n\nIt is done when this command succeeds: ");
            prompt.push_str(check);
        }
        if let Some(unmet) = unmet {
            prompt.push_str("\n\nAn earlier round did not get there: ");
            prompt.push_str(unmet);
        }
        compose_prompt(sections, &prompt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn offer() -> Offer {
        Offer {
            runtimes: AgentRuntime::built_in(),
            default_runtime: "shell".into(),
            default_resources: vec![Request::of("git-worktree")],
            setup: Vec::new(),
            limits: Limits {
                timeout: Some(Duration::from_secs(60)),
                stall: None,
                iterations: 1,
                tokens: None,
                time_budget: None,
                answer_within: None,
            },
        }
    }

    #[test]
    fn a_default_that_is_not_installed_is_noticed() {
        let mut offer = offer();
        assert!(offer.found().1);
        offer.runtimes.retain(|runtime| runtime.name != "shell");
        let (found, has_default) = offer.found();
        assert!(found.contains("codex") && !has_default, "{found}");
    }

    #[test]
    fn the_runtime_comes_from_the_metadata_the_filter_or_the_default() {
        let name = |payload: Value| offer().understand(&payload).map(|order| order.runtime.name);
        assert_eq!(name(json!({})).unwrap(), "shell");
        let filter = json!({"capabilities": ["resumable", "runtime:codex"]});
        assert_eq!(name(json!({"executor_filter": filter})).unwrap(), "codex");
        assert_eq!(
            name(json!({"metadata": {"runtime": "aider"}, "executor_filter": filter})).unwrap(),
            "aider"
        );
        assert_eq!(name(json!({"metadata": {"runtime": "custom:shell"}})).unwrap(), "shell");
        let agent = |agent: &str| name(json!({"executor_filter": {"agent_id": agent}}));
        assert_eq!(
            (agent("claude").unwrap(), agent("reviewer").unwrap()),
            ("claude-code".into(), "shell".into())
        );
        let mut without = offer();
        without.runtimes.retain(|runtime| runtime.name != "codex");
        assert!(
            without.understand(&json!({"executor_filter": {"agent_id": "codex"}})).is_err(),
            "not another one"
        );
        assert!(
            name(json!({"metadata": {"runtime": "cursor"}})).unwrap_err().to_string().contains("there are")
        );
    }

    #[test]
    fn resources_limits_and_criteria_are_understood() {
        let order = offer()
            .understand(&json!({
                "objective": "do it", "completion": "cmd: test -f done",
                "metadata": {
                    "resources": [{"kind": "port-range", "options": {"blockSize": 4}}, {"kind": "git-worktree"}],
                    "maxIterations": 3, "timeout_seconds": 3600, "budget": {"wall_clock_seconds": 1.5, "tokens": 10},
                },
            }))
            .unwrap();
        assert_eq!(order.check.as_deref(), Some("test -f done"));
        assert_eq!(order.resources.len(), 2);
        let limits = order.plan.limits.clone();
        assert_eq!((limits.iterations, limits.tokens), (3, Some(10)));
        assert_eq!(limits.timeout, Some(Duration::from_secs(60)), "no more than the host allows");
        assert_eq!(limits.time_budget, Some(Duration::from_millis(1500)));
        assert!(
            order.prompt(&["stay inside".into()], Some("the check failed")).ends_with("the check failed")
        );
        assert!(offer().understand(&json!({"metadata": {"resources": 7}})).is_err());
        let plain = offer().understand(&json!({"objective": "x", "completion": DEFAULT_COMPLETION})).unwrap();
        assert_eq!(plain.prompt(&[], None), "x");
    }
}
