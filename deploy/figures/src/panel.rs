//! One chart: axes, bands, lines and legend.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Horizontal, Line, Panel, Point, failed};
use crate::FigureError;

const BAND_OPACITY: f64 = 0.18;
const LINE_WIDTH: u32 = 2;
/// Below this many points each one is marked.
const MARKED_POINTS: usize = 60;
/// With more lines than these, their names stand beside the chart, in a part of its width.
const MANY_LINES: usize = 10;
const LEGEND_SHARE: u32 = 4;
/// Pixels of a row and, about, of a letter there.
const LEGEND_ROW: u32 = 17;
const LEGEND_LETTER: u32 = 7;
/// The largest value that is drawn.
const LARGEST: f64 = 1e100;
/// Width of an axis beside its larger end, at least.
const NARROWEST: f64 = 1e-6;
/// What a logarithmic axis shows for zero and less.
const SMALLEST: f64 = 1e-12;
/// Distance of a tick from a whole number, under which it is one.
const WHOLE: f64 = 1e-6;

impl Panel {
    /// A value's place on the vertical axis.
    pub(super) fn place(&self, y: f64) -> f64 {
        if self.logarithmic {
            y.max(SMALLEST).log10()
        } else {
            y
        }
    }

    /// The ranges of both axes: all bands with a little room, zero and one in a linear panel.
    fn ranges(&self) -> ([f64; 2], [f64; 2]) {
        let points = || self.lines.iter().flat_map(Line::drawn);
        let (edges, bottom) = if self.logarithmic {
            ((f64::INFINITY, f64::NEG_INFINITY), 0.05)
        } else {
            ((0.0, 1.0), 0.0)
        };
        let low = points().map(|p| self.place(p.low)).fold(edges.0, f64::min);
        let high = points().map(|p| self.place(p.high)).fold(edges.1, f64::max);
        let (low, high) = if low < high { (low, high) } else { (-1.0, 1.0) };
        let vertical = told_apart([low - bottom * (high - low), high + 0.05 * (high - low)]);
        let left = points().map(|p| p.x).fold(f64::INFINITY, f64::min);
        let right = points().map(|p| p.x).fold(f64::NEG_INFINITY, f64::max);
        let horizontal = match &self.horizontal {
            Horizontal::Counts => [0.0, right.max(1.0)],
            Horizontal::Names(names) => [-0.5, names.len().max(1) as f64 - 0.5],
            Horizontal::Numbers if left < right => {
                let room = 0.05 * (right - left);
                [left - room, right + room]
            }
            Horizontal::Numbers if left.is_finite() => [left - 1.0, left + 1.0],
            Horizontal::Numbers => [0.0, 1.0],
        };
        (told_apart(horizontal), vertical)
    }

    fn x_tick(&self, x: f64) -> String {
        match &self.horizontal {
            Horizontal::Counts => thousands(x),
            Horizontal::Numbers => plain(x),
            Horizontal::Names(names) => whole(x)
                .and_then(|x| names.get(usize::try_from(x).ok()?).cloned())
                .unwrap_or_default(),
        }
    }

    fn y_tick(&self, y: f64) -> String {
        match (self.logarithmic, whole(y)) {
            (false, _) => plain(y),
            (true, Some(exponent)) => format!("1e{exponent}"),
            (true, None) => String::new(),
        }
    }

    /// `labels` are those of the whole figure: a label's number is its colour.
    pub(super) fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        labels: &[&str],
    ) -> Result<(), FigureError> {
        let (area, beside) = match self.lines.len() > MANY_LINES {
            true => {
                let (width, _) = area.dim_in_pixel();
                let (chart, beside) = area.split_horizontally(width - width / LEGEND_SHARE);
                (chart, Some(beside))
            }
            false => (area.clone(), None),
        };
        let colour = |line: &Line| {
            let number = labels.iter().position(|label| *label == line.label);
            Palette99::pick(number.unwrap_or_default()).to_rgba()
        };
        let ([left, right], [bottom, top]) = self.ranges();
        let mut builder = ChartBuilder::on(&area);
        builder
            .margin(16)
            .x_label_area_size(46)
            .y_label_area_size(64);
        if !self.title.is_empty() {
            builder.caption(&self.title, ("sans-serif", 18));
        }
        let mut chart = builder
            .build_cartesian_2d(left..right, bottom..top)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .label_style(("sans-serif", 14))
            .axis_desc_style(("sans-serif", 16))
            .x_label_formatter(&|x| self.x_tick(*x))
            .y_label_formatter(&|y| self.y_tick(*y))
            .draw()
            .map_err(failed)?;
        for line in &self.lines {
            let colour = colour(line);
            let drawn: Vec<&Point> = line.drawn().collect();
            let above = drawn.iter().map(|p| (p.x, self.place(p.high)));
            let below = drawn.iter().map(|p| (p.x, self.place(p.low)));
            let band: Vec<(f64, f64)> = above.chain(below.rev()).collect();
            chart
                .draw_series([Polygon::new(band, colour.mix(BAND_OPACITY))])
                .map_err(failed)?;
            let points = drawn.iter().map(|p| (p.x, self.place(p.y)));
            let marks = if drawn.len() <= MARKED_POINTS { 2 } else { 0 };
            chart
                .draw_series(
                    LineSeries::new(points, colour.stroke_width(LINE_WIDTH)).point_size(marks),
                )
                .map_err(failed)?
                .label(format!("{}{}", line.label, line.detail))
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(LINE_WIDTH))
                });
        }
        if let Some(beside) = beside {
            return self.draw_legend(&beside, colour);
        }
        let corner = if self.logarithmic {
            SeriesLabelPosition::LowerLeft
        } else {
            SeriesLabelPosition::LowerRight
        };
        chart
            .configure_series_labels()
            .position(corner)
            .label_font(("sans-serif", 14))
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(failed)
    }

    /// The names of many lines, beside the chart: within it they would cover it.
    fn draw_legend<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        colour: impl Fn(&Line) -> RGBAColor,
    ) -> Result<(), FigureError> {
        let (width, height) = area.dim_in_pixel();
        let room = (height / LEGEND_ROW).saturating_sub(2) as usize;
        let letters = (width / LEGEND_LETTER).saturating_sub(4) as usize;
        let font = ("sans-serif", 14).into_text_style(area);
        let below = |row: usize| ((row + 1) as u32 * LEGEND_ROW) as i32;
        for (row, line) in self.lines.iter().take(room).enumerate() {
            let middle = below(row) + 7;
            let stroke = colour(line).stroke_width(LINE_WIDTH);
            area.draw(&PathElement::new([(4, middle), (20, middle)], stroke))
                .map_err(failed)?;
            let name: String = format!("{}{}", line.label, line.detail);
            let name: String = name.chars().take(letters).collect();
            area.draw_text(&name, &font, (26, below(row)))
                .map_err(failed)?;
        }
        let left_out = self.lines.len().saturating_sub(room);
        if left_out > 0 {
            let text = format!("and {left_out} more");
            area.draw_text(&text, &font, (26, below(room)))
                .map_err(failed)?;
        }
        Ok(())
    }
}

