//! Owns what commands that change something, or whose exit code is a verdict, say on standard output.
//!
//! Promises that the work goes on, and that the exit code is its own, though nobody reads any more: as in `kiln forget … | head -1`. Where a line is lost for
//! another reason, as on a full disk, none follows it, and a command that did all its work fails. What only looks prints with `println!`, and ends with its reader.

use std::{
    fmt,
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
};

/// Whether a line was lost for another reason than that nobody reads.
static IS_LOST: AtomicBool = AtomicBool::new(false);

/// Prints a line, as `println!` does, and goes on if it can't.
macro_rules! reported {
    ($($text:tt)*) => {
        $crate::cli::reported::line(format_args!($($text)*))
    };
}

/// What `reported!` does.
pub(super) fn line(text: fmt::Arguments<'_>) {
    bytes(text.to_string().as_bytes());
}

/// Prints a line that somebody else wrote, byte for byte.
pub(super) fn bytes(line: &[u8]) {
    if is_lost() {
        return;
    }
    let mut out = io::stdout().lock();
    note(out.write_all(line).and_then(|()| out.write_all(b"\n")));
}

/// Whether somebody who still reads misses a line.
pub(super) fn is_lost() -> bool {
    IS_LOST.load(Ordering::Relaxed)
}

fn note(written: io::Result<()>) {
    let Err(error) = written else { return };
    if error.kind() != io::ErrorKind::BrokenPipe && !IS_LOST.swap(true, Ordering::Relaxed) {
        // Standard error may be as full.
        let _ = writeln!(
            io::stderr(),
            "kiln: standard output can't be written: {error}"
        );
    }
}
