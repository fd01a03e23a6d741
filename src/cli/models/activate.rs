//! `kiln models activate`: chooses the version that a model's bare name means, or that a share of its inputs goes to.
//!
//! Promises that with `--warm` nothing is switched where a limit speaks against it. Refuses a version that fails its checks here.

use super::{open, rollover, share};
use crate::{
    cli::{Exit, actor},
    config::Settings,
    parts,
    store::{ActionKind, PostgresStore},
    warm::rollover::Shift,
};
use anyhow::{Context, bail};
use clap::Args;
use kiln_contract::split::Share;
use kiln_model::Choices;
use serde_json::{Value, json};
use std::time::Duration;

/// Makes a version the one that a bare model name means, for all inputs or a share of them, on every worker of this database, within a second.
#[derive(Debug, Args)]
#[command(after_help = "\
The version must be in the models folder here and pass its checks. A worker that doesn't have it keeps serving
its version, says so in its log and in kiln_model_activations_pending, and follows as soon as it has it.

With --warm, hot inputs are scored with the version first, in the background, until that share of the requests would find an
entry or the time is up; then it is switched. The command shows how its scores differ from those of the serving version; a limit on
that stops the switch, with exit code 4. Switching back needs no warming: the old entries are still there.

With --share, the active version stays, and a share of the inputs goes to this one: by a hash of the input's key (of a job's
ranking: of the ranking's), or of the input itself, so that a key always goes to the same version, and a larger share keeps what a smaller
one had. A share of 0%, or making a version active, ends it. Jobs that name a version are left alone.

Examples:
  kiln models activate sentiment@2
  kiln models activate sentiment@2 --share 10%
  kiln models activate sentiment@2 --share 0%
  kiln models activate sentiment@2 --warm 0.95 --max-flips 0.02
  kiln models activate ranker@20261127 --warm 0.95 --min-correlation 0.8 --max-shift 0.1
  kiln models activate sentiment --default")]
pub(super) struct Arguments {
    /// name@version; with --default, the name alone.
    model: String,
    /// Undo the choice: workers serve the version that their settings name, or else the highest.
    #[arg(long)]
    default: bool,
    /// Give it only a share of the inputs, such as 10% or 0.1, beside the active version; 0% takes that back.
    #[arg(long, value_parser = share::parse, conflicts_with = "default")]
    share: Option<Share>,
    /// Share of requests that should find an entry of the version before it is switched to, such as 0.95.
    #[arg(long, value_name = "SHARE", conflicts_with = "default")]
    warm: Option<f64>,
    /// How long that may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "warm")]
    warm_limit: u64,
    /// Don't switch if a larger share of hot inputs would get another label.
    #[arg(long, value_name = "SHARE", requires = "warm")]
    max_flips: Option<f64>,
    /// Don't switch if the scores' rank correlation is lower.
    #[arg(
        long,
        value_name = "CORRELATION",
        requires = "warm",
        allow_negative_numbers = true
    )]
    min_correlation: Option<f64>,
    /// Don't switch if scores move by more than this on average, either way.
    #[arg(
        long,
        value_name = "DIFFERENCE",
        requires = "warm",
        allow_negative_numbers = true
    )]
    max_shift: Option<f64>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What somebody must know whose limit came too late.
const UNCHOSEN: &str = "\
kiln: no version of this model was ever chosen, so that workers serve the highest one, which it is: \
choose the one before it, and the next one waits until it is activated";

impl Arguments {
    /// Refuses limits that nothing could be compared with.
    fn check_limits(&self, share: f64) -> anyhow::Result<()> {
        if !(share > 0.0 && share <= 1.0) {
            bail!("--warm: expected a share above 0 and at most 1, such as 0.95");
        }
        for (option, limit) in [
            ("--max-flips", self.max_flips),
            ("--min-correlation", self.min_correlation),
            ("--max-shift", self.max_shift),
        ] {
            if limit.is_some_and(f64::is_nan) {
                bail!("{option}: expected a number");
            }
        }
        Ok(())
    }
}

