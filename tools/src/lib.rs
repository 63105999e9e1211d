//! The command line and nothing else: each verb is a file in [`verbs`]; what it does lies in the stages. It is a library, so that
//! the simulator of the tests links the agent's start as shipped; the program `farshore` is [`main`].

pub mod access;
pub mod agent;
mod cli;
pub mod config;
pub mod costs;
mod demo;
mod door;
mod estimate;
pub mod failure;
mod keys;
mod limits;
mod loss;
mod output;
mod paths;
mod point;
mod service;
mod stop;
mod trace;
mod units;
mod verbs;
mod view_export;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Verb};
use crate::output::Output;

/// Reads the arguments, does the verb, and says how it went.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.verbose);
    let out = Output { json: cli.json };
    let done = match cli.verb {
        Verb::Init(args) => verbs::init::run(&args, out),
        Verb::Key(args) => verbs::key::run(&args, out),
        Verb::Enable(args) => verbs::enable::run(&args, out),
        Verb::Run(args) => verbs::run::run(&args, out),
        Verb::Ship(args) => verbs::ship::run(&args),
        Verb::Process(args) => verbs::process::run(&args, out),
        Verb::Release(args) => verbs::claims::release(&args, out),
        Verb::Adopt(args) => verbs::claims::adopt(&args, out),
        Verb::Status(args) => verbs::status::run(&args, out),
        Verb::Points(args) => verbs::points::run(&args, out),
        Verb::Mark(args) => verbs::mark::run(&args, out),
        Verb::Resync(args) => verbs::resync::run(&args, out),
        Verb::Attach(args) => verbs::attach::run(&args, out),
        Verb::Export(args) => verbs::export::run(&args, out),
        Verb::Failover(args) => verbs::failover::run(&args, out),
        Verb::Verify(args) => verbs::verify::run(&args, out),
        Verb::Inspect(args) => verbs::inspect::run(&args, out),
        Verb::Estimate(args) => verbs::estimate::run(&args, out),
        Verb::Demo(args) => verbs::demo::run(&args, out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            failure::print(&error, out.json);
            ExitCode::FAILURE
        }
    }
}

/// Logs go to standard error, so that standard output stays what was asked for.
fn start_log(verbose: u8) {
    let default = match verbose {
        0 => "warn,farshore=info",
        1 => "info,farshore_capture=debug,farshore_shipper=debug,farshore_processor=debug",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("FARSHORE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(false)
        .init();
}
