"""`rdt2 data convert`, `to-lerobot` and `augment-sheet` from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rdt2.action import ARMS
from rdt2.cli.main import main


@pytest.fixture
def recording(tmp_path):
    h5py = pytest.importorskip("h5py")
    folder = tmp_path / "recording"
    folder.mkdir()
    with h5py.File(folder / "episode_0.hdf5", "w") as file:
        for robot in range(2):
            pose = np.zeros((27, 8))
            pose[:, 0], pose[:, 6], pose[:, 7] = np.arange(27) * 0.001, 1, 0.05
            file[f"robot_{robot}/observations/qpos"] = pose
            file[f"robot_{robot}/observations/images/front"] = np.full((27, 64, 48, 3), 90, np.uint8)
    return folder


def test_guesses_stop_the_command(recording, tmp_path, capsys):
    arguments = ["data", "convert", str(recording), str(tmp_path / "out"), "--from", "hdf5", "--fps", "30"]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--instruction", "Fold the cloth."])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "--arms left-right" in message
    assert "--accept-guesses" in message


def test_convert_draw_and_export(recording, tmp_path):
    out = tmp_path / "out"
    main(
        [
            *("data", "convert", str(recording), str(out), "--from", "hdf5", "--fps", "30"),
            *("--instruction", "Fold the cloth.", "--accept-guesses", "--json", str(tmp_path / "c.json")),
        ]
    )
    assert json.loads((tmp_path / "c.json").read_text())["samples"] == 3
    main(
        [
            "data",
            "augment-sheet",
            str(out),
            "--samples",
            "2",
            "--epochs",
            "1",
            "--out",
            str(tmp_path / "s.png"),
        ]
    )
    assert (tmp_path / "s.png").stat().st_size > 1000
    main(["data", "to-lerobot", str(out), str(tmp_path / "lerobot")])
    info = json.loads((tmp_path / "lerobot" / "meta" / "info.json").read_text())
    assert info["total_frames"] == 3
    assert all(f"observation.images.{arm}_wrist" in info["features"] for arm in ARMS)


def test_view_and_check_pages(shards, tmp_path, capsys):
    main(
        ["data", "view", str(shards), "--out", str(tmp_path / "view.html"), "--episodes", "2", "--every", "1"]
    )
    assert "Pick up the red cube" in (tmp_path / "view.html").read_text()
    assert "2 of " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["data", "view", str(shards), "--first", "99"])
    assert "--first 99" in capsys.readouterr().err
    arguments = ["data", "check", str(shards), "--report", str(tmp_path / "check.html")]
    main([*arguments, "--json", str(tmp_path / "c.json")])
    assert "with tokens" in (tmp_path / "check.html").read_text()
    report = json.loads((tmp_path / "c.json").read_text())
    assert [finding["name"] for finding in report["findings"]] == ["no normalizer"]
    assert report["counts"]["with tokens"] == 0


def test_from_sim(tmp_path, monkeypatch, capsys):
    from rdt2.cli import data

    asked = []
    monkeypatch.setattr(data.DataRecord, "run", lambda command: asked.append(command))
    main(["data", "convert", "pick", str(tmp_path), "--from", "sim", "--episodes", "7", "--stride", "3"])
    assert (asked[0].task, asked[0].episodes, asked[0].stride, asked[0].out) == ("pick", 7, 3, tmp_path)
    for wrong in (["dance", "x", "--from", "sim"], ["pick", "x", "--from", "sim", "--fps", "30"]):
        with pytest.raises(SystemExit):
            main(["data", "convert", *wrong])
    message = capsys.readouterr().err
    assert "expected one of pick, place, press, all" in message
    assert "--from sim takes" in message


def test_options_are_checked(recording, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["data", "convert", str(recording), str(tmp_path / "out"), "--from", "hdf5", "--fps", "0"])
    assert stopped.value.code == 2
    assert "fps is 0.0, expected 1 to 1000" in " ".join(capsys.readouterr().err.split())


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["data", "convert", "--help"])
    text = capsys.readouterr().out
    assert "--from" in text
    assert "guess" in text
