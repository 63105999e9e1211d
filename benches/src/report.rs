//! The figures, as a table and as JSON.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

/// One line.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    figure: f64,
    unit: &'static str,
    wanted: &'static str,
}

/// All lines, in the order in which they were measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    rows: Vec<Row>,
}

/// The median; NaN of nothing.
#[must_use]
pub fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    let middle = of.len() / 2;
    match of.len() % 2 {
        _ if of.is_empty() => f64::NAN,
        0 => f64::midpoint(of[middle - 1], of[middle]),
        _ => of[middle],
    }
}

impl Report {
    /// Adds a line, and prints it.
    pub fn add(&mut self, what: impl Into<String>, figure: f64, unit: &'static str, wanted: &'static str) {
        let row = Row { what: what.into(), figure, unit, wanted };
        println!("{}: {} {}", row.what, shown(figure), unit);
        self.rows.push(row);
    }

    /// In Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = "| what | figure | wanted |\n|---|--:|---|\n".to_owned();
        for Row { what, figure, unit, wanted } in &self.rows {
            text += &format!("| {what} | {} {unit} | {wanted} |\n", shown(*figure));
        }
        text
    }

    /// Writes both, as `name.md` and `name.json`.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write(&self, dir: &Path, name: &str) -> Result<()> {
        std::fs::write(dir.join(format!("{name}.md")), self.table())?;
        Ok(std::fs::write(dir.join(format!("{name}.json")), serde_json::to_vec_pretty(self)?)?)
    }
}

/// Three digits that count.
#[must_use]
pub fn shown(figure: f64) -> String {
    let digits = if figure.abs() >= 100.0 {
        0
    } else if figure.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{figure:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0]) - 2.5).abs() < 1e-9);
        assert!(median(vec![]).is_nan());
    }
}
