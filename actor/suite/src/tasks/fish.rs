//! Fish. Source: dm_control's `suite/fish.py`.

use crate::error::SuiteError;
use crate::numpy::{RandomState, into_frame, norm};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::physics::axis::ZZ;
use crate::randomizers::unit;
use crate::rewards::Tolerance;
use crate::task::{Setup, Task, Timing};
use crate::vector::difference;

/// Seconds.
const TIME_LIMIT: f64 = 40.0;
/// Seconds.
const CONTROL_TIMESTEP: f64 = 0.04;
const JOINTS: [&str; 7] = [
    "tail1",
    "tail_twist",
    "tail2",
    "finright_roll",
    "finright_pitch",
    "finleft_roll",
    "finleft_pitch",
];
/// Radians.
const LARGEST_ANGLE: f64 = 0.2;

pub(crate) fn upright() -> Result<Setup, SuiteError> {
    setup(|body, physics| {
        let target = physics.geom("target")?;
        Ok(Upright {
            body,
            target,
            upright: Tolerance::at(1.0).margin(1.0),
        })
    })
}

pub(crate) fn swim() -> Result<Setup, SuiteError> {
    setup(|body, physics| {
        let (mouth, target) = (physics.geom("mouth")?, physics.geom("target")?);
        let sizes = physics.model().geom_size();
        let radii = sizes[mouth][0] + sizes[target][0];
        let in_target = Tolerance::between(0.0, radii).margin(2.0 * radii);
        Ok(Swim {
            body,
            mouth,
            target,
            in_target,
        })
    })
}

fn setup<T: Task + 'static>(
    task: impl FnOnce(Body, &Physics) -> Result<T, SuiteError>,
) -> Result<Setup, SuiteError> {
    let physics = Physics::from_suite("fish.xml")?;
    let task = task(Body::new(&physics)?, &physics)?;
    Ok(Setup::new(
        physics,
        task,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    ))
}

/// What both tasks read and draw.
struct Body {
    torso: usize,
    root: usize,
    joints: [usize; JOINTS.len()],
}

impl Body {
    fn new(physics: &Physics) -> Result<Self, SuiteError> {
        let mut joints = [0; JOINTS.len()];
        for (joint, name) in joints.iter_mut().zip(JOINTS) {
            *joint = physics.joint_position(name)?;
        }
        let root = physics.joint_position("root")?;
        Ok(Self {
            torso: physics.body("torso")?,
            root,
            joints,
        })
    }

    fn randomize(&self, physics: &mut Physics, random: &mut RandomState) {
        let quaternion: [f64; 4] = unit(random.normals());
        physics.qpos_mut()[self.root + 3..self.root + 7].copy_from_slice(&quaternion);
        for joint in self.joints {
            physics.qpos_mut()[joint] = random.uniform(-LARGEST_ANGLE, LARGEST_ANGLE);
        }
    }

    fn upright(&self, physics: &Physics) -> f64 {
        physics.xmat()[self.torso][ZZ]
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        observation.field(
            "joint_angles",
            self.joints.map(|joint| physics.qpos()[joint]),
        );
        observation.field("upright", [self.upright(physics)]);
    }
}

struct Upright {
    body: Body,
    target: usize,
    upright: Tolerance,
}

impl Task for Upright {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        self.body.randomize(physics, random);
        // The target has no part in this task, so it is hidden.
        physics.model_mut().geom_rgba_mut()[self.target][3] = 0.0;
        Ok(())
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        self.body.observe(physics, observation);
        observation.field("velocity", physics.qvel());
    }

    fn reward(&self, physics: &Physics) -> f64 {
        self.upright.of(self.body.upright(physics))
    }
}

struct Swim {
    body: Body,
    mouth: usize,
    target: usize,
    in_target: Tolerance,
}

impl Swim {
    fn mouth_to_target(&self, physics: &Physics) -> [f64; 3] {
        let positions = physics.geom_xpos();
        let to_target = difference(positions[self.target], positions[self.mouth]);
        into_frame(to_target, &physics.geom_xmat()[self.mouth])
    }
}

impl Task for Swim {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        self.body.randomize(physics, random);
        let (x, y) = (random.uniform(-0.4, 0.4), random.uniform(-0.4, 0.4));
        let z = random.uniform(0.1, 0.3);
        physics.model_mut().geom_pos_mut()[self.target] = [x, y, z];
        Ok(())
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        self.body.observe(physics, observation);
        observation.field("target", self.mouth_to_target(physics));
        observation.field("velocity", physics.qvel());
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let in_target = self.in_target.of(norm(&self.mouth_to_target(physics)));
        let upright = 0.5 * (self.body.upright(physics) + 1.0);
        (7.0 * in_target + upright) / 8.0
    }
}
