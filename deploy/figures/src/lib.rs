//! Figures: a grid of panels, each with lines that have a band around them; as SVG or PNG.

mod panel;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use pmpo_service::files::write_atomically;

use thiserror::Error;

/// Why there is no figure.
#[derive(Debug, Error)]
pub enum FigureError {
    /// It cannot be drawn.
    #[error("figure: {0}")]
    Draw(String),
    /// Its file cannot be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Size of a figure with one panel, and of each panel where there are several.
const SINGLE: (u32, u32) = (900, 560);
const OF_MANY: (u32, u32) = (600, 420);
const NOTE_HEIGHT: u32 = 30;
const NOTE_SIZE: u32 = 14;

/// One value of a line with its spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Place on the horizontal axis.
    pub x: f64,
    /// Where the line goes through.
    pub y: f64,
    /// Lower edge of the band.
    pub low: f64,
    /// Upper edge of the band.
    pub high: f64,
}

/// A line of a panel. Lines of one label have one colour in all panels.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its name in the legend.
    pub label: String,
    /// What the legend adds to the name, for example the number of seeds.
    pub detail: String,
    /// Its points, from left to right.
    pub points: Vec<Point>,
}

/// What the horizontal axis shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Horizontal {
    /// Counts: environment steps, iterations.
    Counts,
    /// Numbers.
    Numbers,
    /// Names, of which point `x` has number `x`.
    Names(Vec<String>),
}

/// One chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// Text above; may be empty.
    pub title: String,
    /// What is on the horizontal axis.
    pub x_label: String,
    /// What is on the vertical axis.
    pub y_label: String,
    /// Form of the horizontal axis.
    pub horizontal: Horizontal,
    /// Whether the vertical axis is logarithmic.
    pub logarithmic: bool,
    /// The lines.
    pub lines: Vec<Line>,
}

/// Panels in a grid, and a note below them.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The panels, row by row.
    pub panels: Vec<Panel>,
    /// How many stand side by side.
    pub columns: usize,
    /// What the bands are; may be empty.
    pub note: String,
}

impl Figure {
    /// Draws into the file `out`, whose name ends in `.svg` or `.png`.
    ///
    /// # Errors
    /// Another ending, or the figure cannot be drawn or written.
    pub fn write(&self, out: &Path) -> Result<(), FigureError> {
        let extension = out.extension().and_then(|extension| extension.to_str());
        let bytes = match extension {
            Some("svg") => self.svg()?.into_bytes(),
            Some("png") => self.png()?,
            _ => {
                let reason = format!("{}: expected a name ending in .svg or .png", out.display());
                return Err(FigureError::Draw(reason));
            }
        };
        write_atomically(out, &bytes).map_err(|source| FigureError::Write {
            path: out.to_owned(),
            source,
        })
    }

    fn grid(&self) -> (usize, usize) {
        let columns = self.columns.clamp(1, self.panels.len().max(1));
        (self.panels.len().div_ceil(columns).max(1), columns)
    }

    fn size(&self) -> (u32, u32) {
        let (rows, columns) = self.grid();
        let (width, height) = if self.panels.len() > 1 {
            OF_MANY
        } else {
            SINGLE
        };
        let note = if self.note.is_empty() { 0 } else { NOTE_HEIGHT };
        (width * columns as u32, height * rows as u32 + note)
    }

    fn svg(&self) -> Result<String, FigureError> {
        let mut text = String::new();
        self.draw(SVGBackend::with_string(&mut text, self.size()).into_drawing_area())?;
        Ok(text)
    }

    fn png(&self) -> Result<Vec<u8>, FigureError> {
        let (width, height) = self.size();
        let mut pixels = vec![0; (width * height * 3) as usize];
        self.draw(BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area())?;
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder
            .write_header()
            .and_then(|mut writer| writer.write_image_data(&pixels))
            .map_err(failed)?;
        Ok(bytes)
    }

    fn draw<B: DrawingBackend>(&self, area: DrawingArea<B, Shift>) -> Result<(), FigureError> {
        register_font();
        area.fill(&WHITE).map_err(failed)?;
        let (width, height) = area.dim_in_pixel();
        let charts = if self.note.is_empty() {
            area.clone()
        } else {
            let (charts, note) = area.split_vertically(height - NOTE_HEIGHT);
            let style = ("sans-serif", NOTE_SIZE).into_text_style(&note);
            let place = ((width / 2) as i32, 4);
            let centred = style.pos(plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Center,
                plotters::style::text_anchor::VPos::Top,
            ));
            note.draw_text(&self.note, &centred, place)
                .map_err(failed)?;
            charts
        };
        let mut labels: Vec<&str> = Vec::new();
        for line in self.panels.iter().flat_map(|panel| &panel.lines) {
            if !labels.contains(&line.label.as_str()) {
                labels.push(&line.label);
            }
        }
        for (panel, area) in self.panels.iter().zip(charts.split_evenly(self.grid())) {
            panel.draw(&area, &labels)?;
        }
        area.present().map_err(failed)
    }
}

