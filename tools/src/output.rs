//! What a verb prints on standard output: text for people, one JSON document for machines.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

/// How to print.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// JSON instead of text.
    pub json: bool,
}

impl Output {
    /// Prints `value` as one line of JSON, or what `text` makes of it. A reader that went away is not an error.
    ///
    /// # Errors
    /// When `value` cannot be represented, or standard output fails.
    pub fn print<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let mut line = if self.json { serde_json::to_string(value)? } else { text(value) };
        if !line.ends_with('\n') {
            line.push('\n');
        }
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => Ok(other?),
        }
    }
}

/// An empty table in the house style: no borders, headings as given.
#[must_use]
pub fn table<const N: usize>(headings: [&str; N]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(headings);
    table
}
