"""`rdt2 serve` and `rdt2 client`, as they are typed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from rdt2.cli.main import main, parse
from rdt2.policy import load_policy


@pytest.fixture(scope="module")
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def server(port, tmp_path_factory):
    """The untrained policy: the same models, as they are loaded everywhere."""
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text("word\n")
    words = (
        "serve",
        "--policy",
        "untrained",
        "--port",
        str(port),
        "--api-key-file",
        str(key),
        "--max-batch",
        "2",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "rdt2.cli.main", *words], stderr=subprocess.PIPE, text=True, env=os.environ
    )
    lines = []
    for line in process.stderr:
        lines.append(json.loads(line))
        if lines[-1]["event"] == "listening":
            break
    assert (lines[0]["event"], lines[0]["policy"]) == ("loading", "untrained")
    assert lines[-1]["port"] == port
    yield process, key
    process.kill()
    process.wait()


def test_served_evaluated_and_stopped(server, port, tmp_path, capsys, monkeypatch):
    process, key = server
    url, figures = f"ws://127.0.0.1:{port}", tmp_path / "figures.json"
    main(["client", "--policy", url, "--api-key-file", str(key), "--number", "3", "--json", str(figures)])
    assert "round trip" in capsys.readouterr().out
    told = json.loads(figures.read_text())
    assert (told["requests"], told["answered"]) == (3, 3)
    assert told["metadata"]["model"]["policy"] == "untrained"
    assert len(told["metadata"]["model"]["normalizer_digest"]) == 16
    assert told["ms"]["round_trip"]["median"] >= told["ms"]["server_total"]["median"]

    with load_policy(url, api_key_file=key) as policy:
        assert policy.model["policy"] == "untrained"
    with pytest.raises(SystemExit):
        main(["client", "--policy", url])
    assert "asks for its API key: pass --api-key-file FILE (header" in " ".join(
        capsys.readouterr().err.split()
    )

    main(["client", "--policy", url, "--api-key-file", str(key), "--number", "2", "--deadline", "0.0001"])
    assert "2 of 2 requests could not be answered" in capsys.readouterr().out

    pytest.importorskip("mujoco")
    from rdt2.evaluation import cell

    short = ("--episodes", "1", "--max-seconds", "0.3", "--json", str(figures))
    figures.unlink()
    main(["evaluate", "cell", "--policy", url, "--api-key-file", str(key), "--jpeg", *short])
    remote = json.loads(figures.read_text())
    assert remote["settings"]["policy"]["server"]["policy"] == "untrained"
    figures.unlink()
    main(["evaluate", "cell", "--policy", "untrained", *short])
    local = json.loads(figures.read_text())
    assert remote["settings"]["loop"] == local["settings"]["loop"]
    assert [r["chunks"] for r in remote["records"]] == [r["chunks"] for r in local["records"]]
    assert "jpeg" not in local["settings"]["policy"]

    run_trial = cell.run_trial
    monkeypatch.setattr(cell, "run_trial", lambda *of, **how: run_trial(*of, **{**how, "max_seconds": 0.3}))
    scene = ("--robot", "handheld", "--task", "press", "--episodes", "1", "--out", str(tmp_path / "r.html"))
    main(["demo", "--policy", url, "--api-key-file", str(key), *scene, "--json", str(figures)])
    assert json.loads(figures.read_text())["policy"] == url
    assert url in (tmp_path / "r.html").read_text(encoding="utf-8")

    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    events = [json.loads(line) for line in process.stderr]
    requests = [each for each in events if each["event"] == "request"]
    assert {"answered", "late"} == {each["outcome"] for each in requests}
    assert all(each["request"] for each in requests)
    assert events[-1]["event"] == "stopped"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("serve", "--host", "0.0.0.0"), "can be reached from other machines"),
        (("serve", "--port", "70000"), "expected 0 to 65535"),
        (("serve", "--max-batch", "0"), "--max-batch 0: expected 1 or more"),
        (("serve", "--hang-seconds", "0"), "--hang-seconds 0.0: expected more than 0"),
        (("serve", "--tls-cert", "cert.pem"), "belong together"),
        (("serve", "--policy", "ws://elsewhere:8000"), "are for clients"),
        (("serve", "--api-key-file", "nowhere"), "openssl rand -hex 32"),
        (("client", "--policy", "demo-fm"), "expected the address of a server"),
        (("client", "--number", "0"), "expected 1 or more"),
        (("client", "--policy", "ws://127.0.0.1:1", "--steps", "3"), "decides that"),
        (("predict", "--policy", "ws://", "--left", "l", "--right", "r", "--instruction", "x"), ""),
    ],
)
def test_what_cannot_be_is_refused(words, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_port_that_is_taken_is_said(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit):
            main(["serve", "--port", str(taken.getsockname()[1])])
    assert "cannot listen on 127.0.0.1 port" in " ".join(capsys.readouterr().err.split())


def test_the_usual_address():
    assert parse(["client"]).spec.policy == "ws://127.0.0.1:8000"
    assert parse(["serve"]).host == "127.0.0.1"
