//! Command: the file of settings of `executor`.

use crate::cli::exit::{Code, Ended};
use crate::executor::agent_runtime::AgentRuntime;
use crate::executor::questions::Patterns;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The file of settings.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    pub(super) name: Option<String>,
    pub(super) max_concurrency: Option<usize>,
    pub(super) max_waiting: Option<usize>,
    pub(super) runtime: Option<String>,
    pub(super) default_resources: Option<Vec<String>>,
    pub(super) setup: Vec<String>,
    pub(super) timeout: Option<String>,
    pub(super) stall: Option<String>,
    pub(super) answer_within: Option<String>,
    pub(super) grace: Option<String>,
    pub(super) retention: Option<String>,
    pub(super) log_limit_bytes: Option<u64>,
    pub(super) max_iterations: Option<u32>,
    pub(super) keep_everything: bool,
    pub(super) runtimes: BTreeMap<String, RuntimeSettings>,
}

/// One agent in the file of settings.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RuntimeSettings {
    command: Option<Vec<String>>,
    terminal: Option<bool>,
    json_progress: Option<bool>,
    pass_env: Vec<String>,
    env: BTreeMap<String, String>,
    ask: Vec<String>,
    ignore: Vec<String>,
    only_own_patterns: bool,
}

/// Reads the file that was named, or the one by default if it is there.
///
/// # Errors
/// It cannot be read, or something in it is wrong.
pub(super) fn read(named: Option<&Path>, default: &Path) -> anyhow::Result<Settings> {
    let path = named.unwrap_or(default);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Settings::default());
        }
        Err(error) => {
            return Err(Ended::new(Code::Settings, format!("failed to read {}", path.display()))
                .because(error)
                .into());
        }
    };
    Ok(toml::from_str(&text).map_err(|error| {
        Ended::new(Code::Settings, format!("the settings in {} are wrong", path.display())).because(error)
    })?)
}

impl Settings {
    /// Lays the settings over the built-in runtimes.
    ///
    /// # Errors
    /// A runtime is unknown or has no command.
    pub(super) fn runtimes(&self) -> anyhow::Result<Vec<AgentRuntime>> {
        let mut runtimes = AgentRuntime::built_in();
        for (name, own) in &self.runtimes {
            let known = runtimes.iter().position(|runtime| runtime.name == *name);
            let custom = name.strip_prefix("custom:").is_some_and(|rest| !rest.is_empty());
            let mut runtime = match known.and_then(|index| runtimes.get(index)) {
                Some(runtime) => runtime.clone(),
                None if custom && own.command.is_some() => AgentRuntime {
                    name: name.clone(),
                    command: Vec::new(),
                    terminal: true,
                    json_progress: false,
                    pass_env: Vec::new(),
                    env: BTreeMap::new(),
                    questions: Patterns::default(),
                },
                None => {
                    return Err(Ended::new(
                        Code::Settings,
                        format!("the runtime {name:?} is unknown and has no command"),
                    )
                    .hint("name your own runtimes \"custom:<name>\" and give them a command")
                    .into());
                }
            };
            if let Some(command) = &own.command {
                if command.is_empty() {
                    return Err(Ended::new(
                        Code::Settings,
                        format!("the command of runtime {name:?} is empty"),
                    )
                    .into());
                }
                runtime.command.clone_from(command);
            }
            runtime.terminal = own.terminal.unwrap_or(runtime.terminal);
            runtime.json_progress = own.json_progress.unwrap_or(runtime.json_progress);
            runtime.pass_env.extend(own.pass_env.iter().cloned());
            runtime.env.extend(own.env.clone());
            runtime.questions = Patterns {
                asking: own.ask.clone(),
                ignored: own.ignore.clone(),
                only_own: own.only_own_patterns,
            };
            match known {
                Some(index) => {
                    if let Some(place) = runtimes.get_mut(index) {
                        *place = runtime;
                    }
                }
                None => runtimes.push(runtime),
            }
        }
        Ok(runtimes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::duration;

    #[test]
    fn settings_change_built_in_runtimes_and_add_own_ones() {
        let settings: Settings = toml::from_str(
            r#"
            runtime = "custom:mine"
            default_resources = ["git-worktree"]
            timeout = "2h"
            [runtimes.claude-code]
            command = ["claude", "-p", "{prompt}"]
            [runtimes."custom:mine"]
            command = ["my-agent", "--task", "{prompt}"]
            terminal = false
            env = { MODE = "fast" }
            ask = ["approve this"]
            "#,
        )
        .unwrap();
        let runtimes = settings.runtimes().unwrap();
        let find = |name: &str| runtimes.iter().find(|runtime| runtime.name == name).unwrap();
        assert_eq!(find("claude-code").command.len(), 3);
        assert!(!find("custom:mine").terminal && find("custom:mine").questions.is_question("Approve this"));
        assert_eq!(runtimes.len(), 5);
    }

    #[test]
    fn the_example_is_accepted() {
        let settings: Settings = toml::from_str(include_str!("../../../examples/executor.toml")).unwrap();
        assert_eq!(settings.runtimes().unwrap().len(), 5);
        for length in [&settings.timeout, &settings.stall, &settings.answer_within, &settings.retention] {
            assert!(duration::parse(length.as_ref().unwrap()).is_ok(), "{length:?}");
        }
    }

    #[test]
    fn unknown_settings_and_nameless_runtimes_are_refused() {
        assert!(
            toml::from_str::<Settings>("max_concurency = 3")
                .unwrap_err()
                .to_string()
                .contains("max_concurency")
        );
        let settings: Settings = toml::from_str("[runtimes.mine]\ncommand = [\"x\"]").unwrap();
        assert!(settings.runtimes().unwrap_err().to_string().contains("\"mine\""));
    }

    /// What the program itself says that it knows.
    fn known<T: serde::de::DeserializeOwned + std::fmt::Debug>() -> Vec<String> {
        let error = toml::from_str::<T>("no_such_key = 1").unwrap_err().to_string();
        let names = error.split_once("expected one of ").unwrap().1;
        names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_readme_and_the_example_know_every_setting() {
        let readme = include_str!("../../../README.md");
        let example: toml::Table = toml::from_str(include_str!("../../../examples/executor.toml")).unwrap();
        let runtimes = example["runtimes"].as_table().unwrap();
        let listed = |name: &str| {
            let table = readme.split(&format!("<!-- settings: {name} -->\n")).nth(1).unwrap();
            let rows = table.split("<!-- end -->").next().unwrap().lines().skip(2);
            rows.map(|row| row.split('`').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(listed("executor"), known::<Settings>());
        for key in known::<Settings>() {
            assert!(example.contains_key(&key), "examples/executor.toml does not show {key}");
        }
        assert_eq!(listed("runtimes"), known::<RuntimeSettings>());
        for key in known::<RuntimeSettings>() {
            assert!(runtimes.values().any(|runtime| runtime.get(&key).is_some()), "no example of {key}");
        }
        let block = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let shown: Settings = toml::from_str(block).unwrap();
        assert_eq!(shown.runtimes.len(), 3, "three runtimes are shown");
        shown.runtimes().unwrap();
    }
}
