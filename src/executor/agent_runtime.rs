//! Pure: command templates: how an agent is started.
//!
//! A template is a vector of arguments. `{prompt}` and `{objective}` in it are replaced inside their argument, so whatever
//! a mission says stays one argument and never meets a shell. The one exception is the runtime `shell`, whose purpose is
//! to run the objective as a command.

use crate::executor::questions::Patterns;
use std::collections::BTreeMap;

/// How an agent is started and read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRuntime {
    /// `claude-code`, `codex`, `aider`, `shell` or `custom:<name>`.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// In a terminal of its own; else on pipes.
    pub terminal: bool,
    /// Lines that are JSON objects report progress.
    pub json_progress: bool,
    /// Variables of the executor's environment that it needs, beyond the common ones.
    pub pass_env: Vec<String>,
    /// Variables to set.
    pub env: BTreeMap<String, String>,
    /// What its questions look like.
    pub questions: Patterns,
}

/// Variables that every agent may see. Secrets of the executor are not among them.
pub const COMMON_ENV: [&str; 14] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "SSL_CERT_FILE",
];

impl AgentRuntime {
    fn new(name: &str, command: &[&str], terminal: bool, pass_env: &[&str]) -> Self {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Self {
            name: name.to_owned(),
            command: owned(command),
            terminal,
            json_progress: false,
            pass_env: owned(pass_env),
            env: BTreeMap::new(),
            questions: Patterns::default(),
        }
    }

    /// Returns the runtimes that need no configuration.
    pub fn built_in() -> Vec<Self> {
        let mut claude = Self::new(
            "claude-code",
            &["claude", "-p", "{prompt}", "--output-format", "stream-json", "--verbose"],
            false,
            &["ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "CLAUDE_CODE_OAUTH_TOKEN"],
        );
        claude.json_progress = true;
        let mut codex = Self::new(
            "codex",
            &["codex", "exec", "--json", "{prompt}"],
            false,
            &["OPENAI_API_KEY", "OPENAI_BASE_URL", "CODEX_HOME"],
        );
        codex.json_progress = true;
        vec![
            claude,
            codex,
            Self::new(
                "aider",
                &["aider", "--no-auto-commits", "--message", "{prompt}"],
                true,
                &["OPENAI_API_KEY", "ANTHROPIC_API_KEY"],
            ),
            Self::new("shell", &["/bin/sh", "-c", "{objective}"], true, &[]),
        ]
    }

    /// Returns the capability that says so to a registry; none for `shell`, which the contract has no name for.
    pub fn capability(&self) -> String {
        match self.name.as_str() {
            "shell" => "runtime:custom:shell".to_owned(),
            name => format!("runtime:{name}"),
        }
    }

    /// Fills the template.
    pub fn arguments(&self, prompt: &str, objective: &str) -> Vec<String> {
        self.command.iter().map(|argument| fill(argument, prompt, objective)).collect()
    }
}

/// Replaces both placeholders in one pass, so that a placeholder inside a prompt stays text.
fn fill(template: &str, prompt: &str, objective: &str) -> String {
    let mut filled = String::with_capacity(template.len() + prompt.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        filled.push_str(before);
        if let Some(after) = from.strip_prefix("{prompt}") {
            filled.push_str(prompt);
            rest = after;
        } else if let Some(after) = from.strip_prefix("{objective}") {
            filled.push_str(objective);
            rest = after;
        } else {
            filled.push('{');
            rest = from.get(1..).unwrap_or_default();
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_mission_says_stays_one_argument() {
        let evil = "'; rm -rf / #\n$(reboot) {objective} `id`";
        let codex = AgentRuntime::built_in().into_iter().find(|r| r.name == "codex").unwrap();
        assert_eq!(codex.arguments(evil, "x"), ["codex", "exec", "--json", evil]);
        assert_eq!(fill("a {x} {prompt}-{objective}{", "P{prompt}", "O"), "a {x} P{prompt}-O{");
    }

    #[test]
    fn every_capability_is_one_that_registries_accept() {
        for runtime in AgentRuntime::built_in() {
            let capability = runtime.capability();
            assert!(crate::domain::capability::Capability::announced(&capability).is_ok(), "{capability}");
        }
    }
}
