//! The `kiln` command: see [`kiln::cli`].

use std::process::ExitCode;

/// The model's buffers are large and short-lived: the system's allocator gives them back each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kiln::cli::main()
}
