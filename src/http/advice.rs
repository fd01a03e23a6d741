//! Judges a pattern's statistics: whether the cache is healthy, and what would raise its hit rate. Pure.

use crate::{
    config::{Cache, CacheMode, CacheThresholds},
    pipeline::LaneFigures,
    telemetry::{causes::SOON, window::Figures},
};

/// Fewest watched misses from which a cause is named.
const FEW: u64 = 5;

/// The cache's status, with a warning for each threshold that it misses.
pub(super) fn judge(figures: &Figures, wanted: &CacheThresholds) -> (&'static str, Vec<String>) {
    let mut warnings = Vec::new();
    let Some(rate) = figures.hit_rate() else {
        return ("idle", warnings);
    };
    let mut status = "healthy";
    if figures.p95_ms > wanted.p95_ms {
        status = "warning";
        warnings.push(format!(
            "p95 job latency is {:.0} ms, above the threshold of {} ms",
            figures.p95_ms, wanted.p95_ms
        ));
    }
    if rate < wanted.hit_rate {
        status = "degraded";
        warnings.push(format!(
            "hit rate is {:.1} %, below the threshold of {:.1} %",
            100.0 * rate,
            100.0 * wanted.hit_rate
        ));
    }
    if figures.mean_ms > wanted.mean_ms {
        status = "degraded";
        warnings.push(format!(
            "mean job latency is {:.0} ms, above the threshold of {} ms",
            figures.mean_ms, wanted.mean_ms
        ));
    }
    (status, warnings)
}

/// What would avoid most of a pattern's misses, judging by their causes.
pub(super) fn recommend(figures: &Figures, ttl: u64) -> String {
    let causes = figures.causes;
    let all = causes.all();
    if all < FEW {
        return format!(
            "too few of its {} misses were sampled to tell why; check again later",
            figures.misses
        );
    }
    let percent = |part: u64| 100.0 * part as f64 / all as f64;
    let max = [causes.dropped, causes.soon_after, causes.late, causes.first]
        .into_iter()
        .max()
        .unwrap_or_default();
    if causes.dropped == max {
        return format!(
            "give Redis more memory, or find out what else deletes keys there: {:.0} % of the misses were requested before their entry's TTL was over",
            percent(causes.dropped)
        );
    }
    if causes.soon_after == max {
        return format!(
            "raise its TTL from {ttl} s by {SOON} s, or warm it: {:.0} % of the misses were requested within {} minutes after their entry expired",
            percent(causes.soon_after),
            SOON / 60
        );
    }
    if causes.late == max {
        return format!(
            "warm what is asked for at known times: {:.0} % of the misses were requested more than {} minutes after their entry expired",
            percent(causes.late),
            SOON / 60
        );
    }
    format!(
        "use coarser inputs, if your use allows it: {:.0} % of the misses were requested for the first time, which neither a longer TTL nor warming by heat avoids",
        percent(causes.first)
    )
}

/// The models that score an input in less time than it is looked up, though all of theirs are.
pub(super) fn not_worth_it(
    cache: &Cache,
    look_up: Option<f64>,
    lanes: &[LaneFigures],
) -> Vec<String> {
    let Some(look_up) = look_up.filter(|_| cache.enabled) else {
        return Vec::new();
    };
    let cheap = lanes.iter().filter_map(|lane| {
        let model = lane.seconds_per_input.filter(|model| *model < look_up)?;
        (cache.mode_of(None, &lane.name) == CacheMode::Always).then(|| {
            format!(
                "`{}` scores an input in {:.1} µs, a look-up takes {:.1} µs: `cache.models.{} = \"auto\"` would spare both the look-up and what is stored",
                lane.name,
                1e6 * model,
                1e6 * look_up,
                lane.name
            )
        })
    });
    cheap.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::window::Causes;

    fn figures(hits: u64, mean_ms: f64, p95_ms: f64, causes: [u64; 4]) -> Figures {
        let [first, soon_after, late, dropped] = causes;
        Figures {
            hits,
            misses: 100,
            mean_ms,
            p95_ms,
            causes: Causes {
                first,
                soon_after,
                late,
                dropped,
            },
            ..Figures::default()
        }
    }

    #[test]
    fn health_follows_the_thresholds_and_says_why() {
        let wanted = CacheThresholds::default();
        let judge = |figures: Figures| {
            let (status, warnings) = judge(&figures, &wanted);
            (status, warnings.len())
        };
        assert_eq!(judge(Figures::default()), ("idle", 0));
        assert_eq!(judge(figures(100, 10.0, 90.0, [0; 4])), ("healthy", 0));
        assert_eq!(judge(figures(100, 10.0, 110.0, [0; 4])), ("warning", 1));
        assert_eq!(judge(figures(99, 10.0, 90.0, [0; 4])), ("degraded", 1));
        assert_eq!(judge(figures(50, 60.0, 110.0, [0; 4])), ("degraded", 3));
    }

    #[test]
    fn advice_comes_from_a_patterns_own_misses() {
        let says = |causes| recommend(&figures(0, 0.0, 0.0, causes), 300);
        assert!(says([1, 1, 1, 1]).starts_with("too few"));
        assert!(
            says([9, 1, 0, 0]).starts_with("use coarser inputs")
                && says([9, 1, 0, 0]).contains("90 %")
        );
        assert!(says([2, 8, 0, 0]).starts_with("raise its TTL from 300 s by 1800 s"));
        assert!(says([1, 1, 8, 0]).starts_with("warm what is asked for"));
        assert!(
            says([1, 1, 1, 7]).starts_with("give Redis more memory")
                && says([1, 1, 1, 7]).contains("70 %")
        );
    }
}
