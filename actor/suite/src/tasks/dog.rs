//! Dog. Source: dm_control's `suite/dog.py`.

use std::f64::consts::PI;

use mujoco_rs::wrappers::mj_editing::MjSpec;
use mujoco_rs::wrappers::mj_model::MjtObjBase;

use crate::edit;
use crate::error::SuiteError;
use crate::numpy::{RandomState, into_frame, norm, sum};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::physics::axis::{ZX, ZZ};
use crate::rewards::{Sigmoid, Tolerance, radians};
use crate::task::{Setup, Task, Timing};
use crate::vector::difference;

/// Seconds.
const TIME_LIMIT: f64 = 15.0;
/// Seconds.
const CONTROL_TIMESTEP: f64 = 0.015;
/// Degrees of tilt that count as upright.
const MAX_UPRIGHT_ANGLE: f64 = 30.0;
/// Part of the default pose's height from which on the dog stands.
const STAND_HEIGHT_FRACTION: f64 = 0.9;
/// Metres a second.
const WALK_SPEED: f64 = 1.0;
/// Metres a second.
const TROT_SPEED: f64 = 3.0;
/// Metres a second.
const RUN_SPEED: f64 = 9.0;
/// Half the floor's edge in metres where the ball is fetched.
const FETCH_FLOOR: f64 = 10.0;
/// Metres from the bite at which the reward of reaching the ball has fallen to 0.1.
const BITE_MARGIN: f64 = 2.0;

const WALLS: [&str; 4] = ["wall_px", "wall_nx", "wall_py", "wall_ny"];

pub(crate) fn stand() -> Result<Setup, SuiteError> {
    setup(without_ball(WALK_SPEED * TIME_LIMIT)?, |_| Ok(Goal::Stand))
}

pub(crate) fn walk() -> Result<Setup, SuiteError> {
    moving(WALK_SPEED)
}

pub(crate) fn trot() -> Result<Setup, SuiteError> {
    moving(TROT_SPEED)
}

pub(crate) fn run() -> Result<Setup, SuiteError> {
    moving(RUN_SPEED)
}

fn moving(speed: f64) -> Result<Setup, SuiteError> {
    let forward = Tolerance::between(speed, 2.0 * speed);
    let forward = forward.falling(speed.max(1.0), Sigmoid::Linear, 0.0);
    setup(without_ball(speed * TIME_LIMIT)?, |_| {
        Ok(Goal::Move(forward))
    })
}

pub(crate) fn fetch() -> Result<Setup, SuiteError> {
    let physics = Physics::from_edited("dog.xml", |spec| set_floor(spec, FETCH_FLOOR))?;
    setup(physics, |physics| Ok(Goal::Fetch(Ball::new(physics)?)))
}

fn setup(
    mut physics: Physics,
    goal: impl FnOnce(&Physics) -> Result<Goal, SuiteError>,
) -> Result<Setup, SuiteError> {
    // Heights and weight are measured in the default pose.
    physics.reset()?;
    let goal = goal(&physics)?;
    let task = Dog {
        body: Body::new(&physics)?,
        goal,
    };
    Ok(Setup::new(
        physics,
        task,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    ))
}

fn without_ball(floor_size: f64) -> Result<Physics, SuiteError> {
    Physics::from_edited("dog.xml", |spec| {
        set_floor(spec, floor_size)?;
        remove_ball(spec)
    })
}

fn set_floor(spec: &mut MjSpec, half_edge: f64) -> Result<(), SuiteError> {
    *edit::geom(spec, "floor")?.size_mut() = [half_edge, half_edge, 0.1];
    Ok(())
}

/// Removes the ball, its target, the walls and the cameras that follow them.
fn remove_ball(spec: &mut MjSpec) -> Result<(), SuiteError> {
    edit::remove(edit::body(spec, "ball")?)?;
    edit::remove(edit::geom(spec, "target")?)?;
    edit::remove(edit::camera(spec, "ball")?)?;
    edit::remove(edit::camera(spec, "head")?)?;
    WALLS
        .iter()
        .try_for_each(|wall| edit::remove(edit::geom(spec, wall)?))
}

/// What the dog is rewarded for beside standing.
enum Goal {
    Stand,
    /// Moving forward.
    Move(Tolerance),
    /// Fetching a ball.
    Fetch(Ball),
}

struct Dog {
    body: Body,
    goal: Goal,
}

impl Task for Dog {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        self.body.randomize(physics, random);
        if let Goal::Fetch(ball) = &self.goal {
            ball.throw(physics, random);
        }
        Ok(())
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        self.body.observe(physics, observation);
        if let Goal::Fetch(ball) = &self.goal {
            observation.field("ball_state", ball.state(physics));
            observation.field("target_position", ball.target_position(physics));
        }
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let standing = self.body.standing(physics);
        match &self.goal {
            Goal::Stand => standing,
            Goal::Move(forward) => {
                let forward = forward.of(self.body.velocity(physics)[0]);
                standing * ((4.0 * forward + 1.0) / 5.0)
            }
            Goal::Fetch(ball) => {
                let [reach, fetch] = ball.reward_factors(physics);
                standing * reach * fetch
            }
        }
    }
}

