//! Quadruped. Source: dm_control's `suite/quadruped.py`.

mod terrain;

use std::f64::consts::{PI, SQRT_2};

use mujoco_rs::wrappers::mj_editing::{MjSpec, SpecElement};
use mujoco_rs::wrappers::mj_model::MjtSensor;

use crate::edit;
use crate::error::SuiteError;
use crate::numpy::{RandomState, arcsinh, into_frame, norm, rows_into_frame, tanh};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::physics::axis::ZZ;
use crate::randomizers::unit;
use crate::rewards::{Sigmoid, Tolerance, radians};
use crate::task::{Setup, Task, Timing};
use crate::vector::difference;

/// Seconds.
const TIME_LIMIT: f64 = 20.0;
/// Seconds.
const CONTROL_TIMESTEP: f64 = 0.02;
/// Metres a second.
const RUN_SPEED: f64 = 5.0;
/// Metres a second.
const WALK_SPEED: f64 = 0.5;
/// Half the floor's edge in metres, for the terrain.
const ESCAPE_FLOOR: f64 = 40.0;
/// Degrees of tilt that the escape task forgives.
const ESCAPE_TILT: f64 = 20.0;
/// Metres by which the body is lifted until nothing touches.
const LIFT: f64 = 0.01;
/// Attempts at lifting it.
const MAX_ATTEMPTS: usize = 10_000;
/// A rangefinder's reading when its ray hits nothing.
const NO_INTERSECTION: f64 = -1.0;

const WALLS: [&str; 4] = ["wall_px", "wall_py", "wall_nx", "wall_ny"];

pub(crate) fn walk() -> Result<Setup, SuiteError> {
    moving(WALK_SPEED)
}

pub(crate) fn run() -> Result<Setup, SuiteError> {
    moving(RUN_SPEED)
}

fn moving(speed: f64) -> Result<Setup, SuiteError> {
    let physics = Physics::from_edited("quadruped.xml", |spec| {
        set_floor(spec, TIME_LIMIT * speed)?;
        remove_ball(spec)?;
        edit::remove(edit::geom(spec, "terrain")?)?;
        remove_rangefinders(spec)
    })?;
    let task = Move {
        body: Body::new(&physics)?,
        upright: upright(0.0),
        moving: Tolerance::at_least(speed).falling(speed, Sigmoid::Linear, 0.5),
    };
    Ok(Setup::new(
        physics,
        task,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    ))
}

pub(crate) fn escape() -> Result<Setup, SuiteError> {
    let physics = Physics::from_edited("quadruped.xml", |spec| {
        set_floor(spec, ESCAPE_FLOOR)?;
        remove_ball(spec)
    })?;
    let terrain_size = terrain::size(&physics);
    let task = Escape {
        body: Body::new(&physics)?,
        workspace: physics.site("workspace")?,
        rangefinders: readings(&physics, &[MjtSensor::mjSENS_RANGEFINDER]),
        upright: upright(ESCAPE_TILT),
        escaped: Tolerance::at_least(terrain_size).falling(terrain_size, Sigmoid::Linear, 0.0),
    };
    Ok(Setup::new(
        physics,
        task,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    ))
}

pub(crate) fn fetch() -> Result<Setup, SuiteError> {
    let physics = Physics::from_edited("quadruped.xml", |spec| {
        edit::remove(edit::geom(spec, "terrain")?)?;
        remove_rangefinders(spec)
    })?;
    let (floor, ball) = (physics.geom("floor")?, physics.geom("ball")?);
    let (workspace, target) = (physics.site("workspace")?, physics.site("target")?);
    let (geoms, sites) = (physics.model().geom_size(), physics.model().site_size());
    let arena_radius = geoms[floor][0] * SQRT_2;
    let near = |radius| Tolerance::between(0.0, radius).falling(arena_radius, Sigmoid::Linear, 0.0);
    let task = Fetch {
        body: Body::new(&physics)?,
        spawn_radius: 0.9 * geoms[floor][0],
        reached: near(sites[workspace][0] + geoms[ball][0]),
        fetched: near(sites[target][0]),
        upright: upright(0.0),
        ball: physics.body("ball")?,
        ball_qpos: physics.joint_position("ball_root")?,
        ball_qvel: physics.joint_velocity("ball_root")?,
        root_qvel: physics.joint_velocity("root")?,
        workspace,
        target,
    };
    Ok(Setup::new(
        physics,
        task,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    ))
}

