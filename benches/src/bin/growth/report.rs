//! The figures: for each part a table with a column for each size, and the same as JSON.

use std::path::Path;

use anyhow::Result;
use farshore_benches::machine;
use farshore_benches::report::shown;
use serde::Serialize;

/// One figure over the sizes of a part.
#[derive(Debug, Serialize)]
pub struct Curve {
    pub what: String,
    pub unit: &'static str,
    /// It is in the picture.
    #[serde(skip)]
    pub drawn: bool,
    /// Size and figure.
    pub points: Vec<(u64, f64)>,
}

/// What was measured over one kind of size.
#[derive(Debug, Serialize)]
pub struct Part {
    /// What the size is of.
    pub by: &'static str,
    pub how: &'static str,
    pub curves: Vec<Curve>,
}

impl Part {
    pub fn new(by: &'static str, how: &'static str) -> Self {
        Self { by, how, curves: Vec::new() }
    }

    /// Adds a figure, and prints it.
    pub fn add(&mut self, what: &str, unit: &'static str, size: u64, figure: f64) {
        println!("{}, {size}: {what}: {} {unit}", self.by, shown(figure));
        match self.curves.iter_mut().find(|curve| curve.what == what) {
            Some(curve) => curve.points.push((size, figure)),
            None => {
                let points = vec![(size, figure)];
                self.curves.push(Curve { what: what.to_owned(), unit, drawn: false, points });
            }
        }
    }

    /// Puts figures into the picture.
    pub fn draw(&mut self, names: &[&str]) {
        for curve in &mut self.curves {
            curve.drawn |= names.contains(&curve.what.as_str());
        }
    }

    fn table(&self) -> String {
        let sizes = self.curves.first().map_or(&[][..], |curve| &curve.points[..]);
        let mut text = format!("\n**{}**: {}\n\n| |", self.by, self.how);
        text.extend(sizes.iter().map(|(size, _)| format!(" {size} |")));
        text += &format!("\n|---|{}\n", "--:|".repeat(sizes.len()));
        for Curve { what, unit, points, drawn: _ } in &self.curves {
            let unit = if unit.is_empty() { String::new() } else { format!(", {unit}") };
            text += &format!("| {what}{unit} |");
            text.extend(points.iter().map(|(_, figure)| format!(" {} |", shown(*figure))));
            text.push('\n');
        }
        text
    }
}

/// All parts.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: String,
    pub parts: Vec<Part>,
}

impl Report {
    pub fn new() -> Self {
        let load = machine::load_average();
        Self { machine: format!("{}; load average at the beginning {load}", machine::description()), parts: Vec::new() }
    }

    /// In Markdown.
    pub fn table(&self) -> String {
        let parts: String = self.parts.iter().map(Part::table).collect();
        format!("{}\n{parts}", self.machine)
    }

    /// Writes table and JSON.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write(&self, dir: &Path) -> Result<()> {
        std::fs::write(dir.join("growth.md"), self.table())?;
        Ok(std::fs::write(dir.join("growth.json"), serde_json::to_vec_pretty(self)?)?)
    }
}