/// The dog's body and the reward of standing.
struct Body {
    torso: usize,
    pelvis: usize,
    skull: usize,
    root: usize,
    /// Coordinates and velocities of the hinges.
    hinges: Vec<(usize, usize)>,
    /// Sensor of the velocity of the centre of mass.
    velocity: usize,
    inertial: [usize; 3],
    feet: [usize; 4],
    touch: [usize; 4],
    torso_height: Tolerance,
    pelvis_height: Tolerance,
    upright: Tolerance,
    weight: Tolerance,
}

impl Body {
    /// Reads the model in its default pose.
    fn new(physics: &Physics) -> Result<Self, SuiteError> {
        let (torso, pelvis) = (physics.body("torso")?, physics.body("pelvis")?);
        let model = physics.model();
        let standing = |body: usize| {
            let height = physics.xpos()[body][2] * STAND_HEIGHT_FRACTION;
            Tolerance::at_least(height).margin(height)
        };
        let weight = -model.opt().gravity[2] * model.body_subtreemass()[torso];
        let cosine = radians(MAX_UPRIGHT_ANGLE).cos();
        let sensors = |names: [&str; 4]| {
            let [a, b, c, d] = names.map(|name| physics.sensor(name));
            Ok::<_, SuiteError>([a?, b?, c?, d?])
        };
        Ok(Self {
            torso,
            pelvis,
            skull: physics.body("skull")?,
            root: physics.joint_position("root")?,
            hinges: physics.hinges(),
            velocity: physics.sensor("torso_linvel")?,
            inertial: [
                physics.sensor("accelerometer")?,
                physics.sensor("velocimeter")?,
                physics.sensor("gyro")?,
            ],
            feet: sensors(["foot_L", "foot_R", "hand_L", "hand_R"])?,
            touch: sensors(["palm_L", "palm_R", "sole_L", "sole_R"])?,
            torso_height: standing(torso),
            pelvis_height: standing(pelvis),
            upright: Tolerance::at_least(cosine).falling(cosine + 1.0, Sigmoid::Linear, 0.0),
            weight: Tolerance::at_least(weight).falling(weight, Sigmoid::Linear, 0.9),
        })
    }

    fn randomize(&self, physics: &mut Physics, random: &mut RandomState) {
        let azimuth = random.uniform(0.0, 2.0 * PI);
        let orientation = [(azimuth / 2.0).cos(), 0.0, 0.0, (azimuth / 2.0).sin()];
        physics.qpos_mut()[self.root + 3..self.root + 7].copy_from_slice(&orientation);
        // Horizontal velocities and rotation about z.
        for velocity in [0, 1, 5] {
            physics.qvel_mut()[velocity] = 2.0 * random.standard_normal();
        }
        // Each actuator has one activation.
        for actuator in 0..physics.act().len() {
            let [low, high] = physics.model().actuator_ctrlrange()[actuator];
            physics.act_mut()[actuator] = random.uniform(low, high);
        }
    }

    /// Velocity of the centre of mass in the torso's frame.
    fn velocity(&self, physics: &Physics) -> [f64; 3] {
        let data = &physics.sensordata()[self.velocity..];
        into_frame([data[0], data[1], data[2]], &physics.xmat()[self.torso])
    }

    fn touch(&self, physics: &Physics) -> [f64; 4] {
        self.touch.map(|sensor| physics.sensordata()[sensor])
    }

    fn heights(&self, physics: &Physics) -> [f64; 2] {
        [
            physics.xpos()[self.torso][2],
            physics.xpos()[self.pelvis][2],
        ]
    }

    /// The bodies that should be upright.
    fn upright_frames<'p>(&self, physics: &'p Physics) -> [&'p [f64; 9]; 3] {
        [self.skull, self.torso, self.pelvis].map(|body| &physics.xmat()[body])
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        let (qpos, qvel, data) = (physics.qpos(), physics.qvel(), physics.sensordata());
        observation.field(
            "joint_angles",
            self.hinges.iter().map(|(angle, _)| qpos[*angle]),
        );
        // The misspelling is dm_control's.
        observation.field(
            "joint_velocites",
            self.hinges.iter().map(|(_, speed)| qvel[*speed]),
        );
        observation.field("torso_pelvis_height", self.heights(physics));
        let frames = self.upright_frames(physics);
        observation.field(
            "z_projection",
            frames.iter().flat_map(|frame| &frame[ZX..=ZZ]),
        );
        observation.field("torso_com_velocity", self.velocity(physics));
        observation.field(
            "inertial_sensors",
            self.inertial.iter().flat_map(|at| &data[*at..at + 3]),
        );
        observation.field(
            "foot_forces",
            self.feet.iter().flat_map(|at| &data[*at..at + 3]),
        );
        observation.field("touch_sensors", self.touch(physics));
        observation.field("actuator_state", physics.act());
    }

    fn standing(&self, physics: &Physics) -> f64 {
        let [torso, pelvis] = self.heights(physics);
        let upright = self
            .upright_frames(physics)
            .map(|frame| self.upright.of(frame[ZZ]));
        let heights = self.torso_height.of(torso) * self.pelvis_height.of(pelvis);
        let touch = self.weight.of(sum(self.touch(physics).into_iter()));
        heights * upright[0] * upright[1] * upright[2] * touch
    }
}

