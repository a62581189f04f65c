//! `pmpo render`: an episode of a run's policy, drawn off-screen.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use gif::{Encoder, Repeat};
use pmpo_actor::EvaluatorConfig;
use pmpo_actor::environment::{Environment, Frame, FrameOptions, is_external};
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
    let film = if is_external(&chosen.task) {
        let mut environment = chosen.drawn_environment(args.seed)?;
        let options = FrameOptions {
            width: args.width,
            height: args.height,
            camera: args.camera.as_deref(),
        };
        let task = chosen.task.clone();
        let draw = |environment: &mut (dyn Environment + 'static)| {
            let drawn = environment.frame(&options);
            drawn.map_err(|error| Usage::new(anyhow!("{task}: {error}")).into())
        };
        film(args, &mut chosen, environment.as_mut(), draw)?
    } else {
        let mut environment = chosen.suite_environment(args.seed)?;
        let mut renderer = renderer(args, &mut environment)?;
        let draw = |environment: &mut pmpo_suite::Environment| {
            Ok(Frame {
                width: args.width,
                height: args.height,
                rgb: renderer.frame(environment)?.to_vec(),
            })
        };
        film(args, &mut chosen, &mut environment, draw)?
    };
    let written = match form {
        Form::Gif => film.write_gif(&args.out)?,
        Form::Png => film.write_pngs(&args.out)?,
    };
    answer!(
        "{} of {}: {} frames, return {:.1}: {}",
        chosen.task,
        chosen.place.display(),
        film.frames.len(),
        film.episode_return,
        written
    )?;
    Ok(())
}

fn renderer(args: &RenderArgs, environment: &mut pmpo_suite::Environment) -> Result<Renderer> {
    let options = RenderOptions {
        width: args.width.into(),
        height: args.height.into(),
        camera: args.camera.clone(),
    };
    Renderer::new(environment, &options).map_err(|error| match error {
        RenderError::Graphics(_) => anyhow::Error::new(error),
        RenderError::UnknownCamera { .. } | RenderError::EmptyPicture { .. } => {
            Usage::new(error).into()
        }
    })
}

/// Plays an episode, and has it drawn as often as asked for.
fn film<E: Environment + ?Sized>(
    args: &RenderArgs,
    chosen: &mut Chosen,
    environment: &mut E,
    mut draw: impl FnMut(&mut E) -> Result<Frame>,
) -> Result<Film> {
    let bounds = EvaluatorConfig {
        max_episode_steps: args.max_episode_steps,
        ..EvaluatorConfig::default()
    };
    bounds.validate().map_err(Usage::new)?;
    let spec = environment.spec();
    let longest = bounds.episode_steps(spec);
    let mut timestep = spec.control_timestep * spec.action_repeat as f64;
    if timestep <= 0.0 {
        // An environment that does not say how long a step is has a picture for each.
        timestep = 1.0 / args.fps;
    }
    if args.seconds.is_none() {
        tell_endless(spec, args.max_episode_steps);
    }
    let stride = (1.0 / (args.fps * timestep)).round().max(1.0) as usize;
    let steps = args
        .seconds
        .map_or(longest, |seconds| (seconds / timestep) as usize);
    let mut frames: Vec<Frame> = Vec::new();
    let mut failure = None;
    let mut step = 0;
    let episode_return = pmpo_actor::play(&mut chosen.policy, environment, steps, |environment| {
        if step % stride == 0 {
            match draw(environment) {
                Ok(frame) => frames.push(frame),
                Err(error) => failure = Some(error),
            }
        }
        step += 1;
        failure.is_none()
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    let sizes = |frame: &Frame| (frame.width, frame.height);
    if let Some(pair) = frames
        .windows(2)
        .find(|pair| sizes(&pair[0]) != sizes(&pair[1]))
    {
        let (first, other) = (sizes(&pair[0]), sizes(&pair[1]));
        return Err(Usage::new(anyhow!(
            "{}: expected pictures of one size, got {first:?} and {other:?}",
            chosen.task
        ))
        .into());
    }
    Ok(Film {
        frames,
        seconds_per_frame: stride as f64 * timestep,
        episode_return,
    })
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

/// Pictures of one size, at least one.
struct Film {
    frames: Vec<Frame>,
    seconds_per_frame: f64,
    episode_return: f64,
}

impl Film {
    /// Answers what was written, as the other does.
    fn write_gif(&self, out: &Path) -> Result<String> {
        let mut bytes = Vec::new();
        let Frame { width, height, .. } = self.frames[0];
        let mut encoder = Encoder::new(&mut bytes, width, height, &[])?;
        encoder.set_repeat(Repeat::Infinite)?;
        for Frame { rgb, .. } in &self.frames {
            let mut frame = gif::Frame::from_rgb_speed(width, height, rgb, QUANTISATION_SPEED);
            // In hundredths of a second.
            frame.delay = (100.0 * self.seconds_per_frame).round() as u16;
            encoder.write_frame(&frame)?;
        }
        drop(encoder);
        pmpo_service::files::write_atomically(out, &bytes).map_err(failure::storage(out))?;
        Ok(out.display().to_string())
    }

    fn write_pngs(&self, out: &Path) -> Result<String> {
        let stem = out.with_extension("");
        let name = |index: usize| format!("{}-{index:04}.png", stem.display());
        for (index, frame) in self.frames.iter().enumerate() {
            let mut bytes = Vec::new();
            let (width, height) = (frame.width.into(), frame.height.into());
            let mut encoder = png::Encoder::new(&mut bytes, width, height);
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_depth(png::BitDepth::Eight);
            encoder.write_header()?.write_image_data(&frame.rgb)?;
            let path = PathBuf::from(name(index));
            pmpo_service::files::write_atomically(&path, &bytes)
                .map_err(failure::storage(&path))?;
        }
        Ok(format!("{} to {}", name(0), name(self.frames.len() - 1)))
    }
}