fn set_floor(spec: &mut MjSpec, half_edge: f64) -> Result<(), SuiteError> {
    *edit::geom(spec, "floor")?.size_mut() = [half_edge, half_edge, 0.5];
    Ok(())
}

/// Removes the walls, the ball and its target.
fn remove_ball(spec: &mut MjSpec) -> Result<(), SuiteError> {
    WALLS
        .iter()
        .try_for_each(|wall| edit::remove(edit::geom(spec, wall)?))?;
    edit::remove(edit::body(spec, "ball")?)?;
    edit::remove(edit::site(spec, "target")?)
}

/// Removes the rangefinders: their rays are expensive.
fn remove_rangefinders(spec: &mut MjSpec) -> Result<(), SuiteError> {
    let names: Vec<String> = spec
        .sensor_iter()
        .filter(|sensor| sensor.type_() == MjtSensor::mjSENS_RANGEFINDER)
        .map(|sensor| sensor.name().to_owned())
        .collect();
    names
        .iter()
        .try_for_each(|name| edit::remove(edit::sensor(spec, name)?))
}

/// Reward of an upright torso: linear in the tilt, one below `tilt` degrees, zero upside down.
fn upright(tilt: f64) -> Tolerance {
    let cosine = radians(tilt).cos();
    Tolerance::at_least(cosine).falling(1.0 + cosine, Sigmoid::Linear, 0.0)
}

/// Indices in `sensordata` of all readings of sensors of these kinds, in the model's order.
fn readings(physics: &Physics, kinds: &[MjtSensor]) -> Vec<usize> {
    let model = physics.model();
    let sensors = model
        .sensor_type()
        .iter()
        .zip(model.sensor_adr())
        .zip(model.sensor_dim());
    sensors
        .filter(|((kind, _), _)| kinds.contains(kind))
        .flat_map(|((_, address), size)| *address as usize..(address + size) as usize)
        .collect()
}

/// What all tasks read of the body.
struct Body {
    torso: usize,
    root: usize,
    velocimeter: usize,
    /// Coordinates and velocities of the hinges.
    hinges: Vec<(usize, usize)>,
    imu: Vec<usize>,
    force_torque: Vec<usize>,
}

impl Body {
    fn new(physics: &Physics) -> Result<Self, SuiteError> {
        Ok(Self {
            torso: physics.body("torso")?,
            root: physics.joint_position("root")?,
            velocimeter: physics.sensor("velocimeter")?,
            hinges: physics.hinges(),
            imu: readings(
                physics,
                &[MjtSensor::mjSENS_GYRO, MjtSensor::mjSENS_ACCELEROMETER],
            ),
            force_torque: readings(
                physics,
                &[MjtSensor::mjSENS_FORCE, MjtSensor::mjSENS_TORQUE],
            ),
        })
    }

    fn upright(&self, physics: &Physics) -> f64 {
        physics.xmat()[self.torso][ZZ]
    }

    fn forward_velocity(&self, physics: &Physics) -> f64 {
        physics.sensordata()[self.velocimeter]
    }

    /// A point of the world as seen from the torso.
    fn egocentric(&self, physics: &Physics, point: [f64; 3]) -> [f64; 3] {
        into_frame(
            difference(point, physics.xpos()[self.torso]),
            &physics.xmat()[self.torso],
        )
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        let (qpos, qvel, data) = (physics.qpos(), physics.qvel(), physics.sensordata());
        let angles = self.hinges.iter().map(|(position, _)| qpos[*position]);
        let velocities = self.hinges.iter().map(|(_, velocity)| qvel[*velocity]);
        let activations = physics.act().iter().copied();
        observation.field(
            "egocentric_state",
            angles.chain(velocities).chain(activations),
        );
        observation.field(
            "torso_velocity",
            &data[self.velocimeter..self.velocimeter + 3],
        );
        observation.field("torso_upright", [self.upright(physics)]);
        observation.field("imu", self.imu.iter().map(|reading| data[*reading]));
        let force_torque = self.force_torque.iter();
        observation.field(
            "force_torque",
            force_torque.map(|reading| arcsinh(data[*reading])),
        );
    }

