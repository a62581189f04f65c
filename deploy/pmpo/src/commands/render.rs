//! `pmpo render`: an episode of a run's policy, drawn off-screen.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use gif::{Encoder, Frame, Repeat};
use pmpo_actor::EvaluatorConfig;
use pmpo_suite::renderer::{RenderError, RenderOptions, Renderer};

use super::eval::tell_endless;
use crate::cli::RenderArgs;
use crate::failure::{self, Usage};
use crate::output::answer;
use crate::policies::Chosen;

/// Colour quantisation of a GIF's frames, 1 (best) to 30 (fastest).
const QUANTISATION_SPEED: i32 = 10;

/// Plays and draws one episode.
pub(crate) fn render(args: &RenderArgs) -> Result<()> {
    let form = Form::of(&args.out)?;
    let usable = args.fps > 0.0 && args.fps <= 100.0;
    anyhow::ensure!(
        usable,
        Usage::new(anyhow!(
            "--fps: expected more than 0 and at most 100, got {}",
            args.fps
        ))
    );
    let mut chosen = Chosen::load(&args.run_dir, args.checkpoint)?;
    let mut environment = chosen.suite_environment(args.seed)?;
    let options = RenderOptions {
        width: args.width.into(),
        height: args.height.into(),
        camera: args.camera.clone(),
    };
    let mut renderer = Renderer::new(&mut environment, &options).map_err(|error| match error {
        RenderError::Graphics(_) => anyhow::Error::new(error),
        RenderError::UnknownCamera { .. } | RenderError::EmptyPicture { .. } => {
            Usage::new(error).into()
        }
    })?;

    let bounds = EvaluatorConfig {
        max_episode_steps: args.max_episode_steps,
        ..EvaluatorConfig::default()
    };
    bounds.validate().map_err(Usage::new)?;
    let spec = environment.spec();
    let (timestep, longest) = (
        spec.control_timestep * spec.action_repeat as f64,
        bounds.episode_steps(spec),
    );
    if args.seconds.is_none() {
        tell_endless(spec, args.max_episode_steps);
    }
    let stride = (1.0 / (args.fps * timestep)).round().max(1.0) as usize;
    let steps = args
        .seconds
        .map_or(longest, |seconds| (seconds / timestep) as usize);
    let mut frames = Vec::new();
    let mut failure = None;
    let mut step = 0;
    let value = pmpo_actor::play(&mut chosen.policy, &mut environment, steps, |environment| {
        if step % stride == 0 {
            match renderer.frame(environment) {
                Ok(frame) => frames.push(frame.to_vec()),
                Err(error) => failure = Some(error),
            }
        }
        step += 1;
        failure.is_none()
    })?;
    if let Some(error) = failure {
        return Err(error.into());
    }
    let picture = Picture {
        width: args.width,
        height: args.height,
        frames,
    };
    let written = match form {
        Form::Gif => picture.write_gif(&args.out, stride as f64 * timestep)?,
        Form::Png => picture.write_pngs(&args.out)?,
    };
    answer!(
        "{} of {}: {} frames, return {value:.1}: {}",
        chosen.task,
        chosen.place.display(),
        picture.frames.len(),
        written
    )?;
    Ok(())
}

/// What the file's ending asks for.
enum Form {
    Gif,
    Png,
}

impl Form {
    fn of(out: &Path) -> Result<Self> {
        match out.extension().and_then(|ending| ending.to_str()) {
            Some("gif") => Ok(Self::Gif),
            Some("png") => Ok(Self::Png),
            _ => Err(Usage::new(anyhow!(
                "--out {}: expected a name that ends in .gif or .png",
                out.display()
            ))
            .into()),
        }
    }
}

/// Frames of three bytes (red, green, blue) a pixel, rows from the top.
struct Picture {
    width: u16,
    height: u16,
    frames: Vec<Vec<u8>>,
}

impl Picture {
    /// Answers what was written, as the other does.
    fn write_gif(&self, out: &Path, seconds_per_frame: f64) -> Result<String> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, self.width, self.height, &[])?;
        encoder.set_repeat(Repeat::Infinite)?;
        for rgb in &self.frames {
            let mut frame = Frame::from_rgb_speed(self.width, self.height, rgb, QUANTISATION_SPEED);
            // In hundredths of a second.
            frame.delay = (100.0 * seconds_per_frame).round() as u16;
            encoder.write_frame(&frame)?;
        }
        drop(encoder);
        pmpo_service::files::write_atomically(out, &bytes).map_err(failure::storage(out))?;
        Ok(out.display().to_string())
    }

    fn write_pngs(&self, out: &Path) -> Result<String> {
        let stem = out.with_extension("");
        let name = |index: usize| format!("{}-{index:04}.png", stem.display());
        for (index, rgb) in self.frames.iter().enumerate() {
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, self.width.into(), self.height.into());
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_depth(png::BitDepth::Eight);
            encoder.write_header()?.write_image_data(rgb)?;
            let path = PathBuf::from(name(index));
            pmpo_service::files::write_atomically(&path, &bytes)
                .map_err(failure::storage(&path))?;
        }
        Ok(format!("{} to {}", name(0), name(self.frames.len() - 1)))
    }
}
