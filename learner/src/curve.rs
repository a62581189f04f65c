//! Learning curves: mean evaluation return against environment steps, with a band of one standard
//! deviation over the evaluation's episodes; as SVG while a run goes, as SVG or PNG on request, one
//! line a run.

use std::path::{Path, PathBuf};
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use pmpo_service::files::write_atomically;

use crate::LearnerError;
use crate::progress::{self, Row};

/// Name of the figure in a run's folder.
pub const FILE: &str = "learning_curve.svg";

const SIZE: (u32, u32) = (900, 560);
const BAND_OPACITY: f64 = 0.18;
const LINE_WIDTH: u32 = 2;

/// One run in a figure.
pub(crate) struct Curve<'a> {
    pub(crate) label: String,
    pub(crate) rows: &'a [Row],
}

/// Draws the curves of `run_dirs` into one figure; `out` ends in `.svg` or `.png`.
///
/// # Errors
/// A folder has no readable `progress.csv`, or the figure cannot be drawn or written.
pub fn plot(run_dirs: &[PathBuf], out: &Path) -> Result<(), LearnerError> {
    let rows = run_dirs
        .iter()
        .map(|run_dir| progress::read(run_dir))
        .collect::<Result<Vec<_>, _>>()?;
    let curves: Vec<Curve<'_>> = run_dirs
        .iter()
        .zip(&rows)
        .map(|(run_dir, rows)| Curve {
            label: label(run_dir),
            rows,
        })
        .collect();
    write(&curves, out)
}

/// The folder's own name, also of `.`.
pub(crate) fn label(run_dir: &Path) -> String {
    let resolved = run_dir.canonicalize();
    let name = resolved.as_deref().unwrap_or(run_dir).file_name();
    name.map_or_else(
        || run_dir.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Draws `curves` into the file `out`.
pub(crate) fn write(curves: &[Curve<'_>], out: &Path) -> Result<(), LearnerError> {
    let extension = out.extension().and_then(|extension| extension.to_str());
    let bytes = match extension {
        Some("svg") => svg(curves)?.into_bytes(),
        Some("png") => png(curves)?,
        _ => {
            let reason = format!("{}: expected a name ending in .svg or .png", out.display());
            return Err(LearnerError::Figure(reason));
        }
    };
    write_atomically(out, &bytes).map_err(LearnerError::file(out))
}

fn svg(curves: &[Curve<'_>]) -> Result<String, LearnerError> {
    let mut text = String::new();
    draw(
        curves,
        SVGBackend::with_string(&mut text, SIZE).into_drawing_area(),
    )?;
    Ok(text)
}

fn png(curves: &[Curve<'_>]) -> Result<Vec<u8>, LearnerError> {
    let (width, height) = SIZE;
    let mut pixels = vec![0; (width * height * 3) as usize];
    let area = BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area();
    draw(curves, area)?;
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder
        .write_header()
        .and_then(|mut writer| writer.write_image_data(&pixels))
        .map_err(failed)?;
    Ok(bytes)
}

fn draw<B: DrawingBackend>(
    curves: &[Curve<'_>],
    area: DrawingArea<B, Shift>,
) -> Result<(), LearnerError> {
    register_font();
    area.fill(&WHITE).map_err(failed)?;
    let rows = || curves.iter().flat_map(|curve| curve.rows);
    let right = rows().map(|row| row.env_steps).max().unwrap_or(0).max(1);
    let top = rows()
        .map(|row| row.eval_return_mean + row.eval_return_std)
        .fold(1.0, f64::max);
    let bottom = rows()
        .map(|row| row.eval_return_mean - row.eval_return_std)
        .fold(0.0, f64::min);
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d(0..right, bottom..top * 1.05)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("environment steps")
        .y_desc("mean evaluation return")
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 16))
        .x_label_formatter(&|steps| thousands(*steps))
        .draw()
        .map_err(failed)?;
    for (index, curve) in curves.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let above = curve
            .rows
            .iter()
            .map(|r| (r.env_steps, r.eval_return_mean + r.eval_return_std));
        let below = curve
            .rows
            .iter()
            .map(|r| (r.env_steps, r.eval_return_mean - r.eval_return_std));
        let band: Vec<(u64, f64)> = above.chain(below.rev()).collect();
        chart
            .draw_series([Polygon::new(band, colour.mix(BAND_OPACITY))])
            .map_err(failed)?;
        let line = curve
            .rows
            .iter()
            .map(|row| (row.env_steps, row.eval_return_mean));
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(LINE_WIDTH)).point_size(2))
            .map_err(failed)?
            .label(&curve.label)
            .legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(LINE_WIDTH))
            });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .label_font(("sans-serif", 14))
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(failed)?;
    area.present().map_err(failed)
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

fn thousands(steps: u64) -> String {
    match steps {
        0 => "0".to_owned(),
        steps if steps % 1_000_000 == 0 => format!("{}M", steps / 1_000_000),
        steps if steps % 1000 == 0 => format!("{}k", steps / 1000),
        steps => steps.to_string(),
    }
}

fn failed(error: impl ToString) -> LearnerError {
    LearnerError::Figure(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use crate::progress::tests::row;

    fn run(parent: &Path, name: &str, returns: &[f64]) -> PathBuf {
        let run_dir = parent.join(name);
        std::fs::create_dir(&run_dir).unwrap();
        let mut progress = Progress::create(&run_dir).unwrap();
        for (i, &value) in returns.iter().enumerate() {
            progress.append(row(1000 * i as u64, value)).unwrap();
        }
        run_dir
    }

    #[test]
    fn several_runs_are_drawn_with_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [
            run(folder.path(), "first-run", &[1.0, 300.0, 800.0]),
            run(folder.path(), "second-run", &[2.0, 250.0]),
            run(folder.path(), "empty-run", &[]),
        ];
        let out = folder.path().join("curve.svg");
        plot(&runs, &out).unwrap();
        let text = std::fs::read_to_string(&out).unwrap();
        for expected in ["first-run", "second-run", "environment steps", "polyline"] {
            assert!(text.contains(expected), "no `{expected}` in the figure");
        }
    }

    /// Black on white is the text and the axes alone; without a font there is far less of it.
    #[test]
    fn a_png_has_text() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [run(folder.path(), "a", &[1.0, 300.0, 800.0])];
        let out = folder.path().join("curve.png");
        plot(&runs, &out).unwrap();
        let file = std::io::BufReader::new(std::fs::File::open(&out).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let (width, height) = SIZE;
        assert_eq!(pixels.len(), (width * height * 3) as usize);
        // Below the axis there is nothing but labels.
        let labels = &pixels[((height - 40) * width * 3) as usize..];
        let dark = labels
            .chunks_exact(3)
            .filter(|rgb| rgb.iter().all(|&c| c < 128))
            .count();
        assert!(dark > 200, "{dark} dark pixels below the axis");
    }

    #[test]
    fn other_formats_and_missing_runs_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [run(folder.path(), "a", &[1.0])];
        let message = plot(&runs, &folder.path().join("curve.pdf"))
            .unwrap_err()
            .to_string();
        assert!(message.contains(".svg or .png"), "{message}");
        let missing = [folder.path().join("b")];
        let message = plot(&missing, &folder.path().join("c.svg"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("progress.csv"), "{message}");
    }
}
