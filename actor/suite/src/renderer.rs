//! Draws environments off-screen, through EGL (in software where there is no graphics card).
//!
//! Behind the feature `renderer`, so that actors need no graphics libraries. On Debian it wants the
//! packages libegl1, libegl-mesa0 and libgl1-mesa-dri, which are looked for at run time only.

use mujoco_rs::renderer::{MjRenderer, RendererError};
use mujoco_rs::wrappers::mj_model::MjtObjBase;
use mujoco_rs::wrappers::mj_visualization::MjvCamera;

use crate::environment::Environment;

/// What to draw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderOptions {
    /// Pixels across, at least one.
    pub width: u32,
    /// Pixels down, at least one.
    pub height: u32,
    /// Name of one of the model's cameras; `None` for its first.
    pub camera: Option<String>,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self {
            width: 320,
            height: 240,
            camera: None,
        }
    }
}

/// What can go wrong with drawing.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The model has no such camera.
    #[error("no camera named {name:?}; the model has {}", .available.join(", "))]
    UnknownCamera {
        /// The name that was asked for.
        name: String,
        /// The names of the model's cameras.
        available: Vec<String>,
    },
    /// The size of the picture is zero.
    #[error("a picture of {width}x{height} pixels cannot be drawn")]
    EmptyPicture {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// The graphics libraries are missing or refuse.
    #[error(
        "off-screen drawing failed: {0:?}; on Debian it needs libegl1, libegl-mesa0 and \
         libgl1-mesa-dri"
    )]
    Graphics(RendererError),
}

impl From<RendererError> for RenderError {
    fn from(error: RendererError) -> Self {
        Self::Graphics(error)
    }
}

/// An off-screen picture of one task's model. It stays on the thread that made it.
#[derive(Debug)]
pub struct Renderer {
    inner: MjRenderer,
}

impl Renderer {
    /// Prepares to draw `environment`, whose simulation is left as it is.
    ///
    /// # Errors
    /// See [`RenderError`].
    pub fn new(
        environment: &mut Environment,
        options: &RenderOptions,
    ) -> Result<Self, RenderError> {
        let RenderOptions { width, height, .. } = *options;
        if width == 0 || height == 0 {
            return Err(RenderError::EmptyPicture { width, height });
        }
        let camera = find_camera(environment, options.camera.as_deref())?;
        let buffer = &mut environment.physics.model_vis_mut().global;
        buffer.offwidth = buffer.offwidth.max(width as i32);
        buffer.offheight = buffer.offheight.max(height as i32);
        let inner = MjRenderer::builder()
            .width(width)
            .height(height)
            .camera(camera)
            .build(environment.physics.model())?;
        Ok(Self { inner })
    }

    /// Draws the present state of `environment`: rows from the top, three bytes (red, green, blue)
    /// a pixel.
    ///
    /// # Errors
    /// [`RenderError::Graphics`].
    pub fn frame(&mut self, environment: &mut Environment) -> Result<&[u8], RenderError> {
        // A task may have drawn another terrain since the last picture.
        self.inner
            .update_hfields_from(environment.physics.model())?;
        self.inner.sync_data(&mut environment.physics)?;
        self.inner.render()?;
        Ok(self
            .inner
            .rgb_flat()
            .expect("colour is on unless it is turned off"))
    }
}

fn find_camera(environment: &Environment, name: Option<&str>) -> Result<MjvCamera, RenderError> {
    let model = environment.physics.model();
    let names: Vec<String> = (0..model.cam_pos().len())
        .filter_map(|camera| model.id_to_name(MjtObjBase::mjOBJ_CAMERA, camera))
        .map(str::to_owned)
        .collect();
    match name {
        None if names.is_empty() => Ok(MjvCamera::new_free(model)),
        None => Ok(MjvCamera::new_fixed(0)),
        Some(name) => match model.name_to_id(MjtObjBase::mjOBJ_CAMERA, name) {
            Some(camera) => Ok(MjvCamera::new_fixed(camera)),
            None => Err(RenderError::UnknownCamera {
                name: name.to_owned(),
                available: names,
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(camera: Option<&str>) -> RenderOptions {
        RenderOptions {
            width: 800,
            height: 60,
            camera: camera.map(str::to_owned),
        }
    }

    /// A picture wider than the model's default buffer, which moves with the state and leaves the
    /// episode as it would have been.
    #[test]
    fn pictures_show_the_state_and_do_not_change_it() {
        let [mut drawn, mut reference] =
            [1, 1].map(|seed| crate::load("cartpole-swingup", seed).unwrap());
        drawn.reset().unwrap();
        reference.reset().unwrap();
        let mut renderer = Renderer::new(&mut drawn, &options(Some("lookatcart"))).unwrap();
        let before = renderer.frame(&mut drawn).unwrap().to_vec();
        assert_eq!(before.len(), 800 * 60 * 3);
        assert!(
            before.iter().any(|byte| *byte != before[0]),
            "the picture is not empty"
        );
        for _ in 0..50 {
            assert_eq!(drawn.step(&[1.0]).unwrap(), reference.step(&[1.0]).unwrap());
            renderer.frame(&mut drawn).unwrap();
        }
        assert_ne!(before, renderer.frame(&mut drawn).unwrap());
    }

    #[test]
    fn an_unknown_camera_is_refused_with_the_models_cameras() {
        let mut environment = crate::load("cartpole-swingup", 1).unwrap();
        let error = Renderer::new(&mut environment, &options(Some("top"))).unwrap_err();
        let message = "no camera named \"top\"; the model has fixed, lookatcart";
        assert_eq!(error.to_string(), message);
    }
}