    /// Places the body at the lowest height at which nothing touches.
    fn place(
        &self,
        physics: &mut Physics,
        orientation: [f64; 4],
        [x, y]: [f64; 2],
    ) -> Result<(), SuiteError> {
        let mut z = 0.0;
        for _ in 0..MAX_ATTEMPTS {
            // Too many contacts at once raise a warning here; the body is lifted further then.
            physics.reset().unwrap_or_default();
            let root = &mut physics.qpos_mut()[self.root..self.root + 7];
            root[..3].copy_from_slice(&[x, y, z]);
            root[3..].copy_from_slice(&orientation);
            physics.after_reset().unwrap_or_default();
            if !physics.in_contact() {
                return Ok(());
            }
            z += LIFT;
        }
        Err(SuiteError::NoInitialState {
            attempts: MAX_ATTEMPTS,
        })
    }
}

struct Move {
    body: Body,
    upright: Tolerance,
    moving: Tolerance,
}

impl Task for Move {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        let orientation = unit(random.normals());
        self.body.place(physics, orientation, [0.0, 0.0])
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        self.body.observe(physics, observation);
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let moving = self.moving.of(self.body.forward_velocity(physics));
        self.upright.of(self.body.upright(physics)) * moving
    }
}

struct Escape {
    body: Body,
    workspace: usize,
    rangefinders: Vec<usize>,
    upright: Tolerance,
    escaped: Tolerance,
}

impl Task for Escape {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        terrain::randomize(physics, random);
        let orientation = unit(random.normals());
        self.body.place(physics, orientation, [0.0, 0.0])
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        self.body.observe(physics, observation);
        let torso = self.body.torso;
        let origin = into_frame(physics.xpos()[torso], &physics.xmat()[torso]);
        observation.field("origin", origin.map(|coordinate| -coordinate));
        let distances = self
            .rangefinders
            .iter()
            .map(|reading| physics.sensordata()[*reading]);
        let scaled = distances.map(|distance| {
            if distance == NO_INTERSECTION {
                1.0
            } else {
                tanh(distance)
            }
        });
        observation.field("rangefinder", scaled);
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let escaped = self.escaped.of(norm(&physics.site_xpos()[self.workspace]));
        self.upright.of(self.body.upright(physics)) * escaped
    }
}

struct Fetch {
    body: Body,
    /// Metres from the middle within which things begin.
    spawn_radius: f64,
    reached: Tolerance,
    fetched: Tolerance,
    upright: Tolerance,
    ball: usize,
    ball_qpos: usize,
    ball_qvel: usize,
    root_qvel: usize,
    workspace: usize,
    target: usize,
}

impl Fetch {
    /// Horizontal metres from a site to the ball.
    fn distance_to_ball(&self, physics: &Physics, site: usize) -> f64 {
        norm(&difference(physics.site_xpos()[site], physics.xpos()[self.ball])[..2])
    }
}

impl Task for Fetch {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        let azimuth = random.uniform(0.0, 2.0 * PI);
        let orientation = [(azimuth / 2.0).cos(), 0.0, 0.0, (azimuth / 2.0).sin()];
        let radius = self.spawn_radius;
        let mut spot = || {
            [
                random.uniform(-radius, radius),
                random.uniform(-radius, radius),
            ]
        };
        self.body.place(physics, orientation, spot())?;
        let [x, y] = spot();
        physics.qpos_mut()[self.ball_qpos..self.ball_qpos + 3].copy_from_slice(&[x, y, 2.0]);
        for velocity in &mut physics.qvel_mut()[self.ball_qvel..self.ball_qvel + 2] {
            *velocity = 5.0 * random.standard_normal();
        }
        Ok(())
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        self.body.observe(physics, observation);
        let torso = self.body.torso;
        let [ball, root] = [self.ball_qvel, self.root_qvel].map(|start| &physics.qvel()[start..]);
        let ball_state = [
            difference(physics.xpos()[self.ball], physics.xpos()[torso]),
            std::array::from_fn(|axis| ball[axis] - root[axis]),
            std::array::from_fn(|axis| ball[3 + axis]),
        ];
        let ball_state = rows_into_frame(ball_state, &physics.xmat()[torso]);
        observation.field("ball_state", ball_state.as_flattened());
        let target = self
            .body
            .egocentric(physics, physics.site_xpos()[self.target]);
        observation.field("target_position", target);
    }

    fn reward(&self, physics: &Physics) -> f64 {
        let reached = self
            .reached
            .of(self.distance_to_ball(physics, self.workspace));
        let fetched = self.fetched.of(self.distance_to_ball(physics, self.target));
        let upright = self.upright.of(self.body.upright(physics));
        upright * (reached * (0.5 + 0.5 * fetched))
    }
}
