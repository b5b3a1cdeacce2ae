//! Tables for people: columns as wide as what is in them, two spaces between.

use std::fmt::Write;

/// A table. Columns of numbers only are aligned to the right.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    /// A table with a heading.
    pub(super) fn with(heading: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut table = Self::default();
        table.row(heading);
        table
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.0.push(cells.into_iter().map(Into::into).collect());
    }

    /// The text. Columns in which no row has anything are left out.
    pub(super) fn text(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let cells = |column: usize| self.0.iter().filter_map(move |row| row.get(column));
        let width = |column| cells(column).map(|cell| cell.chars().count()).max();
        let widths: Vec<_> = (0..columns).map(|n| width(n).unwrap_or(0)).collect();
        let is_used = |column: &usize| cells(*column).skip(1).any(|cell| !cell.is_empty());
        let used: Vec<_> = (0..columns).filter(is_used).collect();
        let is_number = |cell: &String| cell.bytes().all(|byte| byte.is_ascii_digit());
        let right: Vec<_> = (0..columns)
            .map(|n| cells(n).skip(1).all(is_number))
            .collect();
        let mut text = String::new();
        for row in &self.0 {
            let mut line = String::new();
            for &n in &used {
                let (cell, width) = (row.get(n).map_or("", String::as_str), widths[n]);
                let _ = if right[n] {
                    write!(line, "{cell:>width$}  ")
                } else {
                    write!(line, "{cell:<width$}  ")
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        let mut table = Table::with(["NAME", "N", "NOTE", "X"]);
        table.row(["a", "5", "", "x"]);
        table.row(["longer", "123", "", ""]);
        table.row(["é"]);
        let text = "NAME      N  X\na         5  x\nlonger  123\né\n";
        assert_eq!(table.text(), text);
        assert_eq!(Table::default().text(), "");
    }
}
