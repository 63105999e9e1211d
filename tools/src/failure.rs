//! An error for a person: what failed, why, and what to do next.

use std::fmt;

use serde::Serialize;

/// What failed, with what to do next; its source says why.
#[derive(Debug)]
pub struct Failure {
    what: String,
    next: Option<String>,
    source: Option<anyhow::Error>,
}

/// A failure that says only what.
#[must_use]
pub fn fail(what: impl Into<String>) -> Failure {
    Failure { what: what.into(), next: None, source: None }
}

impl Failure {
    /// Adds why.
    #[must_use]
    pub fn because(mut self, why: impl Into<anyhow::Error>) -> Self {
        self.source = Some(why.into());
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(AsRef::as_ref)
    }
}

/// Adds what failed and what to do next to any result.
pub trait Next<T> {
    /// Says what to do next, for an error that does not say so itself.
    ///
    /// # Errors
    /// The error, with the advice.
    fn next(self, next: impl Into<String>) -> anyhow::Result<T>;

    /// Says what was attempted, and what to do next.
    ///
    /// # Errors
    /// The error, as the cause of the new one.
    fn what(self, what: impl Into<String>, next: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Next<T> for Result<T, E> {
    fn next(self, next: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|e| {
            let e = e.into();
            if advice(&e).is_some() {
                return e;
            }
            let source = e.chain().skip(1).map(ToString::to_string).collect::<Vec<_>>();
            let mut failure = fail(e.to_string()).next(next);
            if !source.is_empty() {
                failure = failure.because(anyhow::anyhow!("{}", source.join(": ")));
            }
            failure.into()
        })
    }

    fn what(self, what: impl Into<String>, next: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|e| fail(what).because(e).next(next).into())
    }
}

/// The advice nearest to the cause, which knows most.
fn advice(error: &anyhow::Error) -> Option<&str> {
    error.chain().filter_map(|e| e.downcast_ref::<Failure>().and_then(|f| f.next.as_deref())).last()
}

/// An error as a machine reads it.
#[derive(Serialize)]
struct Json<'a> {
    error: String,
    because: Vec<String>,
    next: Option<&'a str>,
}

/// Prints the error to standard error, as text or as one line of JSON.
pub fn print(error: &anyhow::Error, json: bool) {
    let because: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    let next = advice(error);
    if json {
        let line = serde_json::to_string(&Json { error: error.to_string(), because, next });
        eprintln!("{}", line.unwrap_or_else(|_| format!("{{\"error\":{:?}}}", error.to_string())));
        return;
    }
    eprintln!("farshore: {error}");
    for why in because {
        eprintln!("  because: {why}");
    }
    if let Some(next) = next {
        eprintln!("  next: {next}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_advice_is_kept() {
        let inner: anyhow::Result<()> = Err(fail("no disk").next("make one").into());
        let outer = inner.what("cannot start", "look at the log").unwrap_err();
        assert_eq!(advice(&outer), Some("make one"));
        let inner: anyhow::Result<()> = Err(fail("no disk").next("make one").into());
        assert_eq!(advice(&inner.next("other").unwrap_err()), Some("make one"));
    }
}
