//! Events on users' objects. May not decide what is worth saying, and never repeats it by itself.

use kube::runtime::events::{Event, EventType};

/// Whether something is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Somebody has to act.
    Warning,
    /// For information.
    Normal,
}

/// What is said about an object, as a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// Whether something is wrong.
    pub severity: Severity,
    /// CamelCase, for machines: `HostNotGranted`.
    pub reason: String,
    /// CamelCase, what we were doing: `Route`.
    pub action: String,
    /// One sentence for people.
    pub note: String,
}

/// Longest note and longest reason and action that the apiserver takes, in bytes
/// (`k8s.io/api/events/v1`).
const NOTE: usize = 1024;
const WORD: usize = 128;

impl Notice {
    pub(crate) fn event(&self) -> Event {
        Event {
            type_: match self.severity {
                Severity::Warning => EventType::Warning,
                Severity::Normal => EventType::Normal,
            },
            reason: cut(&self.reason, WORD),
            note: Some(cut(&self.note, NOTE)),
            action: cut(&self.action, WORD),
            secondary: None,
        }
    }
}

/// At most `most` bytes of `text`, never half a character; a cut text ends in an ellipsis.
fn cut(text: &str, most: usize) -> String {
    const MORE: &str = "…";
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most - MORE.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{MORE}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_at_a_character_and_says_so() {
        let notice = Notice {
            severity: Severity::Warning,
            reason: "R".into(),
            action: "Route".into(),
            note: "é".repeat(600),
        };
        let note = notice.event().note.expect("has a note");
        assert!(note.len() <= NOTE);
        assert!(note.ends_with("é…"), "{note}");
    }

    #[test]
    fn a_short_note_stays_as_it_is() {
        assert_eq!(cut("short", NOTE), "short");
    }
}
