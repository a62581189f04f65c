//! Swimmer of any length. Source: dm_control's `suite/swimmer.py`.

use mujoco_rs::wrappers::mj_editing::{MjSpec, SpecItem};
use mujoco_rs::wrappers::mj_model::{MjtObjBase, MjtSensor};

use crate::edit;
use crate::error::SuiteError;
use crate::numpy::{RandomState, into_frame, norm};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::randomizers::randomize_joints;
use crate::rewards::{Sigmoid, Tolerance};
use crate::task::{Setup, Task, Timing};
use crate::vector::difference;

/// Seconds.
const TIME_LIMIT: f64 = 30.0;
/// Seconds.
const CONTROL_TIMESTEP: f64 = 0.03;
/// Probability that the target is close.
const CLOSE_TARGET: f64 = 0.2;
/// Metres.
const CLOSE_BOX: f64 = 0.3;
/// Metres.
const FAR_BOX: f64 = 2.0;
/// Coordinates of the root, which are not observed.
const ROOT: usize = 3;
/// Readings before those of the bodies' velocities.
const OTHER_SENSORS: usize = 12;
/// Readings of a body: linear and angular velocity.
const BODY_SENSORS: usize = 6;

pub(crate) fn swimmer6() -> Result<Setup, SuiteError> {
    setup(6)
}

pub(crate) fn swimmer15() -> Result<Setup, SuiteError> {
    setup(15)
}

fn setup(links: usize) -> Result<Setup, SuiteError> {
    let physics = Physics::from_edited("swimmer.xml", |spec| add_links(spec, links))?;
    let target = physics.geom("target")?;
    let target_size = physics.model().geom_size()[target][0];
    let reached = Tolerance::between(0.0, target_size);
    let task = Swimmer {
        head: physics.body("head")?,
        nose: physics.geom("nose")?,
        target,
        target_light: physics.light("target_light")?,
        reached: reached.falling(5.0 * target_size, Sigmoid::LongTail, 0.1),
    };
    Ok(Setup::new(
        physics,
        task,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    ))
}

/// Hangs segments with a motor and velocity sensors each behind the head.
fn add_links(spec: &mut MjSpec, links: usize) -> Result<(), SuiteError> {
    const CLASS: &str = "swimmer";
    let mut parent = "head".to_owned();
    // Degrees, the unit of the model's angles.
    let limit = 360.0 / links as f64;
    for index in 0..links - 1 {
        let name = |part: &str| format!("{part}_{index}");
        let body = edit::body(spec, &parent)?.add_body();
        body.with_name(&name("segment")).with_pos([0.0, 0.1, 0.0]);
        for class in ["visual", "inertial"] {
            body.add_geom_with_class(class)
                .map_err(edit::refused)?
                .with_name(&name(class));
        }
        body.add_site_with_class(CLASS)
            .map_err(edit::refused)?
            .with_name(&name("site"));
        let joint = body.add_joint_with_class(CLASS).map_err(edit::refused)?;
        joint.with_name(&name("joint")).with_range([-limit, limit]);
        edit::add_motor(spec, &name("motor"), &name("joint"));
        let kinds = [
            ("velocimeter", MjtSensor::mjSENS_VELOCIMETER),
            ("gyro", MjtSensor::mjSENS_GYRO),
        ];
        for (part, kind) in kinds {
            let sensor = spec.add_sensor().with_name(&name(part)).with_type(kind);
            sensor
                .with_objtype(MjtObjBase::mjOBJ_SITE)
                .with_objname(&name("site"));
        }
        parent = name("segment");
    }
    for camera in ["tracking1", "tracking2"] {
        let position = edit::camera(spec, camera)?.pos_mut();
        *position = position.map(|coordinate| coordinate * (links as f64 / 6.0));
    }
    Ok(())
}

struct Swimmer {
    head: usize,
    nose: usize,
    target: usize,
    target_light: usize,
    reached: Tolerance,
}

impl Swimmer {
    fn nose_to_target(&self, physics: &Physics) -> [f64; 2] {
        let positions = physics.geom_xpos();
        let to_target = difference(positions[self.target], positions[self.nose]);
        let [x, y, _] = into_frame(to_target, &physics.xmat()[self.head]);
        [x, y]
    }
}

impl Task for Swimmer {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        randomize_joints(physics, random);
        let close = random.standard_uniform() < CLOSE_TARGET;
        let half = if close { CLOSE_BOX } else { FAR_BOX };
        let (x, y) = (random.uniform(-half, half), random.uniform(-half, half));
        let model = physics.model_mut();
        model.geom_pos_mut()[self.target][..2].copy_from_slice(&[x, y]);
        model.light_pos_mut()[self.target_light][..2].copy_from_slice(&[x, y]);
        Ok(())
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        observation.field("joints", &physics.qpos()[ROOT..]);
        observation.field("to_target", self.nose_to_target(physics));
        let bodies = physics.sensordata()[OTHER_SENSORS..].chunks_exact(BODY_SENSORS);
        // The planar part: two linear velocities and the rotation about z.
        observation.field(
            "body_velocities",
            bodies.flat_map(|body| [body[0], body[1], body[5]]),
        );
    }

    fn reward(&self, physics: &Physics) -> f64 {
        self.reached.of(norm(&self.nose_to_target(physics)))
    }
}
