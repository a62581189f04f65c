"""Plays random episodes in dm_control and writes them down, for `parity.rs` to replay.

For each task and seed the output holds one line of JSON (task, seed, sizes, number of rows) and then
the rows, little-endian f64: kind, reward, discount, observation, action. Kinds are dm_env's step
types; PHYSICS_ERROR stands for a step that raised. The action is the one that led to the row.
"""

import argparse
import json
import sys

import numpy as np
from dm_control import mujoco
from dm_control import suite
from dm_control.rl import control

PHYSICS_ERROR = 3
# Controls without bounds are drawn from here; the spec says 1e10, where every simulation diverges.
UNBOUNDED = 1.0

# Quadruped escape would otherwise make a rendering context, which needs GL, to show its terrain.
mujoco.Physics.contexts = None


def flatten(observation):
  return np.concatenate([np.ravel(value) for value in observation.values()])


def play(domain, task, seed, episodes, steps):
  """Yields the rows of consecutive episodes with uniformly random actions."""
  env = suite.load(domain, task, task_kwargs={'random': seed})
  spec = env.action_spec()
  low = np.where(spec.minimum <= -1e10, -UNBOUNDED, spec.minimum)
  high = np.where(spec.maximum >= 1e10, UNBOUNDED, spec.maximum)
  actions = np.random.RandomState([seed, 7])
  for _ in range(episodes):
    time_step = env.reset()
    observation = flatten(time_step.observation)
    still = np.zeros(spec.shape)
    yield np.concatenate([[0, np.nan, np.nan], observation, still])
    for _ in range(steps):
      action = actions.uniform(low, high)
      try:
        time_step = env.step(action)
      except control.PhysicsError:
        nothing = np.full(observation.size, np.nan)
        yield np.concatenate([[PHYSICS_ERROR, np.nan, np.nan], nothing, action])
        break
      observation = flatten(time_step.observation)
      outcome = [int(time_step.step_type), time_step.reward, time_step.discount]
      yield np.concatenate([outcome, observation, action])
      if time_step.last():
        break


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', required=True)
  parser.add_argument('--seeds', type=int, nargs='+', required=True)
  parser.add_argument('--episodes', type=int, required=True)
  parser.add_argument('--benchmark-steps', type=int, required=True)
  parser.add_argument('--extra-steps', type=int, required=True)
  parser.add_argument('--part', type=int, default=0, help='which tasks of each --parts')
  parser.add_argument('--parts', type=int, default=1)
  parser.add_argument('--only', default='', help='part of the names of the tasks to play')
  args = parser.parse_args()
  with open(args.out, 'wb') as out:
    for domain, task in suite.ALL_TASKS[args.part::args.parts]:
      name = f'{domain}-{task}'.replace('_', '-')
      if args.only not in name:
        continue
      benchmark = (domain, task) in suite.BENCHMARKING
      steps = args.benchmark_steps if benchmark else args.extra_steps
      for seed in args.seeds:
        rows = np.stack(list(play(domain, task, seed, args.episodes, steps)))
        env = suite.load(domain, task, task_kwargs={'random': seed})
        header = {
            'task': name,
            'benchmarking': benchmark,
            'seed': seed,
            'rows': rows.shape[0],
            'width': rows.shape[1],
            'actions': env.action_spec().shape[0],
            'control_timestep': env.control_timestep(),
        }
        out.write(json.dumps(header).encode() + b'\n')
        out.write(rows.astype('<f8').tobytes())
      print(name, file=sys.stderr, flush=True)


if __name__ == '__main__':
  main()
