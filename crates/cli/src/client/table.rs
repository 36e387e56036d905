//! Text for a terminal: aligned columns and readable values. What comes from clusters is shown without
//! its control characters, so that nobody's route can steer an administrator's terminal.

/// Rows with a heading; the columns are as wide as their widest value.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self {
            rows: vec![heading.iter().map(|&title| title.to_owned()).collect()],
        }
    }

    pub(super) fn row<const N: usize>(&mut self, values: [String; N]) {
        self.rows
            .push(values.iter().map(|value| printable(value)).collect());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The lines, without spaces at their ends.
    pub(super) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widest = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|value| width(value))
                .max()
        };
        let widths: Vec<usize> = (0..columns)
            .map(|column| widest(column).unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (value, wide) in row.iter().zip(&widths) {
                line.push_str(value);
                line.extend(std::iter::repeat_n(' ', wide - width(value) + 2));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Columns of a terminal, near enough: names and paths are nearly always ASCII.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// The text without control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                '\u{fffd}'
            } else {
                character
            }
        })
        .collect()
}

/// Seconds as people say them.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        86_400.. => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A dash for nothing.
pub(super) fn or_dash(text: impl Into<Option<String>>) -> String {
    text.into()
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["NAME", "ROUTES"]);
        assert!(table.is_empty());
        table.row(["a".to_owned(), "10".to_owned()]);
        table.row(["longer".to_owned(), String::new()]);
        assert_eq!(table.text(), "NAME    ROUTES\na       10\nlonger\n");
    }

    #[test]
    fn a_routes_path_cannot_steer_the_terminal() {
        let mut table = Table::new(["PATH"]);
        table.row(["/\u{1b}[2Jx\n\u{9b}31m".to_owned()]);
        assert!(
            !table
                .text()
                .trim_end_matches('\n')
                .chars()
                .skip(5)
                .any(char::is_control),
            "{:?}",
            table.text()
        );
    }

    #[test]
    fn spans_read_well() {
        let texts: Vec<String> = [59, 60, 3661, 90_061].into_iter().map(span).collect();
        assert_eq!(texts, ["59 s", "1 min", "1 h 1 min", "1 d 1 h"]);
    }
}
