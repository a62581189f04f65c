//! Elements of a model specification by name, for the tasks that change their model before it is
//! compiled.

use mujoco_rs::wrappers::mj_editing::{
    MjSpec, MjsBody, MjsCamera, MjsGeom, MjsSensor, MjsSite, SpecItem, SpecObject,
};
use mujoco_rs::wrappers::mj_model::MjtTrn;

use crate::error::SuiteError;

/// The body `name`.
pub(crate) fn body<'s>(spec: &'s mut MjSpec, name: &str) -> Result<&'s mut MjsBody, SuiteError> {
    spec.body_mut(name).ok_or_else(|| missing("body", name))
}

/// The geom `name`.
pub(crate) fn geom<'s>(spec: &'s mut MjSpec, name: &str) -> Result<&'s mut MjsGeom, SuiteError> {
    spec.geom_mut(name).ok_or_else(|| missing("geom", name))
}

/// The camera `name`.
pub(crate) fn camera<'s>(
    spec: &'s mut MjSpec,
    name: &str,
) -> Result<&'s mut MjsCamera, SuiteError> {
    spec.camera_mut(name).ok_or_else(|| missing("camera", name))
}

/// The site `name`.
pub(crate) fn site<'s>(spec: &'s mut MjSpec, name: &str) -> Result<&'s mut MjsSite, SuiteError> {
    spec.site_mut(name).ok_or_else(|| missing("site", name))
}

/// The sensor `name`.
pub(crate) fn sensor<'s>(
    spec: &'s mut MjSpec,
    name: &str,
) -> Result<&'s mut MjsSensor, SuiteError> {
    spec.sensor_mut(name).ok_or_else(|| missing("sensor", name))
}

/// The error of an element that the models of the suite should have.
pub(crate) fn missing(kind: &'static str, name: &str) -> SuiteError {
    SuiteError::MissingElement {
        kind,
        name: name.to_owned(),
    }
}

/// The error of an edit that MuJoCo refused.
pub(crate) fn refused(error: impl std::fmt::Display) -> SuiteError {
    SuiteError::Model {
        model: "edit".to_owned(),
        message: error.to_string(),
    }
}

/// Removes an element with everything in it.
pub(crate) fn remove(element: &mut impl SpecObject) -> Result<(), SuiteError> {
    // SAFETY: the element was found by name in its specification, so it is alive; the caller's
    // handle to it ends here.
    unsafe { element.delete() }.map_err(refused)
}

/// Adds a motor on a joint, with the model's defaults.
pub(crate) fn add_motor(spec: &mut MjSpec, name: &str, joint: &str) {
    let motor = spec.add_actuator();
    motor
        .with_name(name)
        .with_trntype(MjtTrn::mjTRN_JOINT)
        .with_target(joint);
    motor.set_to_motor();
}
