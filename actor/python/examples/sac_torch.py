"""SAC (Haarnoja et al. 2018, arXiv:1812.05905) in PyTorch on Gymnasium's Pendulum-v1, through the replay.

    pip install gymnasium torch
    python examples/sac_torch.py

An actor writes in a thread of its own while the learner samples. The table's limiter keeps them in step: a batch of
`BATCH_SIZE` items for each item written. With `--replay HOST:PORT` the table is that of `pmpo replay`, and actors can
be anywhere.
"""

import argparse
import copy
import threading
import time

import gymnasium
import numpy as np
import torch
from torch import nn

from pmpo.replay import Client, Server, Table

ENVIRONMENT = "Pendulum-v1"
BATCH_SIZE = 128
MIN_SIZE = 500
HIDDEN = 128
DISCOUNT = 0.99
LEARNING_RATE = 1e-3
TARGET_RATE = 0.01
EVALUATION_PERIOD = 500
EPISODES = 10


def network(inputs, outputs):
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs)
    )


class Policy(nn.Module):
    """A Gaussian squashed by tanh; actions in [-1, 1]."""

    def __init__(self, observation_size, action_size):
        super().__init__()
        self.torso = network(observation_size, 2 * action_size)

    def forward(self, observation):
        """observation [B, O] -> action [B, A], its log-probability [B], the mode [B, A]."""
        mean, log_std = self.torso(observation).chunk(2, dim=-1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
        raw = normal.rsample()
        action = raw.tanh()
        # log(1 - tanh(x)^2), computed without cancellation.
        squash = 2 * (np.log(2) - raw - nn.functional.softplus(-2 * raw))
        return action, (normal.log_prob(raw) - squash).sum(-1), mean.tanh()


class Critics(nn.Module):
    """Two critics of observation and action, [2, B]."""

    def __init__(self, observation_size, action_size):
        super().__init__()
        self.each = nn.ModuleList(network(observation_size + action_size, 1) for _ in range(2))

    def forward(self, observation, action):
        inputs = torch.cat([observation, action], -1)
        return torch.stack([critic(inputs).squeeze(-1) for critic in self.each])


class Learner:
    def __init__(self, observation_size, action_size):
        self.policy = Policy(observation_size, action_size)
        self.critics = Critics(observation_size, action_size)
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = torch.zeros((), requires_grad=True)
        self.target_entropy = -action_size
        parameters = (self.policy.parameters(), self.critics.parameters(), [self.log_alpha])
        self.optimizers = [torch.optim.Adam(each, LEARNING_RATE) for each in parameters]

    def update(self, batch):
        # The tensors are the batch's own memory.
        data = {name: torch.from_numpy(column) for name, column in batch.data.items()}
        observation, alpha = data["observation"], self.log_alpha.detach().exp()
        with torch.no_grad():
            action, log_prob, _ = self.policy(data["next_observation"])
            value = self.target(data["next_observation"], action).amin(0) - alpha * log_prob
            wanted = data["reward"] + DISCOUNT * data["discount"] * value
        critics = self.critics(observation, data["action"])
        self.minimise(1, (critics - wanted).square().mean())
        action, log_prob, _ = self.policy(observation)
        self.minimise(0, (alpha * log_prob - self.critics(observation, action).amin(0)).mean())
        self.minimise(2, -self.log_alpha * (log_prob.detach() + self.target_entropy).mean())
        with torch.no_grad():
            for target, online in zip(self.target.parameters(), self.critics.parameters()):
                target.lerp_(online, TARGET_RATE)

    def minimise(self, which, loss):
        self.optimizers[which].zero_grad()
        loss.backward()
        self.optimizers[which].step()


class Actor:
    """An environment with actions in [-1, 1], and the policy's choice of them."""

    def __init__(self, policy, seed):
        self.environment, self.policy = gymnasium.make(ENVIRONMENT), policy
        self.environment.reset(seed=seed)
        space = self.environment.action_space
        self.middle, self.half = (space.high + space.low) / 2, (space.high - space.low) / 2

    @torch.no_grad()
    def act(self, observation, explore):
        action, _, mode = self.policy(torch.as_tensor(observation)[None])
        return (action if explore else mode)[0].numpy()

    def episode(self, explore, write=lambda **step: None):
        observation, total, ended = self.environment.reset()[0], 0.0, False
        while not ended:
            action = self.act(observation, explore)
            following, reward, terminated, truncated, _ = self.environment.step(self.middle + self.half * action)
            # What is truncated goes on, as far as its value is concerned.
            discount = np.float32(1 - terminated)
            write(observation=observation, action=action, reward=np.float32(reward), discount=discount,
                  next_observation=following)  # fmt: skip
            observation, total, ended = following, total + float(reward), terminated or truncated
        return total


def act(client, policy, seed):
    """Writes episodes for ever."""
    actor, writer = Actor(policy, seed), client.writer("replay", max_in_flight_steps=8)
    while True:
        actor.episode(explore=True, write=lambda **step: writer.append(step))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replay", help="HOST:PORT of a server; by default one in this process")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--stop-at-return", type=float, default=-200.0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    table = Table("replay", samples_per_insert=BATCH_SIZE, min_size_to_sample=MIN_SIZE, error_buffer=8 * BATCH_SIZE,
                  max_batch_size=BATCH_SIZE)  # fmt: skip
    server = None if arguments.replay else Server([table], seed=arguments.seed)
    client = Client(arguments.replay or server.address)
    spaces = gymnasium.make(ENVIRONMENT)
    learner = Learner(spaces.observation_space.shape[0], spaces.action_space.shape[0])
    evaluator = Actor(learner.policy, seed=arguments.seed + 1000)
    threading.Thread(target=act, args=(client, learner.policy, arguments.seed), daemon=True).start()
    begun = time.monotonic()
    for update, batch in zip(range(1, arguments.updates + 1), client.sampler("replay", BATCH_SIZE)):
        learner.update(batch)
        if update % EVALUATION_PERIOD == 0:
            mean = np.mean([evaluator.episode(explore=False) for _ in range(EPISODES)])
            seconds = time.monotonic() - begun
            print(f"update {update:6} steps {batch.inserts:6} {seconds:6.1f} s return {mean:8.1f}", flush=True)
            if mean >= arguments.stop_at_return:
                break


if __name__ == "__main__":
    main()
