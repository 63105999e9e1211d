//! The picture: a panel for each part, its figures as multiples of those of the smallest size.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::report::{Part, Report};

const SIZE: (u32, u32) = (1200, 900);
/// The most curves of a panel; a part has its table for the others.
const CURVES: usize = 5;
const COLOURS: [RGBColor; CURVES] = [
    RGBColor(40, 110, 180),
    RGBColor(190, 120, 60),
    RGBColor(20, 140, 90),
    RGBColor(150, 80, 160),
    RGBColor(120, 120, 120),
];
/// Where a figure that is nothing at all is drawn: a logarithm has no place for it.
const LOWEST: f64 = 1e-2;

/// Writes it.
///
/// # Errors
/// Of the file system.
pub fn write(report: &Report, path: &Path) -> Result<()> {
    draw(report, path).map_err(|e| anyhow!("{}: {e}", path.display()))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(report: &Report, path: &Path) -> Drawn {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    for (part, area) in report.parts.iter().zip(root.split_evenly((2, 2))) {
        panel(part, &area)?;
    }
    root.present()?;
    Ok(())
}

/// A figure at each place of the axis as a multiple of the first that is not 0.
fn multiples(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let first = points.iter().map(|(_, figure)| *figure).find(|figure| *figure > 0.0).unwrap_or(1.0);
    (0..).zip(points).map(|(place, (_, figure))| (f64::from(place), (figure / first).max(LOWEST))).collect()
}

fn panel(part: &Part, area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawn {
    let curves: Vec<_> = part.curves.iter().filter(|curve| curve.drawn).take(CURVES).collect();
    let Some(sizes) = curves.first().map(|curve| curve.points.iter().map(|(size, _)| *size).collect::<Vec<_>>()) else {
        return Ok(());
    };
    let all: Vec<f64> = curves.iter().flat_map(|curve| multiples(&curve.points)).map(|(_, y)| y).collect();
    let lowest = all.iter().copied().fold(1.0, f64::min) * 0.7;
    // The legend has its place above the curves.
    let highest = all.iter().copied().fold(2.0, f64::max).powf(1.5) * 1.5;
    // Sizes stand at equal distances: each is a multiple of the one before, or a percentage, which may be 0.
    let last = (sizes.len().max(2) - 1) as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(part.by, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..last, (lowest..highest).log_scale())?;
    let size_at = |place: &f64| {
        let whole = place.fract().abs() < 1e-6;
        sizes.get(*place as usize).filter(|_| whole).map_or_else(String::new, ToString::to_string)
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(sizes.len())
        .x_label_formatter(&size_at)
        .y_desc("as a multiple of the smallest")
        .draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS) {
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(multiples(&curve.points), style))?
            .label(&curve.what)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], style));
    }
    let place = SeriesLabelPosition::UpperLeft;
    chart.configure_series_labels().position(place).background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    Ok(())
}
