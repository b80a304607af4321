"""vla-eval's own client, server and orchestrator measure RDT2 in the cell. Run by `make test-vla-eval`."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import anyio
import numpy as np
import pytest
from vla_eval.api import evaluate, serve_background
from vla_eval.connection import Connection
from vla_eval_rdt2.cell import CellBenchmark
from vla_eval_rdt2.server import RDT2ModelServer

from rdt2.action import absolute_rows
from rdt2.errors import ConfigError
from rdt2.observation import Observation

SENTENCE = "Pick up the red cube with the left hand."
STATE = np.array([0.1, -0.2, 0.3, 1, 0, 0, 0, 1, 0, 0.05, 0.1, 0.2, 0.3, 0, 1, 0, -1, 0, 0, 0.08], np.float32)
CELL = "vla_eval_rdt2.cell:CellBenchmark"


@pytest.fixture(scope="module")
def server() -> RDT2ModelServer:
    return RDT2ModelServer("demo-fm", late_rows=4, chunk_size=6, seed=0)


def seen(seed: int = 0, **changes: object) -> dict:
    rng = np.random.default_rng(seed)
    images = {side: rng.integers(0, 256, (384, 384, 3), np.uint8) for side in ("left", "right")}
    return {"images": images, "task_description": SENTENCE, "state": STATE, **changes}


def asked(url: str, *observations: dict) -> list:
    """What their client gets for each observation of an episode: an action or the words of an error."""

    async def talk() -> list:
        answers = []
        async with Connection(url, timeout=30, max_retries=1) as connection:
            answers.append(connection.server_info)
            await connection.start_episode({"task": {"name": "pick"}})
            for each in observations:
                try:
                    answers.append(await connection.act(each))
                except RuntimeError as error:
                    answers.append(str(error))
            await connection.end_episode({})
        return answers

    return anyio.run(talk)


def test_their_client_gets_absolute_rows_one_at_a_time(server) -> None:
    observation = seen()
    (chunk,) = server.policy.predict(
        [Observation(**observation["images"], instruction=SENTENCE, state=STATE)], seed=[0]
    )
    expected = absolute_rows(chunk.values, STATE)[4:10]
    with serve_background(server) as handle:
        hello, *answers = asked(handle.url, observation, *[seen(number) for number in range(1, 7)])
    assert hello["action_spec"]["actions"]["dims"] == 20
    for row, answer in zip(expected, answers, strict=False):
        np.testing.assert_allclose(answer["actions"], row, atol=1e-5)
    assert not np.allclose(answers[6]["actions"], expected[0]), "a new chunk after six rows"


def test_what_is_missing_is_said_and_the_connection_stays(server) -> None:
    with serve_background(server) as handle:
        _, *answers = asked(
            handle.url,
            seen(images={"agentview": np.zeros((256, 256, 3), np.uint8)}),
            seen(state=None),
            seen(state=np.full(20, np.nan)),
            seen(task_description=""),
            seen(images={"left": np.zeros((384, 384, 3)), "right": np.zeros((384, 384, 3))}),
            seen(),
        )
    for words, answer in zip(
        ("agentview.*--args.left_camera", "no state", "NaN", "sentence such as", "uint8"),
        answers,
        strict=False,
    ):
        assert isinstance(answer, str)
        assert re.search(words, answer), answer
    assert answers[-1]["actions"].shape == (20,)


def test_batches_of_several_sessions_are_computed_together() -> None:
    server = RDT2ModelServer("demo-fm", max_batch_size=4, chunk_size=1, frame="relative", seed=3)
    alone = server.predict_batch([seen(1)], [_context()])[0]["actions"]
    together = server.predict_batch([seen(0), seen(1)], [_context(), _context()])[1]["actions"]
    np.testing.assert_allclose(alone, together, atol=1e-4)
    assert alone.shape == (24, 20)


def _context():
    from vla_eval.model_servers.base import SessionContext

    return SessionContext("session", "episode")


def test_numbers_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 24"):
        RDT2ModelServer("demo-fm", late_rows=10, chunk_size=20)


def test_the_cell_holds_where_it_is_in_live_mode() -> None:
    bench = CellBenchmark(max_seconds=5)
    anyio.run(bench.start_episode, {"name": "pick", "episode_idx": 0})
    held = bench.get_hold_action(None)["actions"]
    for _ in range(5):
        anyio.run(bench.apply_action, {"actions": held})
    after = anyio.run(bench.get_observation)["state"]
    np.testing.assert_allclose(after[[0, 1, 2, 10, 11, 12]], held[[0, 1, 2, 10, 11, 12]], atol=3e-3)
    bench.cleanup()


def test_their_orchestrator_measures_success_in_the_cell(server, tmp_path) -> None:
    """Scene 0, which the policy solves."""
    config = {
        "render": "cpu",
        "output_dir": str(tmp_path),
        "benchmarks": [
            {"benchmark": CELL, "episodes_per_task": 1, "params": {"tasks": ["pick"], "max_seconds": 15}}
        ],
    }
    (result,) = evaluate(server, config, no_save=True, docker=False)
    (task,) = result["tasks"]
    assert task["episodes"][0]["metrics"]["success"] is True, result
    assert result["mean_success"] == 1.0


@pytest.mark.timeout(600)
def test_both_commands_as_they_are_documented(tmp_path) -> None:
    """The server and their `run`, each a program; one short episode."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "cell.yaml").write_text(
        f"render: cpu\noutput_dir: {tmp_path}\nbenchmarks:\n  - benchmark: {CELL}\n    episodes_per_task: 1\n"
        "    params: {robot: ur5e, tasks: [pick], max_seconds: 2}\n"
    )
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "vla_eval_rdt2.server", "--address", address),
            *("--args.policy", "demo-fm", "--args.late_rows", "4"),
        ],
        stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        _listens(address, server)
        ran = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("vla-eval")), "run", "--no-docker"),
                *("--server-url", f"ws://{address}", "--config", "cell.yaml"),
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
    finally:
        server.kill()
        server.wait()
    (result,) = (json.loads(file.read_text()) for file in tmp_path.rglob("*.json"))
    (task,) = result["tasks"]
    assert len(task["episodes"]) == 1


def _listens(address: str, server: subprocess.Popen) -> None:
    host, port = address.split(":")
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert server.poll() is None, server.stdout.read()
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.5)
    pytest.fail("the server does not listen")
