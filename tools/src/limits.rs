//! What the kernel allows this process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Allows as many open files as may be allowed. The usual limit is 1,024, for programs that use `select`; a target keeps several
/// files open for each of its groups.
pub fn allow_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(e) = raised {
        tracing::warn!(error = %e, "the limit of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_may_be() {
        allow_open_files();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
