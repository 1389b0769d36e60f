//! Command: the README says what the program says of itself.
#![expect(clippy::unwrap_used, reason = "a README that cannot be read must end the test loudly")]

use clap::{CommandFactory as _, Parser as _};
use std::fmt::Write as _;

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");

fn readme() -> String {
    std::fs::read_to_string(README).unwrap()
}

/// Finds a subcommand by its words.
fn command(words: &str) -> clap::Command {
    words.split(' ').fold(aiwg_rs::cli::Arguments::command(), |command, word| {
        command.find_subcommand(word).unwrap().clone()
    })
}

/// Writes the options of a command as a table.
fn table(words: &str) -> String {
    let mut table = format!("| `aiwg-rs {words}` | variable | default | |\n|---|---|---|---|\n");
    for option in command(words).get_arguments().filter(|option| !option.is_global_set()) {
        let Some(long) = option.get_long().filter(|long| !["help", "version"].contains(long)) else {
            continue;
        };
        let takes_value = option.get_action().takes_values();
        let names = option.get_value_names().filter(|_| takes_value).unwrap_or_default();
        let value = names.iter().flat_map(|name| [" ", name.as_str()]).collect::<String>();
        let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
        let variable = option.get_env().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let defaults = option.get_default_values().iter().filter(|_| takes_value);
        let default =
            defaults.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        let help = option.get_help().map(ToString::to_string).unwrap_or_default();
        writeln!(table, "| `--{long}{value}` | {} | {} | {help} |", code(&variable), code(&default)).unwrap();
    }
    table
}

#[test]
fn the_tables_of_options_are_those_of_the_program() {
    let mut text = readme();
    for words in ["mc bridge", "serve", "executor"] {
        let (begin, end) = (format!("<!-- options: {words} -->\n"), "<!-- end -->");
        let from = text.find(&begin).unwrap() + begin.len();
        let to = from + text[from..].find(end).unwrap();
        text.replace_range(from..to, &table(words));
    }
    if std::env::var_os("AIWG_RS_UPDATE_README").is_some() {
        std::fs::write(README, &text).unwrap();
    }
    assert!(text == readme(), "run this test once with AIWG_RS_UPDATE_README=1 and look at what it changed");
}

#[test]
fn every_command_in_the_readme_is_one() {
    let mut seen = 0;
    for block in readme().split("```sh\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            let words = shell_words(line.strip_prefix("cargo run --release --").unwrap_or(line));
            match words.first().map(String::as_str) {
                Some("aiwg-rs") => drop(aiwg_rs::cli::Arguments::try_parse_from(&words).unwrap()),
                Some("demo") => {
                    let words = ["aiwg-rs".to_owned()].into_iter().chain(words);
                    drop(aiwg_rs::cli::Arguments::try_parse_from(words).unwrap());
                }
                Some("cargo" | "mkdir" | "echo") => {}
                _ => panic!("{line}"),
            }
            seen += 1;
        }
    }
    assert!(seen > 8, "only {seen} commands were found");
}

/// Takes a line apart as a shell does, as far as the README needs it.
fn shell_words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    let words = parts.flat_map(|(index, part)| {
        if index % 2 == 1 {
            vec![part.to_owned()]
        } else {
            part.split_whitespace().map(str::to_owned).collect()
        }
    });
    words.collect()
}

#[test]
fn the_exit_codes_in_the_readme_are_those_of_the_source() {
    let source = include_str!("../src/cli/exit.rs");
    let codes = source
        .lines()
        .filter_map(|line| line.strip_prefix("//! | "))
        .filter(|row| row.starts_with(char::is_numeric));
    let text = readme();
    for row in codes {
        let code = row.split(" |").next().unwrap();
        assert!(text.contains(&format!("\n| {code} | ")), "{row}");
    }
}

#[test]
fn every_file_and_heading_that_the_readme_links_to_is_there() {
    let text = readme();
    let headings: Vec<String> = text.lines().filter(|line| line.starts_with('#')).map(anchor).collect();
    let targets = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    for target in targets.filter(|target| !target.contains("://")) {
        let is_there = match target.strip_prefix('#') {
            Some(heading) => headings.iter().any(|known| known == heading),
            None => std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(target).exists(),
        };
        assert!(is_there, "{target}");
    }
}

/// Names a heading as GitHub does.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    words.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}
