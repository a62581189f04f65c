"""Double DQN (van Hasselt et al. 2016, arXiv:1509.06461) with prioritized replay (Schaul et al. 2016,
arXiv:1511.05952) in JAX on Gymnasium's CartPole-v1, through the replay.

    pip install gymnasium jax optax
    python examples/dqn_jax.py

One thread acts and learns in turn, so the table only makes it wait for the first items. With `--replay HOST:PORT` the
table is that of `pmpo replay`.
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
BATCH_SIZE = 128
MIN_SIZE = 1000
HIDDEN = 128
DISCOUNT = 0.99
LEARNING_RATE = 5e-4
TARGET_PERIOD = 250
STEPS_PER_UPDATE = 2
EXPLORING_STEPS = 10_000
LEAST_EXPLORATION = 0.05
IMPORTANCE_EXPONENT = 0.5
EVALUATION_PERIOD = 2000
EPISODES = 10

optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(LEARNING_RATE))


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


@functools.partial(jax.jit, donate_argnums=(0, 2))
def update(online, target, state, data, weights):
    """A step of the online network; answers the temporal differences [B], too."""

    def loss(online):
        action = values(online, data["next_observation"]).argmax(-1)
        following = jnp.take_along_axis(values(target, data["next_observation"]), action[:, None], -1)[:, 0]
        wanted = jax.lax.stop_gradient(data["reward"] + DISCOUNT * data["discount"] * following)
        taken = jnp.take_along_axis(values(online, data["observation"]), data["action"][:, None], -1)[:, 0]
        return (weights * optax.huber_loss(taken, wanted)).mean(), wanted - taken

    gradients, differences = jax.grad(loss, has_aux=True)(online)
    updates, state = optimizer.update(gradients, state, online)
    return optax.apply_updates(online, updates), state, differences


def importance(batch):
    """What makes up for drawing items unequally, at most 1, [B]."""
    weights = (batch.size * batch.probabilities) ** -IMPORTANCE_EXPONENT
    return (weights / weights.max()).astype(np.float32)


class Actor:
    def __init__(self, seed):
        self.environment, self.rng = gymnasium.make(ENVIRONMENT), np.random.default_rng(seed)
        self.observation, _ = self.environment.reset(seed=seed)

    def step(self, network, exploration):
        """A transition, and whether the episode has ended with it."""
        observation = self.observation
        if self.rng.random() < exploration:
            action = self.rng.integers(self.environment.action_space.n)
        else:
            action = int(greedy(network, observation))
        self.observation, reward, terminated, truncated, _ = self.environment.step(int(action))
        transition = {
            "observation": observation,
            "action": np.int32(action),
            "reward": np.float32(reward),
            # What is truncated goes on, as far as its value is concerned.
            "discount": np.float32(1 - terminated),
            "next_observation": self.observation,
        }
        if terminated or truncated:
            self.observation, _ = self.environment.reset()
        return transition, terminated or truncated

    def episode(self, network):
        self.observation, _ = self.environment.reset()
        total, ended = 0.0, False
        while not ended:
            transition, ended = self.step(network, exploration=0.0)
            total += float(transition["reward"])
        return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replay", help="HOST:PORT of a server; by default one in this process")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--stop-at-return", type=float, default=475.0)
    arguments = parser.parse_args()
    table = Table("replay", sampler="prioritized", limiter="min_size", min_size_to_sample=MIN_SIZE, max_size=50_000)
    server = None if arguments.replay else Server([table], seed=arguments.seed)
    client = Client(arguments.replay or server.address)
    actor, evaluator = Actor(arguments.seed), Actor(arguments.seed + 1000)
    spaces = actor.environment
    sizes = [spaces.observation_space.shape[0], HIDDEN, HIDDEN, int(spaces.action_space.n)]
    online = network(jax.random.key(arguments.seed), sizes)
    target, state, updates = jax.tree.map(jnp.copy, online), optimizer.init(online), 0
    begun = time.monotonic()
    with client.writer("replay") as writer, client.sampler("replay", BATCH_SIZE) as sampler:
        for step in range(1, arguments.steps + 1):
            exploration = max(LEAST_EXPLORATION, 1 - step / EXPLORING_STEPS)
            writer.append(actor.step(online, exploration)[0])
            if step == MIN_SIZE:
                writer.flush()
            if step >= MIN_SIZE and step % STEPS_PER_UPDATE == 0:
                batch = next(sampler)
                online, state, differences = update(online, target, state, batch.data, importance(batch))
                sampler.update_priorities(batch.keys, np.abs(differences) + 1e-3)
                updates += 1
                if updates % TARGET_PERIOD == 0:
                    target = jax.tree.map(jnp.copy, online)
            if step % EVALUATION_PERIOD == 0:
                mean = np.mean([evaluator.episode(online) for _ in range(EPISODES)])
                print(f"steps {step:6} updates {updates:6} {time.monotonic() - begun:6.1f} s return {mean:6.1f}", flush=True)
                if mean >= arguments.stop_at_return:
                    break


if __name__ == "__main__":
    main()
