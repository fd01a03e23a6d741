//! Draws the share of requests that waited over time.

use crate::warm::simulate::{Replay, trace::RequestTrace};
use plotters::prelude::*;
use std::path::Path;

/// Writes an SVG.
pub(super) fn plot(file: &Path, trace: &RequestTrace, outcomes: &[Replay]) -> anyhow::Result<()> {
    const COLOURS: [RGBColor; 6] = [
        RGBColor(120, 120, 120),
        RGBColor(230, 159, 0),
        RGBColor(86, 180, 233),
        RGBColor(213, 94, 0),
        RGBColor(0, 114, 178),
        RGBColor(0, 158, 115),
    ];
    let area = SVGBackend::new(file, (960, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let hours = trace.length / 3_600.0;
    let top = outcomes
        .iter()
        .flat_map(|o| &o.parts)
        .copied()
        .fold(0.0, f64::max)
        * 105.0;
    let mut chart = ChartBuilder::on(&area)
        .caption("Requests that waited, %", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..hours, 0.0..top.max(1.0))?;
    chart
        .configure_mesh()
        .x_desc("hours")
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (outcome, colour) in outcomes.iter().zip(COLOURS) {
        let parts = outcome.parts.len() as f64;
        let points = outcome
            .parts
            .iter()
            .enumerate()
            .map(|(index, share)| ((index as f64 + 0.5) / parts * hours, share * 100.0));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(outcome.policy.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(TRANSPARENT)
        .draw()?;
    area.present()?;
    Ok(())
}