impl Line {
    /// The points that can be drawn: numbers, and not so large that what is computed with them is none.
    fn drawn(&self) -> impl Iterator<Item = &Point> {
        let values = |point: &Point| [point.x, point.y, point.low, point.high];
        let drawable = move |point: &&Point| values(point).iter().all(|v| v.abs() <= LARGEST);
        self.points.iter().filter(drawable)
    }
}

/// A range whose ticks differ as numbers: between two that do not, an axis would be divided for ever.
fn told_apart([low, high]: [f64; 2]) -> [f64; 2] {
    let least = NARROWEST * low.abs().max(high.abs());
    if high - low > least {
        [low, high]
    } else {
        [
            low - least - f64::MIN_POSITIVE,
            high + least + f64::MIN_POSITIVE,
        ]
    }
}

fn whole(value: f64) -> Option<i64> {
    ((value - value.round()).abs() < WHOLE).then(|| value.round() as i64)
}

/// Without the noise of a tick's arithmetic.
fn plain(value: f64) -> String {
    let rounded = (value / WHOLE).round() * WHOLE;
    let text = format!("{rounded:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0" } else { text }.to_owned()
}

fn thousands(count: f64) -> String {
    match count.abs() {
        1e6.. => format!("{}M", plain(count / 1e6)),
        1e3.. => format!("{}k", plain(count / 1e3)),
        _ => plain(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of these had the axis divided without an end, or the drawing end in a panic.
    #[test]
    fn whatever_the_numbers_are_there_is_a_figure() {
        let lines = [
            vec![[0.0, f64::INFINITY], [1.0, 1.0]],
            vec![[0.0, f64::NAN], [f64::NAN, 1.0], [f64::INFINITY, 2.0]],
            vec![[0.0, f64::MAX], [1.0, -f64::MAX]],
            vec![[0.0, 1e100], [1.0, -1e100]],
            vec![[1e16, 1.0], [1e16 + 2.0, 1.0]],
            vec![[-1e100, 1e100], [1e100, 1e100]],
            vec![[0.0, 1e16], [0.0, 1e16 + 2.0]],
            vec![[0.0, 5e-324], [5e-324, 0.0]],
        ];
        for line in &lines {
            for logarithmic in [false, true] {
                for horizontal in [
                    Horizontal::Counts,
                    Horizontal::Numbers,
                    Horizontal::Names(vec!["a".to_owned()]),
                ] {
                    let point = |&[x, y]: &[f64; 2]| Point {
                        x,
                        y,
                        low: y - 1.0,
                        high: y + y.abs(),
                    };
                    let panel = Panel {
                        title: String::new(),
                        x_label: String::new(),
                        y_label: String::new(),
                        horizontal,
                        logarithmic,
                        lines: vec![Line {
                            label: "a".to_owned(),
                            detail: String::new(),
                            points: line.iter().map(point).collect(),
                        }],
                    };
                    let figure = crate::Figure {
                        panels: vec![panel],
                        columns: 1,
                        note: String::new(),
                    };
                    figure.svg().unwrap();
                }
            }
        }
    }

    #[test]
    fn ticks_are_written_without_noise() {
        let mut panel = Panel {
            title: String::new(),
            x_label: String::new(),
            y_label: String::new(),
            horizontal: Horizontal::Counts,
            logarithmic: false,
            lines: Vec::new(),
        };
        assert_eq!(panel.x_tick(30_000.0), "30k");
        assert_eq!(panel.x_tick(2e6) + &panel.x_tick(1200.0), "2M1.2k");
        panel.horizontal = Horizontal::Numbers;
        assert_eq!(panel.x_tick(0.3 - 0.1), "0.2");
        assert_eq!(panel.x_tick(-1e-17), "0");
        panel.horizontal = Horizontal::Names(vec!["small".to_owned(), "large".to_owned()]);
        assert_eq!(panel.x_tick(1.0), "large");
        assert_eq!(
            panel.x_tick(0.5) + &panel.x_tick(2.0) + &panel.x_tick(-1.0),
            ""
        );
    }
}