/// What is to be chosen, and what was chosen before.
struct Chosen<'a> {
    name: &'a str,
    version: Option<&'a str>,
    before: Choices,
    /// The version that workers with the settings of this command serve now, as far as that is known.
    active: Option<String>,
}

impl<'a> Chosen<'a> {
    async fn new(
        arguments: &'a Arguments,
        settings: &Settings,
        store: &PostgresStore,
    ) -> anyhow::Result<Self> {
        let (name, version) = match (arguments.model.split_once('@'), arguments.default) {
            (Some((name, version)), false) => (name, Some(version)),
            (None, true) => (arguments.model.as_str(), None),
            (None, false) => bail!("expected name@version, found {:?}", arguments.model),
            (Some(_), true) => bail!("--default takes a name without a version"),
        };
        // What is taken back needn't be there any more.
        let is_end = version.is_none() || arguments.share == Some(Share::NONE);
        let registry = if is_end {
            None
        } else {
            let registry = open(settings).await?;
            super::resolve(&registry, &arguments.model)?;
            Some(registry)
        };
        store.migrate().await.context("migrations")?;
        let before = store.choices().await?;
        let mut active = before.active.get(name).cloned();
        if let Some(registry) = &registry {
            registry.choose(before.clone());
            let serving = registry.resolve(name).ok();
            active = serving.map(|model| model.info().version.clone());
        }
        if let (Some(version), Some(_)) = (version, arguments.share) {
            share::check(registry.as_deref(), &before, (name, version))?;
        }
        Ok(Self {
            name,
            version,
            before,
            active,
        })
    }

    /// The version that was chosen before.
    fn was(&self) -> Option<&str> {
        self.before.active.get(self.name).map(String::as_str)
    }

    /// Chooses it.
    async fn choose(&self, store: &PostgresStore, share: Option<Share>) -> anyhow::Result<()> {
        match (self.version, share) {
            (Some(version), None) => store.choose_model(self.name, version).await?,
            (Some(version), Some(share)) if share > Share::NONE => {
                store.split_model(self.name, version, share).await?;
            }
            (Some(_), Some(_)) => drop(store.unsplit_model(self.name).await?),
            (None, _) => drop(store.unchoose_model(self.name).await?),
        }
        let chosen = match (self.version, share) {
            (Some(version), Some(share)) => format!("{}@{version} for {share}", self.name),
            (Some(version), None) => format!("{}@{version}", self.name),
            (None, _) => format!("{} by default", self.name),
        };
        actor::note(store, ActionKind::Activate, &chosen).await;
        Ok(())
    }

    fn as_json(&self, share: Option<Share>, warm_share: Option<f64>) -> Value {
        let before = self.before.splits.get(self.name);
        let before =
            before.map(|split| json!({"version": split.version, "share": split.share.ratio()}));
        json!({
            "model": self.name, "version": self.version, "before": self.was(), "warm_share": warm_share,
            "share": share.map(Share::ratio), "share_before": before,
        })
    }

    fn say(&self, share: Option<Share>) {
        let name = self.name;
        if let (Some(version), Some(share)) = (self.version, share) {
            let active = self.active.as_deref();
            reported!(
                "{}",
                share::said(&self.before, active, (name, version), share)
            );
            return;
        }
        let was = match self.was() {
            None => "no version was chosen before".to_owned(),
            Some(version) => format!("before it was {version}"),
        };
        let ended = share::ended(&self.before, name);
        let ended = ended.map_or_else(String::new, |ended| format!("; {ended}"));
        match self.version {
            Some(version) => reported!("{name}@{version} is active; {was}{ended}"),
            None => reported!("{name} follows the workers' settings; {was}{ended}"),
        }
    }
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let store = parts::postgres(&settings)?;
    let chosen = Chosen::new(&arguments, &settings, &store).await?;
    let mut warmed = None;
    if let (Some(share), Some(new)) = (arguments.warm, chosen.version) {
        arguments.check_limits(share)?;
        let name = chosen.name;
        let active = chosen.active.as_deref();
        let wanted = rollover::Wanted {
            name,
            old: active.filter(|old| *old != new),
            new,
            share,
            limit: Duration::from_secs(arguments.warm_limit),
        };
        let found = rollover::warm(&settings, &store, &wanted).await?;
        show(&arguments, &found);
        if let Some(reason) = objection(&arguments, found.shift) {
            eprintln!("kiln: {name}@{new} was not made active: {reason}");
            if chosen.was().is_none() && active == Some(new) {
                eprintln!("{UNCHOSEN}");
            }
            return Ok(Exit::Limited);
        }
        warmed = Some(found);
    }
    chosen.choose(&store, arguments.share).await?;
    if arguments.json {
        let warm_share = warmed.map(|warmed| warmed.share);
        reported!("{}", chosen.as_json(arguments.share, warm_share));
    } else {
        chosen.say(arguments.share);
    }
    Ok(Exit::Ok)
}

