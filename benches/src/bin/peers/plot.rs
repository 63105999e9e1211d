//! The pictures: throughput beside the reference, and how latency is distributed.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::report::{REFERENCE, Report};
use crate::servers::Server;
use farshore_benches::load::LOADS;
use farshore_benches::report::median;

const SIZE: (u32, u32) = (960, 480);
const COLOURS: [RGBColor; 6] = [
    RGBColor(150, 150, 150),
    RGBColor(60, 60, 60),
    RGBColor(190, 120, 60),
    RGBColor(90, 150, 210),
    RGBColor(40, 110, 180),
    RGBColor(20, 140, 90),
];

/// Writes the plots.
///
/// # Errors
/// Of the file system.
pub fn write(report: &Report, dir: &Path) -> Result<()> {
    throughput(report, &dir.join("throughput.svg")).map_err(|e| anyhow!("throughput.svg: {e}"))?;
    for load in &LOADS {
        let name = format!("latency-{}-{}-{}.svg", load.rw, load.block, load.depth);
        latency(report, load, &dir.join(&name)).map_err(|e| anyhow!("{name}: {e}"))?;
    }
    Ok(())
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// A bar for each load and server: its throughput as a multiple of the reference's.
fn throughput(report: &Report, path: &Path) -> Drawn {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let ratios: Vec<Vec<f64>> =
        LOADS.iter().map(|load| Server::ALL.map(|server| report.ratio(load, server)).to_vec()).collect();
    // The legend has its place above the bars.
    let highest = ratios.iter().flatten().copied().fold(1.0, f64::max) * 1.4;
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("Throughput as a multiple of {REFERENCE}"), ("sans-serif", 20))
        .margin(10)
        .x_label_area_size(10)
        .y_label_area_size(40)
        .build_cartesian_2d(0.0..LOADS.len() as f64, -highest / 15.0..highest)?;
    chart.configure_mesh().disable_x_mesh().x_labels(0).draw()?;
    let names = LOADS
        .iter()
        .enumerate()
        .map(|(n, load)| Text::new(load.to_string(), (n as f64 + 0.05, -highest / 40.0), ("sans-serif", 14)));
    chart.draw_series(names)?;
    let width = 0.9 / Server::ALL.len() as f64;
    for (n, server) in Server::ALL.into_iter().enumerate() {
        let bars = ratios.iter().enumerate().map(|(load, ratios)| {
            let left = load as f64 + 0.05 + n as f64 * width;
            Rectangle::new([(left, 0.0), (left + width * 0.9, ratios[n])], COLOURS[n].filled())
        });
        chart
            .draw_series(bars)?
            .label(server.name())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], COLOURS[n].filled()));
    }
    let place = SeriesLabelPosition::UpperRight;
    chart.configure_series_labels().position(place).background_style(WHITE).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}

/// A curve for each server: the latency at each percentile.
fn latency(report: &Report, load: &farshore_benches::load::Load, path: &Path) -> Drawn {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let curve = |server| -> Vec<(f64, f64)> {
        let percentiles: Vec<f64> =
            report.of(load, server).next().map(|m| m.latency_us.iter().map(|(p, _)| *p).collect()).unwrap_or_default();
        let at = |p: f64| median(report.of(load, server).map(|m| m.at(p)).collect());
        // So many nines: 50 % is 0.3, 99 % is 2, 99.9 % is 3.
        percentiles.into_iter().map(|p| (-(1.0 - p / 100.0).log10(), at(p).max(1.0))).collect()
    };
    let curves: Vec<(usize, Vec<(f64, f64)>)> = Server::ALL.into_iter().map(curve).enumerate().collect();
    let highest = curves.iter().flat_map(|(_, c)| c.iter().map(|(_, us)| *us)).fold(1.0, f64::max) * 1.5;
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("Latency: {load}"), ("sans-serif", 20))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..4.1, (10.0..highest).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("share of the requests that are faster")
        .y_desc("microseconds")
        .x_labels(5)
        .x_label_formatter(&|nines| {
            format!("{:.*} %", (*nines as usize).saturating_sub(2), 100.0 - 100.0 / 10_f64.powf(*nines))
        })
        .draw()?;
    for (n, points) in curves {
        chart
            .draw_series(LineSeries::new(points, COLOURS[n].stroke_width(2)))?
            .label(Server::ALL[n].name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], COLOURS[n].stroke_width(2)));
    }
    let place = SeriesLabelPosition::UpperLeft;
    chart.configure_series_labels().position(place).background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
