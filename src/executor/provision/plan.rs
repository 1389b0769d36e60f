//! Pure: leases combined into one environment, and the texts that tell about it.

use crate::executor::provision::provider::{Lease, Object};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The first line of a prompt that has constraints.
const OPENING: &str = "The following constraints of your environment are already enforced; work within them:";

/// What several leases say together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Merged {
    /// Later leases win.
    pub env: BTreeMap<String, String>,
    /// In the order of the leases.
    pub prompt_sections: Vec<String>,
    /// Later leases win.
    pub metadata: Object,
    /// The last one that was preferred.
    pub working_directory: Option<PathBuf>,
}

/// Combines leases in the order in which they were made.
pub fn merge(leases: &[Lease]) -> Merged {
    let mut merged = Merged::default();
    for lease in leases {
        merged.env.extend(lease.env.clone());
        merged.prompt_sections.extend(lease.prompt_sections.iter().cloned());
        merged.metadata.extend(lease.metadata.clone());
        if let Some(directory) = &lease.preferred_working_directory {
            merged.working_directory = Some(directory.clone());
        }
    }
    merged
}

/// What an environment is, for whoever works in it: a deep copy, free to be changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Whose environment it is.
    pub session_id: String,
    /// The directory that the work is about.
    pub workspace_root: PathBuf,
    /// Where the work starts.
    pub working_directory: PathBuf,
    /// Facts, in the order of the leases.
    pub hard_constraints: Vec<HardConstraint>,
    /// Hints.
    pub soft_constraints: SoftConstraints,
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HardConstraint {
    /// Names the provider.
    pub kind: String,
    /// What it handed out.
    pub allocation: Object,
}

/// The hints of all leases together.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SoftConstraints {
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Sentences for the prompt.
    pub prompt_sections: Vec<String>,
    /// Facts for reports.
    pub metadata: Object,
}

/// Describes an environment.
pub fn snapshot(session_id: &str, workspace_root: &Path, leases: &[Lease]) -> Snapshot {
    let merged = merge(leases);
    Snapshot {
        session_id: session_id.to_owned(),
        workspace_root: workspace_root.to_owned(),
        working_directory: merged.working_directory.unwrap_or_else(|| workspace_root.to_owned()),
        hard_constraints: leases
            .iter()
            .map(|lease| HardConstraint { kind: lease.kind.clone(), allocation: lease.allocation.clone() })
            .collect(),
        soft_constraints: SoftConstraints {
            env: merged.env,
            prompt_sections: merged.prompt_sections,
            metadata: merged.metadata,
        },
    }
}

/// Puts the constraints before a prompt: one opening line, a bullet each, an empty line. Without any it stays as it is.
pub fn compose_prompt(sections: &[String], prompt: &str) -> String {
    if sections.is_empty() {
        return prompt.to_owned();
    }
    let mut text = String::from(OPENING);
    for section in sections {
        text.push_str("\n- ");
        text.push_str(section);
    }
    text.push_str("\n\n");
    text.push_str(prompt);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lease(kind: &str, value: &str, directory: Option<&str>) -> Lease {
        let object = |v: serde_json::Value| v.as_object().unwrap().clone();
        Lease {
            kind: kind.to_owned(),
            allocation: object(json!({"who": kind})),
            env: BTreeMap::from([("SAME".into(), value.into()), (kind.to_uppercase(), "1".into())]),
            prompt_sections: vec![format!("use {kind}")],
            metadata: object(json!({"same": value, kind: 1})),
            preferred_working_directory: directory.map(PathBuf::from),
        }
    }

    #[test]
    fn later_leases_win_and_prompts_append() {
        let merged =
            merge(&[lease("a", "1", Some("/a")), lease("b", "2", Some("/b")), lease("c", "3", None)]);
        assert_eq!(merged.env.get("SAME").unwrap(), "3");
        assert_eq!(merged.env.len(), 4);
        assert_eq!(merged.metadata.get("same"), Some(&json!("3")));
        assert_eq!(merged.prompt_sections, ["use a", "use b", "use c"]);
        assert_eq!(merged.working_directory, Some(PathBuf::from("/b")));
    }

    #[test]
    fn the_snapshot_is_written_in_camel_case() {
        let snapshot = snapshot("s1", Path::new("/w"), &[lease("a", "1", None)]);
        assert_eq!(
            serde_json::to_value(&snapshot).unwrap(),
            json!({
                "sessionId": "s1", "workspaceRoot": "/w", "workingDirectory": "/w",
                "hardConstraints": [{"kind": "a", "allocation": {"who": "a"}}],
                "softConstraints": {
                    "env": {"A": "1", "SAME": "1"}, "promptSections": ["use a"], "metadata": {"same": "1", "a": 1},
                },
            })
        );
    }

    #[test]
    fn a_prompt_without_constraints_is_unchanged_and_one_with_them_says_so_first() {
        assert_eq!(compose_prompt(&[], "do it\n"), "do it\n");
        let composed = compose_prompt(&["ports 1 to 2".into(), "a worktree".into()], "do it");
        let lines: Vec<&str> = composed.lines().collect();
        assert_eq!(lines[1..], ["- ports 1 to 2", "- a worktree", "", "do it"]);
        assert!(lines[0].contains("already enforced"));
    }
}
