//! The DeepMind Control Suite on MuJoCo, bit for bit.
//!
//! Tasks, dynamics, observations, rewards and initial states are those of dm_control 1.0.50 with
//! MuJoCo 3.17.0: the same seed and the same actions give the same episode. The models (MJCF) and
//! libmujoco are dm_control's and MuJoCo's own files, fetched by `make setup`.
//!
//! ```
//! let mut environment = pmpo_suite::load("cartpole-swingup", 1)?;
//! let action = vec![0.0; environment.spec().action_size()];
//! let mut time_step = environment.reset()?;
//! while !time_step.is_last() {
//!     time_step = environment.step(&action)?;
//! }
//! # Ok::<(), pmpo_suite::SuiteError>(())
//! ```

mod assets;
pub mod bench;
mod edit;
mod environment;
mod error;
mod library;
mod numpy;
mod observation;
mod physics;
mod randomizers;
mod registry;
#[cfg(feature = "renderer")]
pub mod renderer;
mod rewards;
mod task;
mod tasks;
pub mod trace;
mod vector;

pub use assets::{ASSETS_VARIABLE, directory as assets_directory};
pub use environment::Environment;
pub use error::{PhysicsError, SuiteError};
pub use registry::{TaskInfo, load, tasks};
