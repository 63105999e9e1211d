//! `farshore`: the program; everything lies in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    farshore::main()
}
