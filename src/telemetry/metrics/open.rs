//! Owns the metrics as OpenMetrics has them, made of the recorder's text.
//!
//! Promises that a series has the same name, labels and value in both forms, so that a Prometheus which asks for the one goes on with what it has
//! of the other. Refuses to say when a counter began: the recorder doesn't know.

use std::fmt::Write;

/// Units that names end in, where they do: the form wants both to agree.
const UNITS: [&str; 2] = ["seconds", "bytes"];

/// The recorder's text in the form of OpenMetrics: a counter's family is named without `_total`, units are said, and the end is.
pub fn open_metrics(text: &str) -> String {
    let mut open = String::with_capacity(text.len() + 4096);
    // A family's help comes before its type, which says how it is named.
    let mut help = None;
    for line in text.lines() {
        if let Some(said) = line.strip_prefix("# HELP ") {
            help = said.split_once(' ');
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|said| said.split_once(' '))
        {
            family(&mut open, name, kind, help.take());
        } else if !line.is_empty() && !line.starts_with('#') {
            open.push_str(line);
            open.push('\n');
        }
    }
    open.push_str("# EOF\n");
    open
}

fn family(open: &mut String, name: &str, kind: &str, help: Option<(&str, &str)>) {
    // What counts and isn't named so has no form as a counter.
    let (family, kind) = match (kind, name.strip_suffix("_total")) {
        ("counter", Some(family)) => (family, kind),
        ("counter", None) => (name, "unknown"),
        _ => (name, kind),
    };
    // Writing to a text can't fail.
    let _ = writeln!(open, "# TYPE {family} {kind}");
    let unit = UNITS.iter().find(|unit| {
        let rest = family.strip_suffix(**unit);
        rest.is_some_and(|rest| rest.ends_with('_'))
    });
    if let Some(unit) = unit {
        let _ = writeln!(open, "# UNIT {family} {unit}");
    }
    if let Some((_, help)) = help.filter(|(of, _)| *of == name) {
        // A quote is escaped here, and isn't in the text.
        let _ = writeln!(open, "# HELP {family} {}", help.replace('"', "\\\""));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{catalogue::all, metric::Kind};
    use super::*;

    #[test]
    fn each_series_is_what_it_is_in_the_text_and_each_family_says_its_type_and_unit() {
        let text = "\
# HELP kiln_jobs_total Jobs, \"ok\" or not.
# TYPE kiln_jobs_total counter
kiln_jobs_total{outcome=\"ok\"} 7

# TYPE kiln_up_seconds_total counter
kiln_up_seconds_total 3

# HELP kiln_wait_seconds Time.
# TYPE kiln_wait_seconds histogram
kiln_wait_seconds_bucket{le=\"1\"} 2
kiln_wait_seconds_bucket{le=\"+Inf\"} 2
kiln_wait_seconds_sum 0.5
kiln_wait_seconds_count 2

# TYPE kiln_odd counter
kiln_odd 1
";
        let open = "\
# TYPE kiln_jobs counter
# HELP kiln_jobs Jobs, \\\"ok\\\" or not.
kiln_jobs_total{outcome=\"ok\"} 7
# TYPE kiln_up_seconds counter
# UNIT kiln_up_seconds seconds
kiln_up_seconds_total 3
# TYPE kiln_wait_seconds histogram
# UNIT kiln_wait_seconds seconds
# HELP kiln_wait_seconds Time.
kiln_wait_seconds_bucket{le=\"1\"} 2
kiln_wait_seconds_bucket{le=\"+Inf\"} 2
kiln_wait_seconds_sum 0.5
kiln_wait_seconds_count 2
# TYPE kiln_odd unknown
kiln_odd 1
# EOF
";
        assert_eq!(open_metrics(text), open);
        assert_eq!(open_metrics(""), "# EOF\n");
    }

    #[test]
    fn no_two_families_have_a_name_in_common() {
        let mut names = std::collections::BTreeSet::new();
        for metric in all() {
            let is_counter = metric.kind == Kind::Counter;
            assert_eq!(
                metric.name.ends_with("_total"),
                is_counter,
                "{}",
                metric.name
            );
            let family = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            assert!(
                names.insert(family),
                "{family} is a counter and something else"
            );
        }
    }
}
