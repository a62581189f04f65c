"""Double DQN (van Hasselt et al. 2016, arXiv:1509.06461) over windows of steps, with prioritized replay (Schaul et al.
2016, arXiv:1511.05952), in JAX on Gymnasium's CartPole-v1, through the replay.

    pip install gymnasium jax optax
    python examples/dqn_jax.py

One thread acts and learns in turn, so the table makes it wait for the first items only. An item is a window of
`WINDOW` steps; each of its steps but the last learns from the rewards up to that one, so from one to `WINDOW - 1` of
them. With `--replay HOST:PORT` the table is that of `pmpo replay`.
"""

import argparse
import functools
import time

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pmpo.replay import Client, Server, Table

ENVIRONMENT = "CartPole-v1"
BATCH_SIZE = 32
WINDOW = 11
MIN_SIZE = 1000
HIDDEN = 128
DISCOUNT = 0.99
LEARNING_RATE = 1e-3
DECAY_UPDATES = 15_000
TARGET_RATE = 0.01
STEPS_PER_UPDATE = 2
EXPLORING_STEPS = 5_000
LEAST_EXPLORATION = 0.02
IMPORTANCE_EXPONENT = 0.5
EVALUATION_PERIOD = 2000
EPISODES = 10

learning_rate = optax.linear_schedule(LEARNING_RATE, 0.0, DECAY_UPDATES)
optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(learning_rate))


def network(key, sizes):
    """Layers of a matrix [in, out] and a bias [out]."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(key, (n, m)) * np.sqrt(2 / n), jnp.zeros(m)) for key, n, m in zip(keys, sizes, sizes[1:])
    ]


def values(network, observation):
    """observation [..., O] -> the value of each action [..., A]."""
    *hidden, (weights, bias) = network
    for w, b in hidden:
        observation = jax.nn.relu(observation @ w + b)
    return observation @ weights + bias


@jax.jit
def greedy(network, observation):
    return values(network, observation).argmax(-1)


def chosen(values, action):
    return jnp.take_along_axis(values, action[..., None], -1)[..., 0]


@functools.partial(jax.jit, donate_argnums=(0, 1, 2))
def update(online, target, state, data, weights):
    """A step of both networks; data is [B, T, ...]. Answers the windows' mean absolute errors [B], too."""

    def loss(online):
        each = values(online, data["observation"])
        # From the last step, whose value stands for all that follows, to the first.
        wanted, value = [], chosen(values(target, data["observation"][:, -1]), each[:, -1].argmax(-1))
        for t in reversed(range(WINDOW - 1)):
            value = data["reward"][:, t] + DISCOUNT * data["discount"][:, t] * value
            wanted.insert(0, value)
        errors = jax.lax.stop_gradient(jnp.stack(wanted, 1)) - chosen(each, data["action"])[:, :-1]
        return (weights[:, None] * jnp.square(errors)).mean(), jnp.abs(errors).mean(1)

    gradients, errors = jax.grad(loss, has_aux=True)(online)
    updates, state = optimizer.update(gradients, state, online)
    online = optax.apply_updates(online, updates)
    target = optax.incremental_update(online, target, TARGET_RATE)
    return online, target, state, errors


def importance(batch):
    """What makes up for drawing items unequally, at most 1, [B]."""
    weights = (batch.size * batch.probabilities) ** -IMPORTANCE_EXPONENT
    return (weights / weights.max()).astype(np.float32)


class Actor:
    """Steps an environment, and tells a writer, if there is one."""

    def __init__(self, seed, writer=None):
        self.environment, self.rng, self.writer = gymnasium.make(ENVIRONMENT), np.random.default_rng(seed), writer
        self.observation, self.steps = self.environment.reset(seed=seed)[0], 0

    def step(self, network, exploration):
        """Reward, and whether the episode has ended."""
        observation = self.observation
        action = int(greedy(network, observation))
        if self.rng.random() < exploration:
            action = int(self.rng.integers(self.environment.action_space.n))
        self.observation, reward, terminated, truncated, _ = self.environment.step(action)
        # What is truncated goes on, as far as its value is concerned.
        self.write(observation, action, float(reward), float(not terminated))
        if terminated or truncated:
            # Of the last step of an episode the observation alone counts.
            self.write(self.observation, 0, 0.0, 0.0)
            self.observation, self.steps = self.environment.reset()[0], 0
            if self.writer:
                self.writer.end_episode()
        return reward, terminated or truncated

    def write(self, observation, action, reward, discount):
        self.steps += 1
        if self.writer:
            step = {"observation": observation, "action": np.int32(action), "reward": np.float32(reward),
                    "discount": np.float32(discount)}  # fmt: skip
            self.writer.append(step)
            if self.steps >= WINDOW:
                self.writer.create_item()

    def episode(self, network):
        total, ended = 0.0, False
        while not ended:
            reward, ended = self.step(network, exploration=0.0)
            total += reward
        return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replay", help="HOST:PORT of a server; by default one in this process")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--stop-at-return", type=float, default=450.0)
    arguments = parser.parse_args()
    table = Table("replay", sequence_length=WINDOW, sampler="prioritized", limiter="min_size",
                  min_size_to_sample=MIN_SIZE, max_size=50_000)  # fmt: skip
    server = None if arguments.replay else Server([table], seed=arguments.seed)
    client = Client(arguments.replay or server.address)
    spaces = gymnasium.make(ENVIRONMENT)
    sizes = [spaces.observation_space.shape[0], HIDDEN, HIDDEN, int(spaces.action_space.n)]
    online = network(jax.random.key(arguments.seed), sizes)
    target, state, updates = jax.tree.map(jnp.copy, online), optimizer.init(online), 0
    begun = time.monotonic()
    with client.writer("replay") as writer, client.sampler("replay", BATCH_SIZE) as sampler:
        actor, evaluator = Actor(arguments.seed, writer), Actor(arguments.seed + 1000)
        for step in range(1, arguments.steps + 1):
            actor.step(online, exploration=max(LEAST_EXPLORATION, 1 - step / EXPLORING_STEPS))
            # Of an episode's first steps no window is made.
            if step >= 2 * MIN_SIZE and step % STEPS_PER_UPDATE == 0:
                batch = next(sampler)
                online, target, state, errors = update(online, target, state, batch.data, importance(batch))
                sampler.update_priorities(batch.keys, np.asarray(errors) + 1e-3)
                updates += 1
            if step % EVALUATION_PERIOD == 0:
                mean = np.mean([evaluator.episode(online) for _ in range(EPISODES)])
                seconds = time.monotonic() - begun
                print(f"steps {step:6} updates {updates:6} {seconds:6.1f} s return {mean:6.1f}", flush=True)
                if mean >= arguments.stop_at_return:
                    break


if __name__ == "__main__":
    main()
