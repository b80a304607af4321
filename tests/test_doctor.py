"""`rdt2 doctor` says what is missing and how to get it, and breaks on nothing."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import socket
import subprocess
import threading

import pytest

from rdt2 import doctor
from rdt2.cli.main import main
from rdt2.cli.robot import RobotServe
from rdt2.cli.serve import Serve
from rdt2.dashboard.options import Looking
from rdt2.devices import known, libaravis
from rdt2.doctor import Finding, examine, summary
from rdt2.errors import RobotError


def one(check) -> Finding:
    found = check()
    assert isinstance(found, Finding)
    return found


def test_this_machine_works(tmp_path, capsys) -> None:
    file = tmp_path / "doctor.json"
    main(["doctor", "--offline", "--json", str(file)])
    said = capsys.readouterr().out
    assert "Everything that every command needs" in said
    assert "rdt2[" in said or "not installed" not in said
    figures = json.loads(file.read_text())
    assert figures["works"] is True
    states = {finding["name"]: finding["state"] for finding in figures["findings"]}
    assert states["Python"] == states["core packages"] == states["extra sim"] == states["rendering"] == "ok"
    assert "hub" not in states


def test_a_package_that_is_missing_or_too_old(monkeypatch) -> None:
    real = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: {"einops": None, "numpy": "1.20.0"}.get(name, real(name))
    )
    found = {finding.name: finding for finding in doctor._core()}
    assert found["einops"].mend.startswith("pip install 'einops")
    assert found["numpy"].found.startswith("1.20.0, expected >=")
    assert {finding.state for finding in found.values()} == {"broken"}


def test_an_extra_that_is_missing(monkeypatch) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "ray" else real(name))
    (found,) = (finding for finding in doctor._extras() if finding.name == "extra ray")
    assert found == Finding("extra ray", "optional", "not installed: ray", "pip install 'rdt2[ray]'")


def drivers() -> dict[str, Finding]:
    return {finding.name: finding for finding in doctor._drivers()}


def test_a_driver_whose_library_is_missing(monkeypatch) -> None:
    """Regression: drivers were all listed as ok, whatever they lacked."""
    real = known._installed
    monkeypatch.setattr(known, "_installed", lambda name: name != "openvr" and real(name))
    found = drivers()
    mend = "pip install 'rdt2[vive]'"
    assert found["driver openvr"] == Finding("driver openvr", "optional", "not installed: openvr", mend)
    assert "openvr" not in found["device drivers"].found
    assert "uvc" in found["device drivers"].found


def test_a_driver_that_this_python_cannot_have(monkeypatch) -> None:
    told = [
        'ur-rtde>=1.6; sys_platform == "linux" and python_version < "3.0" and extra == "ur"',
        'mujoco>=3.6; extra == "ur"',
        'mujoco>=3.6; extra == "fr3"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: told)
    monkeypatch.setattr(known, "_installed", lambda name: name != "ur-rtde")
    found = drivers()["driver ur_rtde"]
    assert found.found == "not installed: ur-rtde"
    assert found.mend.startswith("another Python or system: ur-rtde is only where sys_platform")
    assert "extra" not in found.mend


def test_cameras_without_their_library(monkeypatch) -> None:
    def library():
        raise RobotError("cameras need the library aravis 0.8 (no such file). Install it: apt-get")

    monkeypatch.setattr(libaravis, "library", library)
    found = drivers()["driver aravis"]
    assert found.found == "cameras need the library aravis 0.8 (no such file)."
    assert found.mend == libaravis.INSTALL


def test_a_device_that_may_not_be_opened(monkeypatch, tmp_path) -> None:
    port = tmp_path / "ttyUSB0"
    places = {"serial ports": ((str(tmp_path / "ttyUSB*"),), "dialout")}
    monkeypatch.setattr(doctor, "DEVICE_FILES", places)
    (none,) = doctor._device_files()
    assert none == Finding("serial ports", "ok", "none plugged in")
    port.touch()
    (found,) = doctor._device_files()
    assert found == Finding("serial ports", "ok", str(port))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    (found,) = doctor._device_files()
    assert found.state == "optional"
    assert found.mend.startswith("sudo usermod -aG dialout ")


def test_the_ports_are_those_of_the_commands() -> None:
    assert set(doctor.PORTS) == {Serve().port, Looking().dashboard_port, RobotServe(robot="x").port}


def test_rendering_that_breaks_or_hangs(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_DRAW", "raise SystemError('no screen')")
    assert one(doctor._rendering) == Finding("rendering", "broken", "no screen", "apt-get install libosmesa6")
    monkeypatch.setattr(doctor, "_DRAW", "import os; os.abort()")
    assert one(doctor._rendering).state == "broken"

    def hangs(*args, **options):
        raise subprocess.TimeoutExpired(args[0], options["timeout"])

    monkeypatch.setattr(subprocess, "run", hangs)
    assert "hangs" in one(doctor._rendering).found


def test_a_port_that_is_taken(monkeypatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(doctor, "PORTS", {taken.getsockname()[1]: ("rdt2 serve", "--port")})
        (found,) = doctor._ports()
    assert found.state == "optional"
    assert found.mend == "another --port for rdt2 serve"


def test_a_hub_that_does_not_answer(monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    found = one(doctor._hub)
    assert found.state == "optional"
    assert found.found.startswith("http://127.0.0.1:9 cannot be reached")
    assert "HF_ENDPOINT" in found.mend


def test_the_hub_is_asked_where_its_client_asks(monkeypatch) -> None:
    """Regression: huggingface.co itself was asked, whatever mirror or proxy was set as it had advised."""
    from huggingface_hub import constants

    class Mirror(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        found = one(doctor._hub)
    assert found.state == "ok"
    assert found.found.endswith("answers (404)")


def test_a_check_that_fails_is_a_finding(monkeypatch) -> None:
    def _memory():
        raise RuntimeError("no such file")

    monkeypatch.setattr(doctor, "_memory", _memory)
    monkeypatch.setattr(doctor, "_DRAW", "pass")
    found = {finding.name: finding for finding in examine(hub=False)}
    assert found["memory"].found == "RuntimeError: no such file"
    assert summary(list(found.values()))["works"] is False


@pytest.mark.parametrize("broken", [True, False])
def test_exit_code(monkeypatch, broken) -> None:
    state = "broken" if broken else "optional"
    monkeypatch.setattr(doctor, "examine", lambda hub: [Finding("torch", state, "none", "pip install torch")])
    if broken:
        with pytest.raises(SystemExit, match="1"):
            main(["doctor"])
    else:
        main(["doctor"])
