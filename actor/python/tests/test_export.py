"""`pmpo export`: the same actions from other programs."""

import importlib.util
import json
import struct
import sys
import zipfile

import numpy as np
import onnxruntime
import pytest

import numpy_torch
import pmpo as package
from conftest import RUNS, pmpo

# Of half an action's range: what float32 leaves where sums are taken in another order.
TOLERANCE = 1e-6


@pytest.fixture(scope="module", params=RUNS)
def exported(request, runs, tmp_path_factory):
    """A run's policy, a batch for it, and the folder of its exports."""
    folder = tmp_path_factory.mktemp("exports")
    forms = [f"--{form}={folder / file}" for form, file in
             [("onnx", "p.onnx"), ("torch", "p.pt"), ("safetensors", "p.safetensors")]]  # fmt: skip
    said = pmpo("export", runs[request.param], "--checkpoint", "newest", *forms).stdout
    assert str(folder / "p.py") in said
    policy = package.Policy.load(runs[request.param], checkpoint="newest")
    generator = np.random.default_rng(1)
    # Some beyond what the normaliser lets through.
    batch = generator.normal(size=(1000, policy.observation_size)).astype(np.float32) * 3
    batch[0] = 1e4
    return policy, batch, folder


def check(policy, batch, actions):
    half = 0.5 * (policy.action_maximum - policy.action_minimum)
    apart = np.abs(np.asarray(actions, dtype=np.float64) - policy(batch)) / half
    # A categorical head's likeliest bin may be another where two are equally likely.
    wrong = (apart > TOLERANCE).any(axis=-1)
    assert wrong.mean() <= (0.001 if "categorical" in policy.checkpoint else 0.0), apart.max()


def test_onnxruntime_gives_the_same_actions(exported):
    policy, batch, folder = exported
    session = onnxruntime.InferenceSession(folder / "p.onnx")
    assert [node.name for node in session.get_outputs()] == ["action"]
    names = [name for name, _ in policy.observation_fields]
    assert [node.name for node in session.get_inputs()] == names
    ends = np.cumsum([size for _, size in policy.observation_fields])
    fields = dict(zip(names, np.split(batch, ends[:-1], axis=-1)))
    (actions,) = session.run(None, fields)
    check(policy, batch, actions)
    (one,) = session.run(None, {name: value[:1] for name, value in fields.items()})
    check(policy, batch[:1], one)
    described = session.get_modelmeta().custom_metadata_map
    assert described["task"] == policy.task


def test_torchs_module_gives_the_same_actions(exported, monkeypatch):
    """The module's source and the state dict's file, run on NumPy under PyTorch's names: see `numpy_torch`."""
    policy, batch, folder = exported
    for name in ("torch", "torch.nn", "torch._utils"):
        monkeypatch.setitem(sys.modules, name, numpy_torch.MODULES[name])
    described = importlib.util.spec_from_file_location("exported_policy", folder / "p.py")
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    check(policy, batch, module.load(folder / "p.pt")(numpy_torch.Tensor(batch)))
    source = (folder / "p.py").read_text()
    assert policy.task in source and len(source.splitlines()) <= 45


def test_the_state_dict_is_what_torch_save_writes(exported):
    """PyTorch's reader wants: one folder, stored and aligned files, and these four kinds of them."""
    policy, _, folder = exported
    with zipfile.ZipFile(folder / "p.pt") as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert {"policy/data.pkl", "policy/byteorder", "policy/version"} <= set(names)
        with open(folder / "p.pt", "rb") as file:
            for info in archive.infolist():
                assert info.compress_type == zipfile.ZIP_STORED
                file.seek(info.header_offset + 26)
                name, extra = struct.unpack("<HH", file.read(4))
                assert (info.header_offset + 30 + name + extra) % 64 == 0
        tensors = numpy_torch.load(folder / "p.pt")
    assert tensors["minimum"].values.tolist() == policy.action_minimum.tolist()


def test_safetensors_say_everything(exported):
    policy, batch, folder = exported
    data = (folder / "p.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    said = header["__metadata__"]
    assert [(field["name"], field["size"]) for field in json.loads(said["observation"])] == policy.observation_fields
    assert json.loads(said["action_minimum"]) == policy.action_minimum.tolist()
    assert json.loads(said["action_maximum"]) == policy.action_maximum.tolist()
    layers = json.loads(said["layers"])
    linear = [layer for layer in layers if "linear" in layer]
    assert header["torso.0.weight"]["shape"] == [policy.observation_size, linear[0]["linear"]]
    assert ("normaliser.mean" in header) == (said["normaliser"] != "none")
    assert np.array_equal(package.Policy.load(folder / "p.safetensors")(batch), policy(batch))


def test_nothing_to_write_is_refused(runs):
    refused = pmpo("export", runs["default"], check=False)
    assert refused.returncode == 2
    assert refused.stderr.strip() == "pmpo: expected at least one of --onnx, --torch and --safetensors"
