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
pub fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Report {
    /// Adds a line, and prints it.
    pub fn add(&mut self, what: impl Into<String>, figure: f64, unit: &'static str, wanted: &'static str) {
        let row = Row { what: what.into(), figure, unit, wanted };
        println!("{}: {} {}", row.what, shown(figure), unit);
        self.rows.push(row);
    }

    /// In Markdown.
    pub fn table(&self) -> String {
        let mut text = "| what | figure | wanted |\n|---|--:|---|\n".to_owned();
        for Row { what, figure, unit, wanted } in &self.rows {
            text += &format!("| {what} | {} {unit} | {wanted} |\n", shown(*figure));
        }
        text
    }

    /// Writes both.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write(&self, dir: &Path) -> Result<()> {
        std::fs::write(dir.join("stages.md"), self.table())?;
        Ok(std::fs::write(dir.join("stages.json"), serde_json::to_vec_pretty(self)?)?)
    }
}

/// Three digits that count.
fn shown(figure: f64) -> String {
    let digits = if figure.abs() >= 100.0 {
        0
    } else if figure.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{figure:.digits$}")
}