/// The ball, where it belongs, and the mouth that carries it.
struct Ball {
    root_qpos: usize,
    root_qvel: usize,
    geom: usize,
    target: usize,
    head: usize,
    bites: [usize; 2],
    /// Metres from the middle at which the ball is thrown.
    throw_radius: f64,
    /// Metres from the target within which the dog may let go.
    let_go: f64,
    reached: Tolerance,
    fetched: Tolerance,
}

impl Ball {
    fn new(physics: &Physics) -> Result<Self, SuiteError> {
        let (target, upper) = (physics.geom("target")?, physics.site("upper_bite")?);
        let bite_radius = physics.model().site_size()[upper][0];
        let target_radius = physics.model().geom_size()[target][0];
        let near = |radius, margin| {
            Tolerance::between(0.0, radius).falling(margin, Sigmoid::Reciprocal, 0.1)
        };
        Ok(Self {
            root_qpos: physics.joint_position("ball_root")?,
            root_qvel: physics.joint_velocity("ball_root")?,
            geom: physics.geom("ball")?,
            target,
            head: physics.site("head")?,
            bites: [upper, physics.site("lower_bite")?],
            throw_radius: 0.75 * FETCH_FLOOR,
            let_go: 2.0 * target_radius,
            reached: near(bite_radius, BITE_MARGIN),
            fetched: near(target_radius, FETCH_FLOOR),
        })
    }

    /// Throws the ball from the edge upwards, more or less towards the middle.
    fn throw(&self, physics: &mut Physics, random: &mut RandomState) {
        let azimuth = random.uniform(0.0, 2.0 * PI);
        let (x, y) = (
            self.throw_radius * azimuth.sin(),
            self.throw_radius * azimuth.cos(),
        );
        let height = random.uniform(0.0, 3.0);
        let gravity = -physics.model().opt().gravity[2];
        // Kinetic equals potential energy.
        let vertical = (2.0 * gravity * height).sqrt();
        let horizontal = random.uniform(0.0, 5.0);
        let direction_x = -azimuth.sin() + 0.05 * random.standard_normal();
        let direction_y = -azimuth.cos() + 0.05 * random.standard_normal();
        let velocity = [horizontal * direction_x, horizontal * direction_y, vertical];
        physics.qpos_mut()[self.root_qpos..self.root_qpos + 3].copy_from_slice(&[x, y, 0.05]);
        physics.qvel_mut()[self.root_qvel..self.root_qvel + 3].copy_from_slice(&velocity);
    }

    /// Position and velocity of the ball relative to the head, in the head's frame.
    fn state(&self, physics: &Physics) -> [f64; 6] {
        let frame = &physics.site_xmat()[self.head];
        let position = difference(
            physics.geom_xpos()[self.geom],
            physics.site_xpos()[self.head],
        );
        let ball = linear_velocity(physics, MjtObjBase::mjOBJ_GEOM, self.geom);
        let head = linear_velocity(physics, MjtObjBase::mjOBJ_SITE, self.head);
        let [x, y, z] = into_frame(position, frame);
        let [vx, vy, vz] = into_frame(difference(ball, head), frame);
        [x, y, z, vx, vy, vz]
    }

    /// The target relative to the head, in the head's frame.
    fn target_position(&self, physics: &Physics) -> [f64; 3] {
        let target = physics.geom_xpos()[self.target];
        let to_target = difference(target, physics.site_xpos()[self.head]);
        into_frame(to_target, &physics.site_xmat()[self.head])
    }

    /// Rewards of having the ball in the mouth and of having it at the target.
    fn reward_factors(&self, physics: &Physics) -> [f64; 2] {
        let ball = physics.geom_xpos()[self.geom];
        let [upper, lower] = self
            .bites
            .map(|bite| norm(&difference(ball, physics.site_xpos()[bite])));
        let to_target = norm(&difference(ball, physics.geom_xpos()[self.target]));
        let reached = (6.0 * self.reached.of(0.5 * (upper + lower)) + 1.0) / 7.0;
        let fetched = (self.fetched.of(to_target) + 1.0) / 2.0;
        [
            if to_target < self.let_go {
                1.0
            } else {
                reached
            },
            fetched,
        ]
    }
}

/// Linear velocity of an object in the world.
fn linear_velocity(physics: &Physics, kind: MjtObjBase, object: usize) -> [f64; 3] {
    let [_, _, _, x, y, z] = physics.object_velocity(kind, object, false);
    [x, y, z]
}
