"""Data sets between the library and other people's packages.

Whatever Minari has written, in each of its formats, the library reads and writes in its own, which is Minari's with
labels; Minari reads that, and every value is the same. LeRobot's layout is checked with pyarrow and pandas, which
LeRobot reads it with, in its own stead: its package brings half a gigabyte of PyTorch.
"""

import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from gymnasium import spaces

CONVERT = str(Path(sys.argv[1]).resolve())
SIZES = [1, 2, 7, 30]


def convert(*arguments):
    subprocess.run([CONVERT, *map(str, arguments)], check=True)


def episodes(observation, flat):
    """The data of each episode, as Minari's buffers take them."""
    random = np.random.default_rng(0)

    def sample(space, rows):
        if isinstance(space, spaces.Dict):
            return {key: sample(part, rows) for key, part in space.items()}
        return random.normal(size=(rows, *space.shape)).astype(space.dtype)

    for index, steps in enumerate(SIZES):
        last = np.arange(steps) == steps - 1
        yield {
            "id": index,
            "observations": sample(observation, steps + 1),
            "actions": sample(flat, steps),
            "rewards": random.integers(-1, 2, size=steps).astype(np.float64),
            "terminations": last & (index % 2 == 0),
            "truncations": last & (index % 2 == 1),
            "infos": {"speed": np.zeros((steps + 1, 3))},
        }


def leaves(observations, path=()):
    """Name and values of every array, as the library names them."""
    if isinstance(observations, dict):
        for key, part in observations.items():
            yield from leaves(part, (*path, key))
    else:
        yield "/".join(path), observations.reshape(len(observations), -1).astype(np.float32)


def same(read, written):
    got, expected = dict(leaves(read.observations)), dict(leaves(written["observations"]))
    assert got.keys() == expected.keys(), (got.keys(), expected.keys())
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, name)
    for name in ("actions", "rewards", "terminations", "truncations"):
        values = written[name].reshape(len(written[name]), -1)
        np.testing.assert_array_equal(np.reshape(getattr(read, name), values.shape), values, name)


def minari_data(folder):
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    import minari
    from minari.data_collector import EpisodeBuffer

    box = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    deep = {"b": spaces.Box(-1, 1, (2, 2), np.float32), "a": box}
    observations = {"box": box, "dict": spaces.Dict({"z": box, "deep": spaces.Dict(deep)})}
    action = spaces.Box(np.float32([-1, -2]), np.float32([1, np.inf]), dtype=np.float32)
    for kind, observation in observations.items():
        for form in ("parquet", "arrow", "hdf5"):
            written, name = list(episodes(observation, action)), f"theirs/{kind}-{form}-v0"
            minari.create_dataset_from_buffers(
                name,
                [EpisodeBuffer(**episode) for episode in written],
                observation_space=observation,
                action_space=action,
                data_format=form,
                author="A. Author",
                algorithm_name="noise",
            )
            ours = f"ours/{kind}-{form}-v1"
            (folder / "ours").mkdir(exist_ok=True)
            convert("minari", folder / name, folder / ours)
            check_minari(minari, ours, written)
            convert("label", folder / ours)
            check_minari(minari, ours, written)
            check_labels(folder / ours, written)
            if form == "parquet":
                convert("label", folder / name)
                check_minari(minari, name, written)
                check_labels(folder / name, written)
            print(f"ok: Minari, {kind}, {form}")
    return folder / "ours/dict-parquet-v1", written


def check_minari(minari, name, written):
    data = minari.load_dataset(name)
    assert (data.total_episodes, data.total_steps) == (len(SIZES), sum(SIZES))
    metadata = data.storage.metadata
    assert (metadata["author"], metadata["algorithm_name"]) == ({"A. Author"}, "noise"), metadata
    np.testing.assert_array_equal(data.action_space.low, np.float32([-1, -2]))
    np.testing.assert_array_equal(data.action_space.high, np.float32([1, np.inf]))
    for read, expected in zip(data.iterate_episodes(), written, strict=True):
        same(read, expected)


