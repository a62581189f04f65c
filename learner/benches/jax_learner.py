"""The peer of `pmpo bench learner`: the same PMPO step, jitted by JAX on the CPU in float32.

    pip install "jax[cpu]"
    python learner/benches/jax_learner.py --case walker --threads 1 --seconds 10

Step, sizes, networks, loss and optimiser are those of `learner/update` with the configuration of
`pmpo bench learner`; batches are NumPy arrays that are copied into every step, and statistics are read
back each 100 steps, as ours. The last line is one JSON object with `steps_per_s` and `cpu_ms_per_step`.

`--golden FILE` writes instead what three steps of small networks come to from given weights, batches and
noise, in double precision, for `learner/update/src/state/golden.rs` to hold the update against.
"""

import argparse
import json
import os
import time

CASES = {  # observation size, action size, batch size, width of the layers
    "walker": (24, 6, 256, 256),
    "humanoid": (67, 21, 256, 256),
    "large": (67, 21, 1024, 1024),
}

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--case", choices=CASES, default="walker")
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--seconds", type=float, default=10.0)
parser.add_argument("--golden", metavar="FILE")
parser.add_argument("--prng", choices=["threefry2x32", "rbg", "unsafe_rbg"], default="threefry2x32")
arguments = parser.parse_args()

# Before JAX starts its threads: it sizes its pools by the cores it may run on.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
os.environ["JAX_PLATFORMS"] = "cpu"
if arguments.threads == 1:
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

SAMPLES, ACCEPTED, REJECTED = 4, 2, 2
ALPHA, BETA_MEAN, BETA_STD = 0.5, 1.0, 100.0
INIT_STD, MIN_STD = 0.7, 0.02
LEARNING_RATE, BETA_1, BETA_2, EPSILON = 3e-4, 0.9, 0.999, 1e-8
TARGET_PERIOD, STATS_PERIOD, WARM_UP = 100, 100, 10


def linear(rng, inputs, outputs, scale):
    limit = np.sqrt(3.0 * scale / inputs)
    weight = rng.uniform(-limit, limit, (inputs, outputs)).astype(np.float32)
    return {"weight": weight, "bias": np.zeros(outputs, np.float32)}


def network(rng, inputs, width, heads):
    return {
        "layers": [linear(rng, inputs, width, 1 / 3), linear(rng, width, width, 1 / 3)],
        "gamma": np.ones(width, np.float32),
        "beta": np.zeros(width, np.float32),
        "heads": {name: linear(rng, width, size, 1e-4) for name, size in heads.items()},
    }


def apply(layer, x):
    return x @ layer["weight"] + layer["bias"]


def torso(p, x):
    x = apply(p["layers"][0], x)
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    x = (x - mean) * jax.lax.rsqrt(variance + 1e-5) * p["gamma"] + p["beta"]
    return jax.nn.elu(apply(p["layers"][1], jnp.tanh(x)))


def policy(p, observation):
    x = torso(p, observation)
    mean = jnp.tanh(apply(p["heads"]["mean"], x))
    scale = (INIT_STD - MIN_STD) / np.log(2.0)
    return mean, jax.nn.softplus(apply(p["heads"]["std"], x)) * scale + MIN_STD


def critic(p, observation, action):
    x = jnp.concatenate([observation, jnp.clip(action, -1.0, 1.0)], -1)
    return apply(p["heads"]["value"], torso(p, x))[..., 0]


def preference_weights(values):
    # Equal values have probability zero here.
    rank = (values[None, :, :] > values[:, None, :]).sum(1)
    accepted = jnp.where(rank < ACCEPTED, ALPHA / ACCEPTED, 0.0)
    return accepted - jnp.where(rank >= SAMPLES - REJECTED, (1 - ALPHA) / REJECTED, 0.0)


