//! `kiln warm simulate`: replays requests against ways of warming, all at the same budget. Needs no server.

mod arguments;
mod plot;
mod show;

use crate::{
    cli::{Exit, file::unpack},
    warm::simulate::{
        Policy, Replay,
        log::{self, AccessLog, BadLog, Reading},
        replay,
        synthetic::Make,
        trace::RequestTrace,
        wish,
    },
};
use anyhow::{Context, bail};
pub(super) use arguments::Arguments;
use indicatif::{ProgressBar, ProgressStyle};
use std::{fs::File, io, path::Path};

/// Steps of a progress bar.
const STEPS: u64 = 1_000;

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    arguments.check()?;
    let trace = load(arguments)?;
    let world = arguments.world(&trace)?;
    if let Some(wish) = arguments.wish {
        let bar = bar(STEPS)?;
        bar.set_message("heat");
        let advice = wish::advise(&trace, &world, wish / 100.0, |share| {
            bar.set_position((share * STEPS as f64) as u64);
        });
        bar.finish_and_clear();
        show::advice(arguments, wish, &advice);
        return Ok(if advice.fits.is_empty() {
            Exit::Failed
        } else {
            Exit::Ok
        });
    }
    let policies: Vec<Policy> = Policy::ALL
        .into_iter()
        .filter(|policy| *policy != Policy::Oracle || trace.truth.is_some())
        .collect();
    let bar = bar(STEPS * policies.len() as u64)?;
    let outcomes: Vec<Replay> = (0u64..)
        .zip(&policies)
        .map(|(number, policy)| {
            bar.set_message(policy.as_str());
            replay(&trace, &world, *policy, |share| {
                bar.set_position(number * STEPS + (share * STEPS as f64) as u64);
            })
        })
        .collect();
    bar.finish_and_clear();
    if let Some(file) = &arguments.plot {
        plot::plot(file, &trace, &outcomes).with_context(|| file.display().to_string())?;
    }
    show::outcomes(arguments, &trace, &world, &outcomes);
    if let (Some(file), false) = (&arguments.plot, arguments.json) {
        println!("\nplot               {}", file.display());
    }
    Ok(Exit::Ok)
}

fn bar(length: u64) -> anyhow::Result<ProgressBar> {
    let bar = ProgressBar::new(length);
    bar.set_style(ProgressStyle::with_template("{bar:40} {percent}% {msg}")?);
    Ok(bar)
}

fn load(arguments: &Arguments) -> anyhow::Result<RequestTrace> {
    if let Some(shape) = arguments.synthetic {
        return Ok(Make {
            shape,
            keys: arguments.keys as usize,
            rate: arguments.rate,
            length: arguments.hours * 3_600.0,
            crowd: arguments.crowd as usize,
            seed: arguments.seed,
        }
        .draw());
    }
    let Some(path) = &arguments.trace else {
        bail!("give an access log, or --synthetic");
    };
    let reading = arguments.reading()?;
    let AccessLog {
        trace, left_out, ..
    } = if path == Path::new("-") {
        read(io::stdin(), &reading).context("standard input")?
    } else {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        read(file, &reading).with_context(|| path.display().to_string())?
    };
    if left_out > 0 {
        eprintln!(
            "{left_out} lines are left out: they don't fit the pattern, have no time or are of another namespace"
        );
    }
    Ok(trace)
}

/// Reads a log, which may be packed by gzip or zstd.
fn read(source: impl io::Read + Send + 'static, how: &Reading) -> Result<AccessLog, BadLog> {
    let (unpacked, _) = unpack(source)?;
    log::read(unpacked, how)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_packed_log_is_read_as_it_is() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(b"1,a\n2,b\n3,a\n").expect("packed");
        let packed = io::Cursor::new(packer.finish().expect("packed"));
        let log = read(packed, &Reading::default()).expect("a log");
        assert_eq!((log.trace.requests.len(), log.names.len()), (3, 2));
    }
}
