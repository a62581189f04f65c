//! A MuJoCo model with its state, stepped and reset as dm_control does it.
//!
//! Source: dm_control's `mujoco/engine.py`. A task edits its own copy of the model, so the model is
//! owned, never shared between environments.

use std::ffi::CStr;
use std::io::Write;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Once;

use mujoco_rs::logging::set_log_handler;
use mujoco_rs::mujoco_c::{mj_versionString, mjtDisableBit, mjtIntegrator, mjtWarning};
use mujoco_rs::wrappers::mj_editing::MjSpec;
use mujoco_rs::wrappers::mj_logging::{MjLogMessage, MjtLogLevel};
use mujoco_rs::wrappers::mj_model::{MjtJoint, MjtObjBase, MjtStage};
use mujoco_rs::wrappers::{MjData, MjModel};

use crate::edit::missing;
use crate::error::{PhysicsError, SuiteError, WARNINGS};

/// The version of MuJoCo that defines the suite's dynamics.
pub(crate) const MUJOCO_VERSION: &str = "3.17.0";

const _: () = assert!(WARNINGS.len() == mjtWarning::mjNWARNING as usize);

/// Indices of a rotation matrix's elements in MuJoCo's row-major order, named as in dm_control:
/// `XZ` is the x component (of the world) of the body's z axis.
pub(crate) mod axis {
    pub(crate) const XX: usize = 0;
    pub(crate) const XZ: usize = 2;
    pub(crate) const ZX: usize = 6;
    pub(crate) const ZY: usize = 7;
    pub(crate) const ZZ: usize = 8;
}

/// A model, its state, and dm_control's way of stepping them.
///
/// Derefs to MuJoCo's data, so tasks read `physics.xmat()`, `physics.qpos()` and so on.
pub(crate) struct Physics {
    data: MjData<Box<MjModel>>,
    runge_kutta: bool,
    /// The last thing that happened was a step, so everything that depends on positions and
    /// velocities is up to date for the next one.
    stepped: bool,
}

impl Physics {
    /// Compiles the model of the suite in `file`.
    pub(crate) fn from_suite(file: &str) -> Result<Self, SuiteError> {
        Self::from_edited(file, |_| Ok(()))
    }

    /// Compiles the model of the suite in `file` after `edit`.
    pub(crate) fn from_edited(
        file: &str,
        edit: impl FnOnce(&mut MjSpec) -> Result<(), SuiteError>,
    ) -> Result<Self, SuiteError> {
        prepare_mujoco()?;
        let path = crate::assets::directory()?.join(file);
        let mut spec = parse(&path)?;
        edit(&mut spec)?;
        let model = spec.compile().map_err(|error| model_error(file, error))?;
        let runge_kutta = model.ffi().opt.integrator == mjtIntegrator::mjINT_RK4 as i32;
        Ok(Self {
            data: MjData::new(Box::new(model)),
            runge_kutta,
            stepped: false,
        })
    }

    /// Seconds of simulated time a step takes.
    pub(crate) fn timestep(&self) -> f64 {
        self.model().ffi().opt.timestep
    }

    /// The model, for changing values (sizes, positions, gains).
    pub(crate) fn model_mut(&mut self) -> &mut MjModel {
        // SAFETY: the suite only writes elements of numeric tables. It never swaps the model nor
        // changes a size, count, address or plugin, which is what the caller must promise.
        unsafe { self.data.model_mut() }
    }

    /// Advances the state by `count` steps and leaves position- and velocity-dependent fields in
    /// agreement with it (dm_control's legacy step).
    pub(crate) fn step(&mut self, count: usize) -> Result<(), PhysicsError> {
        let outcome = self.checked(|physics| {
            physics.first_step();
            (1..count).for_each(|_| physics.data.step());
            physics.data.step1();
        });
        self.stepped = outcome.is_ok();
        outcome
    }

    /// The first of a control step's steps, which can rely on what `step1` left.
    ///
    /// For Runge-Kutta dm_control calls `mj_step`, which recomputes just that. After a step only
    /// the rest of `mj_step` is called here, with the same results: it saves one of the integrator's
    /// four evaluations' kinematics and pays for `step1`. After a reset, actuation has been off.
    fn first_step(&mut self) {
        match (self.runge_kutta, self.stepped) {
            (false, _) => self.data.step2(),
            (true, false) => self.data.step(),
            (true, true) => {
                self.data.forward_skip(MjtStage::mjSTAGE_VEL, false);
                self.data.check_acc();
                self.data.runge_kutta(4);
            }
        }
    }

    /// Advances the state by `count` steps of MuJoCo's own.
    pub(crate) fn step_bare(&mut self, count: usize) {
        (0..count).for_each(|_| self.data.step());
    }

    /// Resets the state to the model's initial one and recomputes everything without actuation.
    pub(crate) fn reset(&mut self) -> Result<(), PhysicsError> {
        self.data.reset();
        self.after_reset()
    }

    /// Recomputes everything that depends on the state, with actuation disabled: controls have no
    /// meaning yet.
    pub(crate) fn after_reset(&mut self) -> Result<(), PhysicsError> {
        let flags = self.data.model_opt().disableflags;
        self.data.model_opt_mut().disableflags = flags | mjtDisableBit::mjDSBL_ACTUATION as i32;
        let outcome = self.checked(|physics| physics.data.forward());
        self.data.model_opt_mut().disableflags = flags;
        self.stepped = false;
        outcome
    }

