//! Finger that spins or turns a hinged body. Source: dm_control's `suite/finger.py`.

use std::f64::consts::PI;

use crate::error::SuiteError;
use crate::numpy::{RandomState, log1p, norm};
use crate::observation::Observation;
use crate::physics::Physics;
use crate::randomizers::randomize_joints;
use crate::task::{Setup, Task, Timing};
use crate::vector::difference;

/// Seconds.
const TIME_LIMIT: f64 = 20.0;
/// Seconds.
const CONTROL_TIMESTEP: f64 = 0.02;
/// Metres.
const EASY_TARGET_RADIUS: f64 = 0.07;
/// Metres.
const HARD_TARGET_RADIUS: f64 = 0.03;
/// Radians a second (clockwise) from which on the body counts as spinning.
const SPIN_VELOCITY: f64 = 15.0;
/// Damping of the hinge while spinning, newton metre seconds a radian.
const SPIN_DAMPING: f64 = 0.03;
/// Attempts at a collision-free initial state.
const MAX_ATTEMPTS: usize = 1000;

pub(crate) fn spin() -> Result<Setup, SuiteError> {
    let physics = Physics::from_suite("finger.xml")?;
    let task = Spin {
        sensors: Sensors::new(&physics)?,
        hinge: physics.joint_velocity("hinge")?,
        sites: [physics.site("target")?, physics.site("tip")?],
    };
    Ok(Setup::new(
        physics,
        task,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    ))
}

pub(crate) fn turn_easy() -> Result<Setup, SuiteError> {
    turn(EASY_TARGET_RADIUS)
}

pub(crate) fn turn_hard() -> Result<Setup, SuiteError> {
    turn(HARD_TARGET_RADIUS)
}

fn turn(target_radius: f64) -> Result<Setup, SuiteError> {
    let physics = Physics::from_suite("finger.xml")?;
    let task = Turn {
        sensors: Sensors::new(&physics)?,
        target_sensor: physics.sensor("target")?,
        target_site: physics.site("target")?,
        hinge: physics.joint("hinge")?,
        cap: physics.geom("cap1")?,
        target_radius,
    };
    Ok(Setup::new(
        physics,
        task,
        Timing::new(TIME_LIMIT, CONTROL_TIMESTEP),
    ))
}

/// Readings common to both tasks.
struct Sensors {
    angles: [usize; 2],
    velocities: [usize; 3],
    touch: [usize; 2],
    tip: usize,
    spinner: usize,
}

impl Sensors {
    fn new(physics: &Physics) -> Result<Self, SuiteError> {
        Ok(Self {
            angles: [physics.sensor("proximal")?, physics.sensor("distal")?],
            velocities: [
                physics.sensor("proximal_velocity")?,
                physics.sensor("distal_velocity")?,
                physics.sensor("hinge_velocity")?,
            ],
            touch: [physics.sensor("touchtop")?, physics.sensor("touchbottom")?],
            tip: physics.sensor("tip")?,
            spinner: physics.sensor("spinner")?,
        })
    }

    /// x and z of a position sensor, relative to the hinge.
    fn relative_to_hinge(&self, physics: &Physics, sensor: usize) -> [f64; 2] {
        let data = physics.sensordata();
        let spinner = self.spinner;
        [
            data[sensor] - data[spinner],
            data[sensor + 2] - data[spinner + 2],
        ]
    }

    fn hinge_velocity(&self, physics: &Physics) -> f64 {
        physics.sensordata()[self.velocities[2]]
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        let data = physics.sensordata();
        let angles = self.angles.map(|sensor| data[sensor]);
        let tip = self.relative_to_hinge(physics, self.tip);
        observation.field("position", angles.into_iter().chain(tip));
        observation.field("velocity", self.velocities.map(|sensor| data[sensor]));
        observation.field("touch", self.touch.map(|sensor| log1p(data[sensor])));
    }
}

struct Spin {
    sensors: Sensors,
    /// Index of the hinge's velocity.
    hinge: usize,
    /// Sites that mean nothing here and are hidden.
    sites: [usize; 2],
}

impl Task for Spin {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        for site in self.sites {
            physics.model_mut().site_rgba_mut()[site][3] = 0.0;
        }
        physics.model_mut().dof_damping_mut()[self.hinge] = SPIN_DAMPING;
        randomize_without_collision(physics, random)
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        self.sensors.observe(physics, observation);
    }

    fn reward(&self, physics: &Physics) -> f64 {
        f64::from(self.sensors.hinge_velocity(physics) <= -SPIN_VELOCITY)
    }
}

struct Turn {
    sensors: Sensors,
    target_sensor: usize,
    target_site: usize,
    hinge: usize,
    cap: usize,
    target_radius: f64,
}

impl Turn {
    fn target_position(&self, physics: &Physics) -> [f64; 2] {
        self.sensors.relative_to_hinge(physics, self.target_sensor)
    }

    /// Metres from the tip to the target's surface, negative within it.
    fn distance_to_target(&self, physics: &Physics) -> f64 {
        let tip = self.sensors.relative_to_hinge(physics, self.sensors.tip);
        norm(&difference(self.target_position(physics), tip)) - self.target_radius
    }
}

impl Task for Turn {
    fn initialize_episode(
        &mut self,
        physics: &mut Physics,
        random: &mut RandomState,
    ) -> Result<(), SuiteError> {
        let angle = random.uniform(-PI, PI);
        let [hinge_x, _, hinge_z] = physics.xanchor()[self.hinge];
        let radius: f64 = physics.model().geom_size()[self.cap].iter().sum();
        let model = physics.model_mut();
        model.site_pos_mut()[self.target_site][0] = hinge_x + radius * angle.sin();
        model.site_pos_mut()[self.target_site][2] = hinge_z + radius * angle.cos();
        model.site_size_mut()[self.target_site][0] = self.target_radius;
        randomize_without_collision(physics, random)
    }

    fn observe(&self, physics: &Physics, observation: &mut Observation) {
        self.sensors.observe(physics, observation);
        observation.field("target_position", self.target_position(physics));
        observation.field("dist_to_target", [self.distance_to_target(physics)]);
    }

    fn reward(&self, physics: &Physics) -> f64 {
        f64::from(self.distance_to_target(physics) <= 0.0)
    }
}

fn randomize_without_collision(
    physics: &mut Physics,
    random: &mut RandomState,
) -> Result<(), SuiteError> {
    for _ in 0..MAX_ATTEMPTS {
        randomize_joints(physics, random);
        physics.after_reset()?;
        if !physics.in_contact() {
            return Ok(());
        }
    }
    Err(SuiteError::NoInitialState {
        attempts: MAX_ATTEMPTS,
    })
}
