"""The few names of PyTorch that an exported module uses, on NumPy: PyTorch itself brings gigabytes along.

`load` reads a file as `torch.load` does (`torch/serialization.py`, `_load`): the pickle names storages, whose
numbers are files of their own. Layers follow PyTorch's documentation of `torch.nn`.
"""

import collections
import pickle
import types
import zipfile

import numpy as np


class Tensor:
    def __init__(self, values):
        self.values = np.asarray(values)

    def __array__(self, dtype=None, copy=None):
        return self.values if dtype is None else self.values.astype(dtype)

    def clamp(self, low, high):
        return Tensor(self.values.clip(np.float32(low), np.float32(high)))

    def unflatten(self, axis, sizes):
        assert axis == -1
        return Tensor(self.values.reshape(self.values.shape[:-1] + sizes))

    def argmax(self, axis):
        return Tensor(self.values.argmax(axis))


def _operator(name):
    def apply(self, other):
        other = other.values if isinstance(other, Tensor) else np.float32(other)
        return Tensor(getattr(self.values, name)(other).astype(np.float32))

    return apply


for _name in ("add", "radd", "sub", "mul", "rmul", "truediv"):
    setattr(Tensor, f"__{_name}__", _operator(f"__{_name}__"))


class Module:
    def __init__(self):
        self.buffers = {}

    def register_buffer(self, name, value):
        self.buffers[name] = value
        setattr(self, name, value)

    def parts(self):
        return {name: part for name, part in vars(self).items() if isinstance(part, Module)}

    def names(self, prefix=""):
        """Where the values of the state dict go, by their names."""
        found = {prefix + name: (self, name) for name in self.buffers}
        for name, part in self.parts().items():
            found.update(part.names(f"{prefix}{name}."))
        return found

    def load_state_dict(self, state):
        places = self.names()
        assert set(places) == set(state), set(places) ^ set(state)
        for name, (module, attribute) in places.items():
            before = getattr(module, attribute)
            assert before.values.shape == state[name].values.shape, name
            setattr(module, attribute, state[name])

    def eval(self):
        return self

    def __call__(self, x):
        return self.forward(x)


class Sequential(Module):
    def __init__(self, *parts):
        super().__init__()
        for index, part in enumerate(parts):
            setattr(self, str(index), part)

    def forward(self, x):
        for part in self.parts().values():
            x = part(x)
        return x


class Linear(Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.register_buffer("weight", zeros(outputs, inputs))
        self.register_buffer("bias", zeros(outputs))

    def forward(self, x):
        return Tensor(x.values @ self.weight.values.T + self.bias.values)


class LayerNorm(Module):
    def __init__(self, width, eps=1e-5):
        super().__init__()
        self.eps = np.float32(eps)
        self.register_buffer("weight", zeros(width))
        self.register_buffer("bias", zeros(width))

    def forward(self, x):
        x = x.values
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.eps)
        return Tensor(scaled * self.weight.values + self.bias.values)


def _activation(function):
    class Activation(Module):
        def forward(self, x):
            return Tensor(function(x.values))

    return Activation


def zeros(*shape):
    return Tensor(np.zeros(shape, np.float32))


def tanh(x):
    return Tensor(np.tanh(x.values))


def _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks):
    assert not requires_grad and hooks == collections.OrderedDict()
    strides = [4 * stride for stride in strides]
    return Tensor(np.lib.stride_tricks.as_strided(storage[offset:], shape, strides))


def load(path):
    """The state dict in a file."""
    archive = zipfile.ZipFile(path)
    names = {"_rebuild_tensor_v2": _rebuild_tensor_v2, "FloatStorage": np.float32}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            return collections.OrderedDict if name == "OrderedDict" else names[name]

        def persistent_load(self, saved):
            kind, dtype, key, location, elements = saved
            assert (kind, location) == ("storage", "cpu")
            values = np.frombuffer(archive.read(f"policy/data/{key}"), dtype)
            assert len(values) == elements
            return values

    assert archive.read("policy/version") == b"3\n" and archive.read("policy/byteorder") == b"little"
    return Unpickler(archive.open("policy/data.pkl")).load()


nn = types.SimpleNamespace(
    Module=Module,
    Sequential=Sequential,
    Linear=Linear,
    LayerNorm=LayerNorm,
    ReLU=_activation(lambda x: np.maximum(x, 0)),
    ELU=_activation(lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    Tanh=_activation(np.tanh),
)
MODULES = {
    "torch": types.SimpleNamespace(nn=nn, zeros=zeros, tanh=tanh, load=load),
    "torch.nn": nn,
    "torch._utils": types.SimpleNamespace(_rebuild_tensor_v2=_rebuild_tensor_v2),
}