    /// Runs `advance` and reports the warnings that MuJoCo raised meanwhile.
    fn checked(&mut self, advance: impl FnOnce(&mut Self)) -> Result<(), PhysicsError> {
        let before = self.warning_counts();
        advance(self);
        let after = self.warning_counts();
        let raised = std::array::from_fn(|index| after[index] > before[index]);
        if raised.contains(&true) {
            Err(PhysicsError { raised })
        } else {
            Ok(())
        }
    }

    fn warning_counts(&self) -> [i32; WARNINGS.len()] {
        std::array::from_fn(|index| self.data.ffi().warning[index].number)
    }

    /// Whether any two geoms touch.
    pub(crate) fn in_contact(&self) -> bool {
        self.data.ffi().ncon > 0
    }

    /// Index of the body `name`.
    pub(crate) fn body(&self, name: &str) -> Result<usize, SuiteError> {
        self.find(MjtObjBase::mjOBJ_BODY, "body", name)
    }

    /// Index of the geom `name`.
    pub(crate) fn geom(&self, name: &str) -> Result<usize, SuiteError> {
        self.find(MjtObjBase::mjOBJ_GEOM, "geom", name)
    }

    /// Index of the site `name`.
    pub(crate) fn site(&self, name: &str) -> Result<usize, SuiteError> {
        self.find(MjtObjBase::mjOBJ_SITE, "site", name)
    }

    /// Index of the light `name`.
    pub(crate) fn light(&self, name: &str) -> Result<usize, SuiteError> {
        self.find(MjtObjBase::mjOBJ_LIGHT, "light", name)
    }

    /// Index of the joint `name`.
    pub(crate) fn joint(&self, name: &str) -> Result<usize, SuiteError> {
        self.find(MjtObjBase::mjOBJ_JOINT, "joint", name)
    }

    /// Index in `qpos` of the first coordinate of the joint `name`.
    pub(crate) fn joint_position(&self, name: &str) -> Result<usize, SuiteError> {
        Ok(self.model().jnt_qposadr()[self.joint(name)?] as usize)
    }

    /// Index in `qvel` of the first velocity of the joint `name`.
    pub(crate) fn joint_velocity(&self, name: &str) -> Result<usize, SuiteError> {
        Ok(self.model().jnt_dofadr()[self.joint(name)?] as usize)
    }

    /// Indices in `qpos` and `qvel` of all hinge joints.
    pub(crate) fn hinges(&self) -> Vec<(usize, usize)> {
        let model = self.model();
        let addresses = model.jnt_qposadr().iter().zip(model.jnt_dofadr());
        addresses
            .zip(model.jnt_type())
            .filter(|(_, kind)| **kind == MjtJoint::mjJNT_HINGE)
            .map(|((position, velocity), _)| (*position as usize, *velocity as usize))
            .collect()
    }

    /// Index in `sensordata` of the first reading of the sensor `name`.
    pub(crate) fn sensor(&self, name: &str) -> Result<usize, SuiteError> {
        let sensor = self.find(MjtObjBase::mjOBJ_SENSOR, "sensor", name)?;
        Ok(self.model().sensor_adr()[sensor] as usize)
    }

    fn find(
        &self,
        kind: MjtObjBase,
        kind_name: &'static str,
        name: &str,
    ) -> Result<usize, SuiteError> {
        self.model()
            .name_to_id(kind, name)
            .ok_or_else(|| missing(kind_name, name))
    }
}

impl Deref for Physics {
    type Target = MjData<Box<MjModel>>;

    fn deref(&self) -> &Self::Target {
        &self.data
    }
}

impl DerefMut for Physics {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.data
    }
}

fn parse(path: &Path) -> Result<MjSpec, SuiteError> {
    MjSpec::from_xml(path).map_err(|error| model_error(&path.display().to_string(), error))
}

fn model_error(model: &str, error: impl std::fmt::Display) -> SuiteError {
    SuiteError::Model {
        model: model.to_owned(),
        message: error.to_string(),
    }
}

/// Opens the library, refuses another version of it, and replaces MuJoCo's log handler once: the default one
/// writes MUJOCO_LOG.TXT into the current folder. Warnings need no line, since they are counted in
/// the data and surface as [`PhysicsError`].
fn prepare_mujoco() -> Result<(), SuiteError> {
    crate::library::open()?;
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        // SAFETY: this crate is the only user of MuJoCo in the process, and every use of it begins
        // with a model, which is loaded after this call.
        unsafe { set_log_handler(report_fatal) }
    });
    // SAFETY: MuJoCo returns a static, nul-terminated string.
    let found = unsafe { CStr::from_ptr(mj_versionString()) }.to_string_lossy();
    if found == MUJOCO_VERSION {
        Ok(())
    } else {
        Err(SuiteError::WrongMujoco {
            found: found.into_owned(),
            expected: MUJOCO_VERSION,
        })
    }
}

/// MuJoCo ends the process after an error (a broken model or no memory), so it must be said here.
fn report_fatal(message: &MjLogMessage) {
    if message.level() == MjtLogLevel::mjLOG_ERROR {
        let text = message.subject().to_string();
        let text = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        // `eprintln!` panics where nobody reads, and the process is ending anyway.
        drop(writeln!(std::io::stderr(), "MuJoCo: {text}"));
    }
}
