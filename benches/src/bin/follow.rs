//! A processor for the measurement of many groups: it follows a folder vault whose requests are counted. For each line on its standard
//! input it says what was asked of the vault so far, and it ends with it.

use std::io::BufRead;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use farshore_processor::{Processor, ProcessorConfig, Stop};
use farshore_vault::{CountingStore, Vault};
use object_store::local::LocalFileSystem;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [vault, target] => follow(Path::new(vault), Path::new(target)),
        _ => Err(anyhow::anyhow!("usage: follow VAULT-FOLDER TARGET")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("follow: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn follow(vault: &Path, target: &Path) -> Result<()> {
    let store = CountingStore::new(Arc::new(LocalFileSystem::new_with_prefix(vault)?));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let vault =
        runtime.block_on(Vault::open_store(store.clone(), "counted:", &farshore_vault::Access::of_process()))?;
    let processor = Processor::open_vault(ProcessorConfig::new("counted:", target), vault)?;
    let stop = Stop::new();
    let outcomes = std::thread::scope(|scope| -> Result<_> {
        let following = scope.spawn(|| processor.run(&stop));
        for line in std::io::stdin().lock().lines() {
            line?;
            let asked = store.requests();
            let lists = asked.lists;
            println!("{} {lists}", asked.all());
        }
        stop.request();
        following.join().ok().context("the processor panicked")
    })?;
    for outcome in outcomes {
        if let Some(error) = outcome.error {
            return Err(error).context(outcome.group.to_string());
        }
    }
    Ok(())
}
