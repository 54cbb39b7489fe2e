//! The curves of docs/PERFORMANCE.md, one SVG each.

use std::{fs, path::Path};

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::samples::{Figure, Samples};

/// One picture: file, what it shows, the horizontal axis, and the curves with their names.
struct Curve {
    file: &'static str,
    title: &'static str,
    across: &'static str,
    figures: &'static [(&'static str, &'static str)],
    logarithmic: bool,
}

const CURVES: [Curve; 4] = [
    Curve {
        file: "memory-by-peers.svg",
        title: "Resident memory, MiB (65,536 rows are kept)",
        across: "peers",
        figures: &[("growth/peers/memory", "MiB")],
        logarithmic: true,
    },
    Curve {
        file: "processor-by-peers.svg",
        title: "Processor time of the agent a connection, µs",
        across: "peers",
        figures: &[("growth/peers/processor a connection", "µs")],
        logarithmic: true,
    },
    Curve {
        file: "memory-by-live-sockets.svg",
        title: "Memory, MiB (262,144 sockets are followed)",
        across: "live sockets",
        figures: &[
            ("growth/live sockets/memory", "resident"),
            ("growth/live sockets/maps", "kernel maps"),
        ],
        logarithmic: false,
    },
    Curve {
        file: "processor-by-rate.svg",
        title: "Processor time of the agent, % of one core",
        across: "connections a second",
        figures: &[("growth/rate/processor", "%")],
        logarithmic: false,
    },
];

/// Where the pictures lie, below the documents.
pub const DIRECTORY: &str = "performance";

/// Draws every curve that was measured.
pub fn write(samples: &Samples, docs: &Path) -> Result<()> {
    let directory = docs.join(DIRECTORY);
    fs::create_dir_all(&directory)?;
    for curve in &CURVES {
        let lines: Vec<(&str, Vec<(f64, f64)>)> = curve
            .figures
            .iter()
            .filter_map(|(figure, name)| Some((*name, samples.get(figure).map(Figure::points)?)))
            .collect();
        if lines.iter().any(|(_, points)| points.len() > 1) {
            let drawn = draw(curve, &lines, &directory.join(curve.file));
            drawn.map_err(|error| anyhow!("drawing {}: {error}", curve.file))?;
        }
    }
    Ok(())
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(curve: &Curve, lines: &[(&str, Vec<(f64, f64)>)], path: &Path) -> Drawn {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let right = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let top = points().map(|(_, y)| *y).fold(0.0, f64::max).max(1e-9) * 1.1;
    let area = SVGBackend::new(path, (760, 380)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area);
    chart
        .caption(curve.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(58);
    // The two kinds of axis are different types.
    macro_rules! fill {
        ($chart:expr) => {{
            let mut chart = $chart;
            chart
                .configure_mesh()
                .x_desc(curve.across)
                .x_label_formatter(&|x| thousands(*x))
                .light_line_style(WHITE)
                .draw()?;
            for (index, (name, points)) in lines.iter().enumerate() {
                let colour = Palette99::pick(index).to_rgba();
                chart
                    .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                    .label(*name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
                let dots = points.iter().map(|point| Circle::new(*point, 3, colour.filled()));
                chart.draw_series(dots)?;
            }
            if lines.len() > 1 {
                chart
                    .configure_series_labels()
                    .position(SeriesLabelPosition::UpperLeft)
                    .border_style(BLACK.mix(0.3))
                    .background_style(WHITE)
                    .draw()?;
            }
        }};
    }
    if curve.logarithmic {
        fill!(chart.build_cartesian_2d((1.0..right * 1.2).log_scale(), 0.0..top)?);
    } else {
        fill!(chart.build_cartesian_2d(0.0..right * 1.05, 0.0..top)?);
    }
    area.present()?;
    Ok(())
}

/// A whole number with commas.
pub fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < -0.5 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_have_commas() {
        assert_eq!(thousands(1_000_000.0), "1,000,000");
        assert_eq!(thousands(999.6), "1,000");
        assert_eq!(thousands(12.0), "12");
        assert_eq!(thousands(-1234.0), "-1,234");
    }

    #[test]
    fn a_curve_becomes_a_picture_with_its_axis() {
        let mut samples = Samples::default();
        for (x, value) in [(10.0, 5.0), (1_000.0, 6.0), (1_000_000.0, 70.0)] {
            samples.add("growth/peers/memory", "MiB", Some(x), value);
        }
        let directory = tempfile::tempdir().unwrap();
        write(&samples, directory.path()).unwrap();
        let drawn = directory.path().join(DIRECTORY).join("memory-by-peers.svg");
        let picture = fs::read_to_string(drawn).unwrap();
        assert!(picture.starts_with("<svg") && picture.contains("peers"), "{picture}");
    }
}
