//! What the program does, by its first argument.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