/// The font is in the binary: a server may have none, and figures should look the same everywhere.
fn register_font() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        let font = epaint_default_fonts::UBUNTU_LIGHT;
        let registered = plotters::style::register_font("sans-serif", FontStyle::Normal, font);
        assert!(registered.is_ok(), "the font in the binary is readable");
    });
}

fn failed(error: impl ToString) -> FigureError {
    FigureError::Draw(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(label: &str, values: &[[f64; 2]]) -> Line {
        let point = |&[x, y]: &[f64; 2]| Point {
            x,
            y,
            low: y * 0.9,
            high: y * 1.1,
        };
        Line {
            label: label.to_owned(),
            detail: " (3 seeds)".to_owned(),
            points: values.iter().map(point).collect(),
        }
    }

    fn panel(title: &str, lines: Vec<Line>) -> Panel {
        Panel {
            title: title.to_owned(),
            x_label: "environment steps".to_owned(),
            y_label: "return".to_owned(),
            horizontal: Horizontal::Counts,
            logarithmic: false,
            lines,
        }
    }

    fn text(figure: &Figure) -> String {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("figure.svg");
        figure.write(&out).unwrap();
        std::fs::read_to_string(&out).unwrap()
    }

    #[test]
    fn a_label_keeps_its_colour_in_every_panel() {
        let values = [[0.0, 1.0], [2000.0, 3.0]];
        let panels = vec![
            panel(
                "left",
                vec![line("first", &values), line("second", &values)],
            ),
            panel("right", vec![line("second", &values)]),
            panel("empty", vec![]),
        ];
        let figure = Figure {
            panels,
            columns: 2,
            note: "bands: all seeds".to_owned(),
        };
        assert_eq!(figure.size(), (1200, 2 * 420 + 30));
        let text = text(&figure);
        for expected in ["left", "right", "first (3 seeds)", "bands: all seeds"] {
            assert!(text.contains(expected), "no `{expected}` in the figure");
        }
        let lines_of = |index| {
            let RGBAColor(r, g, b, _) = Palette99::pick(index).to_rgba();
            let stroke = format!("stroke=\"#{r:02X}{g:02X}{b:02X}\"");
            // A line and its entry in the legend.
            text.split("<polyline")
                .skip(1)
                .filter(|element| element.split("/>").next().unwrap().contains(&stroke))
                .count()
        };
        assert_eq!([lines_of(0), lines_of(1), lines_of(2)], [2, 4, 0]);
    }

    #[test]
    fn a_logarithmic_axis_has_powers_of_ten_and_takes_a_zero() {
        let mut panel = panel(
            "",
            vec![line("a", &[[0.0, 100.0], [1.0, 0.01], [2.0, 0.0]])],
        );
        panel.logarithmic = true;
        assert_eq!(panel.place(0.0), -12.0);
        let text = text(&Figure {
            panels: vec![panel],
            columns: 1,
            note: String::new(),
        });
        assert!(text.contains("1e-10"), "no power of ten");
    }

    /// Within the chart so many names would cover most of it.
    #[test]
    fn the_names_of_many_lines_stand_beside_the_chart() {
        let values = [[0.0, 1.0], [2000.0, 3.0]];
        let names: Vec<String> = (0..60).map(|i| format!("run-{i}.")).collect();
        let figure = |count: usize| Figure {
            panels: vec![panel(
                "",
                names[..count]
                    .iter()
                    .map(|name| line(name, &values))
                    .collect(),
            )],
            columns: 1,
            note: String::new(),
        };
        let few = text(&figure(10));
        assert!(few.contains("run-9."));
        let many = text(&figure(30));
        assert!(names[..30].iter().all(|name| many.contains(name)));
        // What is right of the chart begins after three quarters of its width.
        let place = |name: &str| {
            let before = many
                .split(name)
                .next()
                .unwrap()
                .rsplit("x=\"")
                .next()
                .unwrap();
            before.split('"').next().unwrap().parse::<f64>().unwrap()
        };
        assert!(names[..30].iter().all(|name| place(name) > 675.0));
        let more = text(&figure(60));
        assert!(more.contains("and 30 more"), "room for 30 of 60");
    }
}
