//! Command: imports point one way, and decisions touch nothing. `src/lib.rs` says what the tiers mean.
#![expect(clippy::unwrap_used, reason = "a source file that cannot be read must end the test loudly")]

use std::collections::BTreeMap;
use std::path::Path;
use syn::visit::{self, Visit};

/// In the order in which they may know each other: everyone knows its own tier and those before it.
const TIERS: [&str; 5] = ["Domain", "Pure", "Edge", "Service", "Command"];
/// None of these knows another one; only `bridge` and `cli` put them together.
const STAGES: [&str; 8] =
    ["watcher", "intake", "dispatcher", "registry", "executor", "events", "writeback", "delegate"];
/// What no file of the first two tiers may reach: clocks, files, the network, processes, tasks.
const OUTSIDE: [&str; 14] = [
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::process",
    "std::thread",
    "std::time::SystemTime",
    "tokio",
    "tokio_util",
    "notify",
    "reqwest",
    "rusqlite",
    "rustix",
    "tempfile",
];
/// Calls that read a clock or draw at random, however their type was imported.
const READINGS: [&str; 5] = ["Instant::now", "Timestamp::now", "Zoned::now", "Uuid::new_v4", "Uuid::now_v7"];

/// Module path (`session::document`) → source text.
type Sources = BTreeMap<String, String>;

#[test]
fn imports_point_one_way_and_decisions_touch_nothing() {
    let mut sources = Sources::new();
    collect(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), "", &mut sources);
    assert!(sources.len() > 50, "only {} files were found", sources.len());
    let wrong = violations(&sources);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Reads every file but `main.rs` and `lib.rs`, which know everything.
fn collect(folder: &Path, prefix: &str, sources: &mut Sources) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        let module = |own: &str| format!("{prefix}::{own}").trim_start_matches("::").to_owned();
        if entry.file_type().unwrap().is_dir() {
            collect(&path, &module(&name), sources);
        } else if name == "mod.rs" {
            sources.insert(prefix.to_owned(), std::fs::read_to_string(path).unwrap());
        } else if let Some(stem) =
            name.strip_suffix(".rs").filter(|s| !(prefix.is_empty() && ["main", "lib"].contains(s)))
        {
            sources.insert(module(stem), std::fs::read_to_string(path).unwrap());
        }
    }
}

fn violations(sources: &Sources) -> Vec<String> {
    let mut wrong = Vec::new();
    for (module, text) in sources {
        let Some(tier) = tier_of(text) else {
            wrong.push(format!("{module}: the first word of its `//!` is no tier"));
            continue;
        };
        let mut reached =
            Reached { module: module.split("::").map(str::to_owned).collect(), paths: Vec::new() };
        reached.visit_file(&syn::parse_file(text).unwrap());
        for path in reached.paths {
            if let Some(inside) = path.strip_prefix("crate::") {
                wrong.extend(import_violation(sources, module, tier, inside));
            } else if tier < 2
                && (OUTSIDE.iter().any(|o| starts_with(&path, o))
                    || READINGS.iter().any(|r| path.ends_with(r)))
            {
                wrong.push(format!("{module}: {path} has no place in a file of tier {}", TIERS[tier]));
            } else if (tier < 3 && starts_with(&path, "axum")) || (tier < 4 && starts_with(&path, "clap")) {
                wrong.push(format!("{module}: {path} belongs to a later tier than {}", TIERS[tier]));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    wrong
}

/// The place in [`TIERS`] that the first word of the file gives it.
fn tier_of(text: &str) -> Option<usize> {
    let word = text.strip_prefix("//! ")?.split_once(':')?.0;
    if word == "Stage" { Some(0) } else { TIERS.iter().position(|tier| *tier == word) }
}

fn import_violation(sources: &Sources, module: &str, tier: usize, inside: &str) -> Option<String> {
    let target = sources.keys().filter(|known| starts_with(inside, known)).max_by_key(|known| known.len())?;
    let theirs = tier_of(&sources[target])?;
    if theirs > tier {
        return Some(format!("{module} ({}) imports {target} ({})", TIERS[tier], TIERS[theirs]));
    }
    let stage = |path: &str| STAGES.into_iter().find(|stage| starts_with(path, stage));
    match (stage(module), stage(target)) {
        (Some(ours), Some(other)) if ours != other => {
            Some(format!("{module}: the stage {ours} knows the stage {other}"))
        }
        (Some(ours), _) if starts_with(target, "bridge") => {
            Some(format!("{module}: the stage {ours} knows the bridge"))
        }
        _ => None,
    }
}

fn starts_with(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Every path that a file names, tests left out; those inside the crate as `crate::…`.
struct Reached {
    module: Vec<String>,
    paths: Vec<String>,
}

impl Reached {
    fn add(&mut self, segments: &[String]) {
        let supers = segments.iter().take_while(|s| *s == "super").count();
        let above = self.module.len().saturating_sub(supers);
        self.paths.push(match segments.first().map(String::as_str) {
            Some("super") => {
                [&["crate".to_owned()], &self.module[..above], &segments[supers..]].concat().join("::")
            }
            Some("self") => [&["crate".to_owned()], &self.module[..], &segments[1..]].concat().join("::"),
            _ => segments.join("::"),
        });
    }

    fn use_tree(&mut self, tree: &syn::UseTree, mut before: Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.use_tree(&path.tree, before);
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.use_tree(item, before.clone()));
            }
            syn::UseTree::Name(syn::UseName { ident })
            | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                before.push(ident.to_string());
                self.add(&before);
            }
            syn::UseTree::Glob(_) => self.add(&before),
        }
    }
}