def policy_loss(p, observation, reference, actions, weights):
    mean, std = policy(p, observation)
    z = (actions - mean) / std
    log_prob = -0.5 * jnp.square(z).sum(-1) - (jnp.log(std) + 0.5 * np.log(2 * np.pi)).sum(-1)
    preference = (weights * log_prob).sum(0).mean()
    kl_mean = (0.5 * jnp.square((mean - reference[0]) / reference[1])).sum(-1).mean()
    ratio = reference[1] / std
    kl_std = (0.5 * jnp.square(ratio) - jnp.log(ratio) - 0.5).sum(-1).mean()
    loss = BETA_MEAN * kl_mean + BETA_STD * kl_std - preference
    return loss, (preference, kl_mean, kl_std)


def critic_loss(p, observation, action, target):
    value = critic(p, observation, action)
    return (0.5 * jnp.square(target - value)).mean(), (value.mean(), target.mean())


def adam(p, gradient, state, step):
    def leaf(p, g, m, v):
        m = BETA_1 * m + (1 - BETA_1) * g
        v = BETA_2 * v + (1 - BETA_2) * jnp.square(g)
        rate = LEARNING_RATE / (1 - BETA_1**step)
        root = jnp.sqrt(1 - BETA_2**step)
        return p - rate * m / (jnp.sqrt(v) / root + EPSILON), m, v

    moved = jax.tree.map(leaf, p, gradient, *state)
    pick = lambda i: jax.tree.map(lambda _, new: new[i], p, moved)  # noqa: E731
    return pick(0), (pick(1), pick(2))


def norm(tree):
    return jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree)))


def update(state, target, batch):
    key, noise_key = jax.random.split(state["key"])
    noise = jax.random.normal(noise_key, (SAMPLES, *batch[1].shape))
    return update_with(state, target, batch, noise, key)


def update_with(state, target, batch, noise, key):
    observation, action, reward, discount, next_observation = batch
    reference = policy(target["policy"], next_observation)
    drawn = reference[0] + reference[1] * noise
    repeated = jnp.broadcast_to(next_observation, (SAMPLES, *next_observation.shape))
    values = critic(target["critic"], repeated, drawn)
    td_target = reward + discount * values.mean(0)

    online = state["online"]
    (p_loss, p_stats), p_gradient = jax.value_and_grad(policy_loss, has_aux=True)(
        online["policy"], next_observation, reference, drawn, preference_weights(values)
    )
    (c_loss, c_stats), c_gradient = jax.value_and_grad(critic_loss, has_aux=True)(
        online["critic"], observation, action, td_target
    )
    step = state["step"] + 1.0
    moved = {
        "policy": adam(online["policy"], p_gradient, state["adam"]["policy"], step),
        "critic": adam(online["critic"], c_gradient, state["adam"]["critic"], step),
    }
    statistics = [p_loss, c_loss, norm(p_gradient), norm(c_gradient), *p_stats, *c_stats]
    state = {
        "online": {name: new for name, (new, _) in moved.items()},
        "adam": {name: new for name, (_, new) in moved.items()},
        "step": step,
        "key": key,
    }
    return state, jnp.stack(statistics)


def fresh(rng, observation_size, action_size, width):
    heads = {"mean": action_size, "std": action_size}
    online = {
        "policy": network(rng, observation_size, width, heads),
        "critic": network(rng, observation_size + action_size, width, {"value": 1}),
    }
    return jax.tree.map(jnp.asarray, online)


def zero_moments(online):
    zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)  # noqa: E731
    return {name: (zeros(tree), zeros(tree)) for name, tree in online.items()}


def tensors(p):
    """A network's tensors under the names that snapshots have."""
    named = {"torso.1": {"gamma": p["gamma"], "beta": p["beta"]}}
    named |= {"torso.0": p["layers"][0], "torso.3": p["layers"][1]}
    named |= {name if name == "value" else f"head.{name}": head for name, head in p["heads"].items()}
    return {
        f"{layer}.{name}": np.asarray(tensor, np.float64).ravel().tolist()
        for layer, parts in named.items()
        for name, tensor in parts.items()
    }


