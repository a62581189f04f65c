//! Elements of a model specification by name, for the tasks that change their model before it is
//! compiled.

use mujoco_rs::wrappers::mj_editing::{MjSpec, MjsBody, MjsCamera, MjsGeom};

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