impl<'ast> Visit<'ast> for Reached {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let test = |a: &syn::Attribute| {
            a.path().is_ident("cfg") && a.parse_args::<syn::Ident>().is_ok_and(|i| i == "test")
        };
        if !item.attrs.iter().any(test) {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&item.tree, Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add(&path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // The body of a macro is tokens, not paths: joined without spaces, they read like paths again.
        let text = item.tokens.to_string().replace(" :: ", "::");
        for word in
            text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).filter(|w| w.contains("::"))
        {
            self.add(&word.split("::").map(str::to_owned).collect::<Vec<_>>());
        }
        visit::visit_macro(self, item);
    }
}

#[test]
fn every_kind_of_wrong_turn_is_noticed() {
    let sources: Sources = [
        ("domain", "//! Stage: nouns."),
        ("domain::id", "//! Domain: ids.\nuse crate::disk::atomic::replace;"),
        ("domain::time", "//! Domain: times.\nfn f() { let now = std::time::Instant::now(); }"),
        (
            "disk::atomic",
            "//! Edge: files.\nuse std::fs;\n#[cfg(test)]\nmod tests { use crate::registry::server::run; }",
        ),
        ("registry", "//! Stage: the registry.\npub struct Config;"),
        (
            "registry::machine",
            "//! Pure: decides.\nuse super::{Config, server};\nuse {std::fs as files, std::fmt};",
        ),
        (
            "registry::server",
            "//! Service: serves.\nfn f() { println!(\"{}\", crate::watcher::worker::NAME); }",
        ),
        ("watcher::worker", "//! Service: watches.\nuse crate::bridge;\nuse clap::Parser;"),
        ("bridge", "//! Service: wires.\nuse crate::{registry::server, watcher::worker};"),
        ("nameless", "//! Does things.\nuse crate::domain::id;"),
    ]
    .map(|(module, text)| (module.to_owned(), text.to_owned()))
    .into();
    assert_eq!(
        violations(&sources),
        [
            "domain::id (Domain) imports disk::atomic (Edge)",
            "domain::time: std::time::Instant::now has no place in a file of tier Domain",
            "nameless: the first word of its `//!` is no tier",
            "registry::machine (Pure) imports registry::server (Service)",
            "registry::machine: std::fs has no place in a file of tier Pure",
            "registry::server: the stage registry knows the stage watcher",
            "watcher::worker: clap::Parser belongs to a later tier than Service",
            "watcher::worker: the stage watcher knows the bridge",
        ]
    );
}