def golden(path, observation_size=3, action_size=2, batch_size=5, width=8, steps=3):
    """The target networks become the online ones after the second step."""
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(1)
    online = fresh(rng, observation_size, action_size, width)
    # Heads start near zero, where little would be seen of them; norms at one and zero.
    online = jax.tree.map(lambda x: np.asarray(x, np.float32) * 1.0, online)
    for name in online:
        for head in online[name]["heads"].values():
            head["weight"] = rng.uniform(-0.5, 0.5, head["weight"].shape).astype(np.float32)
        online[name]["gamma"] = rng.uniform(0.5, 1.5, width).astype(np.float32)
        online[name]["beta"] = rng.uniform(-0.5, 0.5, width).astype(np.float32)
    online = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), online)
    state = {"online": online, "adam": zero_moments(online), "step": jnp.float64(0.0), "key": None}
    target = online
    weights = lambda: {name: tensors(tree) for name, tree in state["online"].items()}  # noqa: E731
    written = {"before": weights(), "steps": []}
    shapes = [(observation_size,), (action_size,), (), (), (observation_size,)]
    for step in range(steps):
        batch = [rng.standard_normal((batch_size, *s)).astype(np.float32) for s in shapes]
        batch[3] = rng.uniform(0.5, 1.0, batch_size).astype(np.float32)
        noise = rng.standard_normal((SAMPLES, batch_size, action_size)).astype(np.float32)
        doubles = [jnp.asarray(column, jnp.float64) for column in (*batch, noise)]
        state, statistics = update_with(state, target, doubles[:5], doubles[5], None)
        if step == 1:
            target = state["online"]
        names = ["observation", "action", "reward", "discount", "next_observation"]
        taken = {name: np.float64(column).ravel().tolist() for name, column in zip(names, batch)}
        taken["noise"] = np.float64(noise).ravel().tolist()
        taken["statistics"] = [float(value) for value in statistics]
        written["steps"].append(taken)
    written["after"] = weights()
    with open(path, "w") as file:
        json.dump(written, file)
        file.write("\n")


def main():
    if arguments.golden:
        return golden(arguments.golden)
    observation_size, action_size, batch_size, width = CASES[arguments.case]
    rng = np.random.default_rng(1)
    online = fresh(rng, observation_size, action_size, width)
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
    state = {
        "online": online,
        "adam": zero_moments(online),
        "step": jnp.float32(0.0),
        "key": jax.random.key(1, impl=arguments.prng),
    }
    target = copy(online)
    shapes = [(observation_size,), (action_size,), (), (), (observation_size,)]
    batch = [rng.standard_normal((batch_size, *s)).astype(np.float32) for s in shapes]
    batch[3] = np.full(batch_size, 0.95, np.float32)
    jitted = jax.jit(update, donate_argnums=0)

    def take(steps, state, target):
        """Takes steps, then reads their statistics back, which also waits for them."""
        pending = []
        for _ in range(steps):
            state, statistics = jitted(state, target, [column.copy() for column in batch])
            pending.append(statistics)
            take.steps += 1
            if take.steps % TARGET_PERIOD == 0:
                target = copy(state["online"])
        assert np.isfinite(np.stack(pending)).all()
        return state, target

    take.steps = 0
    state, target = take(WARM_UP, state, target)
    start, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < arguments.seconds:
        # Windows that are short beside the seconds asked for, else the last one overshoots.
        state, target = take(min(STATS_PERIOD, max(1, int(take.steps))), state, target)
        wall = time.perf_counter() - start
    cpu, steps = time.process_time() - cpu, take.steps - WARM_UP
    report = {
        "case": arguments.case,
        "threads": arguments.threads,
        "steps": steps,
        "steps_per_s": steps / wall,
        "cpu_ms_per_step": cpu * 1e3 / steps,
        "jax": jax.__version__,
    }
    print(json.dumps(report))


main()
