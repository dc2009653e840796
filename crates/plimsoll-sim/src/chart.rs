//! Charts of results as SVG: lines over one axis.

use plotters::prelude::*;

use crate::report::{CandidateRuns, ms};

/// Size of a chart in pixels.
const SIZE: (u32, u32) = (960, 600);
/// Okabe and Ito's palette for colour-blind readers, and black.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(160, 160, 0),
];

/// Line chart; heights are milliseconds on a logarithmic scale.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// Title above the chart.
    pub title: String,
    /// Label of the horizontal axis.
    pub x_label: String,
    /// Tick labels of the horizontal axis, at 0, 1, 2 ….
    pub x_ticks: Vec<String>,
    /// Name and points of each line, as horizontal position and height.
    pub series: Vec<(String, Vec<(f64, f64)>)>,
}

impl Chart {
    /// Returns the latency by quantile, from the median to p99.99, with a line for each candidate.
    pub fn quantiles(title: &str, runs: &[CandidateRuns]) -> Self {
        let points = |runs: &CandidateRuns| {
            let share = |nines: f64| 1.0 - 10.0_f64.powf(-nines);
            (0..=80)
                .map(|step| f64::from(step) / 20.0)
                .map(|nines| (nines, runs.quantile_ms(share(nines)).0))
                .collect()
        };
        Self {
            title: title.to_owned(),
            x_label: "share of messages with a lower latency".to_owned(),
            x_ticks: ["0", "90%", "99%", "99.9%", "99.99%"].map(str::to_owned).to_vec(),
            series: runs.iter().map(|runs| (runs.candidate.name(), points(runs))).collect(),
        }
    }

    /// Draws the chart as SVG.
    ///
    /// # Errors
    /// The drawing error of the plotting library.
    pub fn svg(&self) -> Result<String, String> {
        let mut text = String::new();
        self.draw(&mut text).map_err(|error| error.to_string())?;
        Ok(text)
    }

    fn draw(&self, text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let heights: Vec<f64> = self
            .series
            .iter()
            .flat_map(|(_, points)| points.iter().map(|point| point.1))
            .filter(|h| *h > 0.0)
            .collect();
        let min = heights.iter().copied().fold(f64::INFINITY, f64::min).min(1e6);
        let max = heights.iter().copied().fold(min, f64::max);
        let last = self.x_ticks.len().saturating_sub(1).max(1) as f64;
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 22))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..last, (min * 0.8).log10()..(max * 1.25).log10())?;
        let tick = |at: &f64| {
            let whole = (at - at.round()).abs() < 1e-6;
            self.x_ticks.get(at.round() as usize).filter(|_| whole).cloned().unwrap_or_default()
        };
        chart
            .configure_mesh()
            .x_labels(self.x_ticks.len())
            .x_label_formatter(&tick)
            .x_desc(&self.x_label)
            // Plotters labels only powers of ten on a logarithmic axis, and often the range holds none.
            .y_label_formatter(&|height: &f64| ms(10.0_f64.powf(*height)))
            .y_desc("milliseconds")
            .label_style(("sans-serif", 14))
            .light_line_style(RGBColor(240, 240, 240))
            .draw()?;
        for (index, (name, points)) in self.series.iter().enumerate() {
            let style = COLOURS[index % COLOURS.len()].stroke_width(2);
            let points = points.iter().filter(|(_, height)| *height > 0.0);
            let points = points.map(|&(x, height)| (x, height.log10()));
            chart
                .draw_series(LineSeries::new(points, style))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 14))
            .draw()?;
        root.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_is_an_svg_with_labelled_series() {
        let chart = Chart {
            title: "a title".to_owned(),
            x_label: "load".to_owned(),
            x_ticks: vec!["0.7".to_owned(), "0.9".to_owned()],
            series: vec![("p2c".to_owned(), vec![(0.0, 10.0), (1.0, 5_000.0)])],
        };
        let svg = chart.svg().expect("drawn");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for word in ["a title", "p2c", "0.9", "polyline"] {
            assert!(svg.contains(word), "{word}: {svg}");
        }
        assert!(Chart::default().svg().is_ok(), "an empty chart is drawn");
    }
}
