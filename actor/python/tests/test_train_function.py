"""`pmpo.train`: from a script."""

import numpy as np
import pytest

import pmpo as package
import worlds

QUICK = {
    "evaluator.episodes": 1,
    "evaluator.period_learner_steps": 500,
    "actor.environments": 1,
    "replay.table.min_size_to_sample": 200,
    "update.batch_size": 64,
    "policy.torso.hidden_sizes": [32, 32],
    "policy.head": {"kind": "gaussian", "init_std": 0.5},
}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(worlds.__file__).rpartition("/")[0])


def test_a_function_of_ones_own_and_what_comes_of_it(tmp_path, capfd):
    rows = []
    result = package.train(
        worlds.point, tmp_path / "run", seed=1, config=QUICK, learner_steps=3000, callback=rows.append
    )
    assert result.run_dir == tmp_path / "run"
    assert result.learner_steps == 3000 and result.env_steps >= 200
    assert "reached its limit of learner steps" in result.reason
    assert result.curve["learner_steps"].tolist() == sorted(result.curve["learner_steps"])
    assert result.best_return == result.curve["eval_return_mean"].max()
    assert result.last_return == result.curve["eval_return_mean"][-1]
    assert rows and rows[0]["env_steps"] == result.curve["env_steps"][0]
    assert np.isfinite(result.policy()(np.zeros(2))).all()
    assert "environment steps" in capfd.readouterr().err


def test_a_callback_ends_it(tmp_path):
    result = package.train(
        "python:worlds:point", tmp_path / "run", config=QUICK, callback=lambda row: True, progress=False
    )
    assert result.curve["learner_steps"].size > 0 and result.reason.startswith("stopped after")
    assert (tmp_path / "run" / "checkpoints").is_dir()


def test_failures_are_the_commands_last_line(tmp_path):
    with pytest.raises(RuntimeError, match="update.batch_size"):
        package.train("cartpole-swingup", tmp_path / "run", config={"update.batch_size": 0})
    assert not (tmp_path / "run").exists()
    for function in (lambda: None, worlds.faulty(None)):
        with pytest.raises(ValueError, match="put it into a file"):
            package.train(function, tmp_path / "run")