def check_labels(folder, written):
    for index, episode in enumerate(written):
        table = pq.ParquetFile(folder / f"data/{index}/part-0.parquet").read()
        expected = [None if reward == 0 else bool(reward > 0) for reward in episode["rewards"]]
        assert table["label"].to_pylist() == [*expected, None], table["label"]


def d4rl_data(folder, minari):
    random = np.random.default_rng(1)
    steps, ends = sum(SIZES), np.cumsum(SIZES) - 1
    arrays = {
        "observations": random.normal(size=(steps, 5)).astype(np.float32),
        "next_observations": random.normal(size=(steps, 5)).astype(np.float32),
        "actions": random.uniform(-1, 1, size=(steps, 2)).astype(np.float32),
        "rewards": random.normal(size=steps).astype(np.float32),
        "terminals": np.isin(np.arange(steps), ends[::2]),
        "timeouts": np.isin(np.arange(steps), ends[1::2]),
    }
    with h5py.File(folder / "hopper.hdf5", "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip")
        file.create_dataset("infos/qpos", data=arrays["observations"], compression="gzip")
    convert("minari", folder / "hopper.hdf5", folder / "ours/hopper-v0")
    start = 0
    for read, length in zip(minari.load_dataset("ours/hopper-v0").iterate_episodes(), SIZES, strict=True):
        rows = slice(start, start + length)
        part = {name: values[rows] for name, values in arrays.items()}
        same(read, {
            "observations": np.concatenate([part["observations"], part["next_observations"][-1:]]),
            "actions": part["actions"],
            "rewards": part["rewards"].astype(np.float64),
            "terminations": part["terminals"],
            "truncations": part["timeouts"],
        })
        start += length
    print("ok: D4RL")


def lerobot_data(folder, ours, minari):
    """What LeRobot's loader asks of a data set."""
    theirs = folder / "lerobot"
    convert("lerobot", ours, theirs)
    info = json.loads((theirs / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["total_frames"] == sum(SIZES), info
    tasks = pd.read_parquet(theirs / "meta/tasks.parquet")
    assert list(tasks.index) == ["theirs/dict-parquet-v0"] and tasks.loc[tasks.index[0]].task_index == 0, tasks
    places = pd.read_parquet(theirs / "meta/episodes/chunk-000/file-000.parquet")
    assert list(places.length) == SIZES and list(places.dataset_to_index) == list(np.cumsum(SIZES))
    place = {"chunk_index": places["data/chunk_index"][0], "file_index": places["data/file_index"][0]}
    frames = pq.read_table(theirs / info["data_path"].format(**place)).to_pandas()
    assert set(frames.columns) == set(info["features"]), frames.columns
    for name, feature in info["features"].items():
        values = np.stack(frames[name].to_numpy())
        kind = "string" if values.dtype.kind == "U" else values.dtype.name
        assert kind == feature["dtype"], (name, values.dtype)
        assert values.reshape(len(frames), -1).shape[1:] == tuple(feature["shape"]), name
    stats = json.loads((theirs / "meta/stats.json").read_text())
    action = np.stack(frames["action"].to_numpy()).astype(np.float64)
    for name, values in [("min", action.min(0)), ("max", action.max(0)), ("mean", action.mean(0)), ("std", action.std(0))]:
        np.testing.assert_allclose(stats["action"][name], values, rtol=1e-9)

    # As if others had recorded it: without our specification, and without labels.
    del info["pmpo"], info["features"]["label"]
    (theirs / "meta/info.json").write_text(json.dumps(info))
    convert("minari", theirs, folder / "ours/lerobot-v0")
    data = minari.load_dataset("ours/lerobot-v0")
    for index, read in enumerate(data.iterate_episodes()):
        rows = frames[frames.episode_index == index]
        state = np.stack(rows["observation.state"].to_numpy())
        np.testing.assert_array_equal(read.observations["state"], np.concatenate([state, state[-1:]]))
        np.testing.assert_array_equal(read.actions, np.stack(rows["action"].to_numpy()))
    np.testing.assert_allclose(data.action_space.low, action.min(0).astype(np.float32))
    print("ok: LeRobot")


def main():
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        ours, _ = minari_data(folder)
        import minari

        d4rl_data(folder, minari)
        lerobot_data(folder, ours, minari)


main()
