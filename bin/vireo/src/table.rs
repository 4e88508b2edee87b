//! Tables as virsh prints them: a heading, a line, a row for each object.

use crossterm::style::{Color, Stylize};

use crate::output::harmless;

/// What stands in a field.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    colour: Option<Color>,
}

impl Cell {
    /// Text in this colour, where colours are shown.
    pub(crate) fn coloured(text: &str, colour: Option<Color>) -> Self {
        Self { text: harmless(text), colour }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::coloured(text.as_ref(), None)
    }
}

/// A table.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// One with these words above its columns.
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(Cell::from).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The whole of it.
    pub(crate) fn text(&self, colours: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let padding = " ".repeat(width - cell.text.chars().count() + 2);
                let shown = match cell.colour {
                    Some(colour) if colours => cell.text.as_str().with(colour).to_string(),
                    _ => cell.text.clone(),
                };
                line.push_str(&format!(" {shown}{padding}"));
            }
            text.push_str(line.trim_end());
            text.push('\n');
            if number == 0 {
                text.push_str(&"-".repeat(widths.iter().map(|width| width + 3).sum()));
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_virshs() {
        let mut table = Table::new(&["Id", "Name", "State"]);
        table.row(vec!["1".into(), "test".into(), Cell::coloured("running", Some(Color::Green))]);
        assert_eq!(table.text(false), " Id   Name   State\n----------------------\n 1    test   running\n");
        assert!(table.text(true).contains("\u{1b}["));
    }

    #[test]
    fn a_name_cannot_control_the_terminal() {
        let mut table = Table::new(&["Name"]);
        table.row(vec!["a\u{1b}[2J".into()]);
        assert!(!table.text(false).contains('\u{1b}'));
    }
}
