//! The bumpy bowl that the quadruped escapes from, drawn anew each episode.

use std::f64::consts::PI;

use crate::numpy::{RandomState, zoom};
use crate::physics::Physics;

/// The model's only height field.
const HEIGHT_FIELD: usize = 0;
/// 0 is as bumpy as can be, 1 is smooth.
const SMOOTHNESS: f64 = 0.15;
/// Metres from bump to bump.
const BUMP_SCALE: f64 = 2.0;
/// Radius of the flat middle, as a part of the field's half edge.
const FLAT_RADIUS: f64 = 0.04;

/// Half the height field's edge in metres.
pub(super) fn size(physics: &Physics) -> f64 {
    physics.model().hfield_size()[HEIGHT_FIELD][0]
}

/// Draws a terrain: a sinusoidal bowl times smooth bumps.
pub(super) fn randomize(physics: &mut Physics, random: &mut RandomState) {
    let resolution = physics.model().hfield_nrow()[HEIGHT_FIELD] as usize;
    let bumps_across = (2.0 * size(physics) / BUMP_SCALE) as usize;
    let bumps: Vec<f64> = (0..bumps_across * bumps_across)
        .map(|_| random.uniform(SMOOTHNESS, 1.0))
        .collect();
    let smooth = zoom(&bumps, bumps_across, resolution);
    let step = 2.0 / (resolution - 1) as f64;
    let coordinate = |index: usize| index as f64 * step - 1.0;
    let start = physics.model().hfield_adr()[HEIGHT_FIELD] as usize;
    let field = &mut physics.model_mut().hfield_data_mut()[start..];
    for (index, (height, bump)) in field.iter_mut().zip(smooth).enumerate() {
        let (row, column) = (
            coordinate(index / resolution),
            coordinate(index % resolution),
        );
        let radius = (column * column + row * row).sqrt().clamp(FLAT_RADIUS, 1.0);
        let bowl = 0.5 - (2.0 * PI * radius).cos() / 2.0;
        *height = (bowl * bump) as f32;
    }
}
