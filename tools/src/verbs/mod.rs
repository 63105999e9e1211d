//! One verb a file: its arguments, what it does by calling the stages, and what it prints.

pub mod attach;
pub mod demo;
pub mod enable;
pub mod estimate;
pub mod export;
pub mod failover;
pub mod init;
pub mod inspect;
pub mod key;
pub mod mark;
pub mod points;
pub mod process;
pub mod resync;
pub mod run;
pub mod ship;
pub mod status;
pub mod verify;

use anyhow::Result;

/// Runs one future on a runtime of its own, on this thread.
///
/// # Errors
/// When the runtime cannot be made.
pub fn block_on<F: Future>(future: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let output = runtime.block_on(future);
    // Dropped, it would wait for a folder vault that hangs, whatever time limit the future had.
    runtime.shutdown_background();
    Ok(output)
}