fn show(arguments: &Arguments, warmed: &rollover::Warmed) {
    if arguments.json {
        let shift = warmed.shift.map(|shift| {
            json!({"inputs": shift.inputs, "mean": shift.mean, "mean_absolute": shift.mean_absolute, "max_absolute": shift.max_absolute, "rank_correlation": shift.rank_correlation, "flips": shift.flips})
        });
        reported!(
            "{}",
            json!({"hot_inputs": warmed.inputs, "share": warmed.share, "shift": shift})
        );
        return;
    }
    reported!("hot inputs         {}", warmed.inputs);
    reported!(
        "would hit          {:.1} % of requests",
        100.0 * warmed.share
    );
    let Some(shift) = warmed.shift else {
        reported!("nothing to compare the scores with");
        return;
    };
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    reported!("compared           {} inputs", shift.inputs);
    reported!(
        "scores move by     {:+.4} on average, {:.4} either way, {:.4} at most",
        shift.mean,
        shift.mean_absolute,
        shift.max_absolute
    );
    reported!(
        "rank correlation   {}",
        shift
            .rank_correlation
            .map_or_else(|| "none".to_owned(), |r| format!("{r:.4}"))
    );
    if let Some(flips) = shift.flips {
        reported!("other labels       {}", percent(flips));
    }
}

/// What speaks against the switch.
fn objection(arguments: &Arguments, shift: Option<Shift>) -> Option<String> {
    let limited = arguments.max_flips.is_some()
        || arguments.min_correlation.is_some()
        || arguments.max_shift.is_some();
    let Some(shift) = shift else {
        return limited.then(|| "no scores of both versions can be compared".to_owned());
    };
    if let Some(max) = arguments.max_flips {
        let Some(flips) = shift.flips else {
            return Some("no labels of both versions can be compared".to_owned());
        };
        if flips > max {
            return Some(format!(
                "{:.2} % of the inputs get another label, more than {:.2} %",
                100.0 * flips,
                100.0 * max
            ));
        }
    }
    if let Some(min) = arguments.min_correlation
        && shift.rank_correlation.is_none_or(|found| found < min)
    {
        return Some(format!("the rank correlation is less than {min}"));
    }
    if let Some(max) = arguments.max_shift
        && shift.mean_absolute > max
    {
        return Some(format!(
            "scores move by {:.4} on average, more than {max}",
            shift.mean_absolute
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn a_limit_that_nothing_can_be_compared_for_speaks_against_the_switch() {
        let line = ["activate", "m@2", "--warm", "0.9", "--max-flips", "0.1"];
        let arguments = Line::parse_from(line).arguments;
        let of = |flips| {
            let shift = Shift {
                inputs: 10,
                mean: 0.0,
                mean_absolute: 0.0,
                max_absolute: 0.0,
                rank_correlation: None,
                flips,
            };
            objection(&arguments, Some(shift))
        };
        assert_eq!(of(Some(0.1)), None);
        let more = of(Some(0.2)).expect("an objection");
        assert!(more.contains("more than 10.00 %"), "{more}");
        let none = of(None).expect("an objection");
        assert!(none.contains("no labels"), "{none}");
        assert!(objection(&arguments, None).is_some());
    }
}
