"""openpi's own client, as its users have it, asks `rdt2 serve`. `make test-openpi` runs this where openpi-client is."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openpi_client", reason="openpi-client needs numpy < 2: make test-openpi")

from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

ROOT = Path(__file__).parents[2]
RDT2 = os.environ.get("RDT2", str(Path(sys.executable).parent / "rdt2"))
"""The command of the environment that serves; its numpy is another one than the client's."""
KEY = "between-us"
SENTENCE = "Pick up the red cube with the left hand."


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """Of a server that runs the demo policy and wants a key."""
    folder, number = tmp_path_factory.mktemp("server"), free_port()
    (folder / "key").write_text(KEY)
    log = (folder / "log").open("w")
    command = [
        RDT2,
        "serve",
        "--policy",
        "demo-fm",
        "--port",
        str(number),
        "--api-key-file",
        str(folder / "key"),
    ]
    process = subprocess.Popen(command, stderr=log)
    ends = time.monotonic() + 240
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{number}/healthz", timeout=1) as answer:
                assert answer.read() == b"OK\n"
                break
        except OSError:
            if process.poll() is not None or time.monotonic() > ends:
                pytest.fail((folder / "log").read_text())
            time.sleep(0.5)
    yield number
    process.terminate()
    assert process.wait(20) == 0


@pytest.fixture
def client(port) -> WebsocketClientPolicy:
    return WebsocketClientPolicy("127.0.0.1", port, api_key=KEY)


def ours(seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    left, right = rng.integers(0, 256, (2, 384, 384, 3), np.uint8)
    return {"left": left, "right": right, "prompt": SENTENCE}


def aloha() -> dict:
    """As examples/aloha_real of openpi sends it."""
    cameras = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
    images = {name: np.full((3, 224, 224), 40 * at, np.uint8) for at, name in enumerate(cameras)}
    return {"state": np.ones(14), "images": images, "prompt": SENTENCE}


def droid() -> dict:
    """As examples/droid of openpi sends it."""
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    return {
        "observation/exterior_image_1_left": picture,
        "observation/wrist_image_left": picture,
        "observation/joint_position": np.zeros(7),
        "observation/gripper_position": np.zeros(1),
        "prompt": SENTENCE,
    }


def test_the_guides_snippet_runs(port, capsys):
    text = (ROOT / "docs/integrations.md").read_text("utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert '"127.0.0.1", 8000' in snippet
    exec(snippet.replace('"127.0.0.1", 8000', f'"127.0.0.1", {port}, api_key={KEY!r}'), {})
    assert capsys.readouterr().out == "(24, 20)\n"


def test_metadata_says_what_the_actions_are(client) -> None:
    told = client.get_server_metadata()
    assert (told["horizon"], told["rate_hz"]) == (24, 30.0)
    assert told["actions"]["shape"] == [24, 20]
    assert told["actions"]["columns"]["left"]["width"] == [19, 20]
    assert "first two columns" in told["actions"]["rotation"]
    assert told["model"]["policy"] == "demo-fm"
    assert len(told["model"]["normalizer_digest"]) >= 8


@pytest.mark.parametrize("form", [ours, aloha, droid])
def test_each_form_is_answered_with_a_chunk(client, form) -> None:
    reply = client.infer(form())
    assert (reply["actions"].shape, reply["actions"].dtype) == ((24, 20), np.float32)
    assert np.isfinite(reply["actions"]).all()
    assert reply["policy_timing"]["infer_ms"] > 0
    assert reply["server_timing"]["infer_ms"] > 0
    assert client.infer(form())["server_timing"]["prev_total_ms"] > 0


def test_the_answer_is_that_of_the_policy(client) -> None:
    """Other numpy, other process, and a wire between: the same chunk."""
    from rdt2.observation import Observation
    from rdt2.policy import load_policy

    seen = ours(1)
    reply = client.infer({**seen, "seed": 5})
    observation = Observation(left=seen["left"], right=seen["right"], instruction=SENTENCE)
    (chunk,) = load_policy("demo-fm").predict([observation], seed=5)
    np.testing.assert_allclose(reply["actions"], chunk.values, atol=1e-4)


@pytest.mark.parametrize(
    ("observation", "told"),
    [
        ({**ours(), "left": np.zeros((384, 384, 3))}, r"left.*float64.*uint8"),
        ({**ours(), "right": np.zeros((3, 384, 384), np.uint8)}, "right.*channels first"),
        ({"prompt": SENTENCE}, "left is missing"),
        ({**aloha(), "state": np.full(14, np.nan)}, "state.*14"),
        ({**droid(), "observation/wrist_image_left": np.zeros((224, 224), np.uint8)}, "wrist_image_left"),
        ({**ours(), "prompt": ""}, "prompt"),
    ],
)
def test_what_is_wrong_is_told_in_the_robots_words_and_the_next_request_is_answered(
    client, observation, told
) -> None:
    with pytest.raises(RuntimeError, match=f"(?s)Error in inference server.*{told}"):
        client.infer(observation)
    assert client.infer(ours())["actions"].shape == (24, 20)


def test_nobody_comes_in_without_the_key(port) -> None:
    with pytest.raises(Exception, match="401"):
        WebsocketClientPolicy("127.0.0.1", port, api_key="wrong")


def test_their_chunk_broker_hands_out_row_after_row(client) -> None:
    broker = ActionChunkBroker(client, action_horizon=24)
    rows = [broker.infer({**ours(), "seed": 1}) for _ in range(24)]
    assert all(row["actions"].shape == (20,) for row in rows)
    np.testing.assert_array_equal(
        np.stack([row["actions"] for row in rows]), client.infer({**ours(), "seed": 1})["actions"]
    )
    assert broker.infer({**ours(), "seed": 2})["actions"].shape == (20,), "and asks again"


def test_their_runtime_drives_the_cell_as_if_the_policy_were_at_hand(tmp_path) -> None:
    """Two of the scenes of benchmarks/openpi_cell.py: the hands end in the same places to 10 micrometres."""
    out = tmp_path / "result.json"
    command = [
        sys.executable,
        ROOT / "benchmarks" / "openpi_cell.py",
        "--episodes",
        "2",
        "--max-seconds",
        "7",
    ]
    done = subprocess.run([*command, "--json", out], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert (result["same_outcome"], result["same_end"]) == (2, 2)
    assert [row["scene"] for row in result["rows"]] == [0, 1]
