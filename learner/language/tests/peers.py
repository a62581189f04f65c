#!/usr/bin/env python3
"""Language models beside transformers' own implementation, on JAX: what `pmpo lm export` writes is loaded by it, and
the probabilities of texts' tokens are the same. Usage: peers.py PMPO

The models are the small one over the grammar, the same after some steps of training, one with fewer key heads than query
heads and a head of its own, and, where `make smollm2` has fetched it, SmolLM2-135M-Instruct from its GGUF file.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["USE_TORCH"] = "0"
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file
from transformers import FlaxLlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama import modeling_flax_llama

# Sums of some hundred products in f32, in another order, through 30 layers.
TOLERANCE = 2e-3

GRAMMAR = ["review of the hotel : the room was very nice .", "review of the cafe :"]
ENGLISH = [
    "The capital of France is Paris, and 2024 was a leap year.",
    "<|im_start|>user\nWrite one sentence about spring.<|im_end|>\n<|im_start|>assistant\nÀ la carte: naïve café!",
    "fn main() {\n    println!(\"{}\", 1 + 1);\n}\n",
]


def lm(*arguments):
    done = subprocess.run([PMPO, "lm", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def angles(theta, positions, size):
    """What its form for JAX turns heads by, with the model's base in place of its constant 10,000."""
    frequencies = theta ** (-np.arange(0, size, 2) / size)
    turns = np.outer(np.arange(positions), frequencies).astype(np.float32)
    both = np.concatenate((turns, turns), axis=-1)[:, None, :]
    return jnp.array(np.concatenate((np.sin(both), np.cos(both)), axis=-1)[:, :, :positions])


def compare(name, model, folder, texts):
    """Ours of `model` against transformers' of the exported `folder`."""
    theta = json.loads((folder / "config.json").read_text())["rope_theta"]
    modeling_flax_llama.create_sinusoidal_positions = lambda positions, size: angles(theta, positions, size)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    theirs = FlaxLlamaForCausalLM.from_pretrained(folder, dtype=jnp.float32)
    if theirs.config.tie_word_embeddings:
        # Its form for JAX knows of tied embeddings, and does not tie what it reads from safetensors.
        embedding = theirs.params["model"]["embed_tokens"]["embedding"]
        theirs.params["lm_head"]["kernel"] = embedding.T
    worst = 0.0
    for line in lm("score", model, *texts).splitlines():
        ours = json.loads(line)
        tokens = tokenizer.encode(ours["text"], add_special_tokens=False)
        assert tokens == ours["tokens"], (ours["text"], tokens, ours["tokens"])
        logits = theirs(np.array([tokens])).logits[0].astype(jnp.float32)
        logs = np.asarray(jax.nn.log_softmax(logits, axis=-1))
        expected = [logs[i, token] for i, token in enumerate(tokens[1:])]
        worst = max(worst, np.max(np.abs(np.array(ours["log_probabilities"]) - expected)))
    print(f"{name}: largest difference of ln p {worst:.1e}")
    assert worst < TOLERANCE, name


def regrouped(model, out):
    """The same with two key heads in place of four and a head that is not the embedding; larger weights."""
    lm("export", model, out)
    config = json.loads((out / "config.json").read_text())
    config.update(num_key_value_heads=2, tie_word_embeddings=False)
    (out / "config.json").write_text(json.dumps(config))
    tensors = {name: 2 * values for name, values in load_file(out / "model.safetensors").items()}
    for name in list(tensors):
        if "k_proj" in name or "v_proj" in name:
            tensors[name] = tensors[name][:64].copy()
    generator = np.random.default_rng(1)
    embedding = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = generator.normal(size=embedding.shape).astype(np.float32)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def main():
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        small = scratch / "small"
        lm("grammar", small, "--steps", 40)
        compare("grammar", small, small, GRAMMAR)
        run = scratch / "run"
        lm("train", "--model", small, "--prompts", "grammar", "--run-dir", run, "--max-steps", 3,
           "--set", "lm.learning_rate=1e-3")
        lm("export", run, scratch / "trained")
        compare("grammar, trained", run, scratch / "trained", GRAMMAR)
        grouped = regrouped(small, scratch / "grouped")
        compare("grouped heads, a head of its own", grouped, grouped, GRAMMAR)
        smollm2 = pathlib.Path("third_party/smollm2")
        if smollm2.is_dir():
            lm("export", "smollm2", scratch / "smollm2")
            compare("SmolLM2-135M-Instruct", "smollm2", scratch / "smollm2", ENGLISH)
        else:
            print("SmolLM2-135M-Instruct is not here: make smollm2")


if __name__ == "__main__":
    (PMPO,) = sys.argv[1:]
    main()
