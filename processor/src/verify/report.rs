//! What a verification read, and what it found.

/// Most findings that are kept; the rest is counted.
pub const FINDINGS_MAX: usize = 1000;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// As it may be; said so that nobody wonders.
    Note,
    /// Something is damaged, missing or out of place.
    Damage,
}

/// Something worth saying about one object or file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The object's key, or the file.
    pub at: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub what: String,
}

/// The outcome. It has no more findings than [`FINDINGS_MAX`], however bad things are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects, or undo batches and files, that were read.
    pub objects: u64,
    /// Bytes that were read and hashed.
    pub bytes: u64,
    /// Damage, kept or not.
    pub damaged: u64,
    /// What was found, in the order of the walk.
    pub findings: Vec<Finding>,
    /// Findings that were not kept.
    pub more: u64,
}

impl Report {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged == 0
    }

    pub(super) fn damage(&mut self, at: impl ToString, what: impl Into<String>) {
        self.damaged += 1;
        self.add(Finding { at: at.to_string(), severity: Severity::Damage, what: what.into() });
    }

    pub(super) fn note(&mut self, at: impl ToString, what: impl Into<String>) {
        self.add(Finding { at: at.to_string(), severity: Severity::Note, what: what.into() });
    }

    fn add(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX { self.findings.push(finding) } else { self.more += 1 }
    }

    pub(super) fn read(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}
