from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from rdt2.cli.main import main
from rdt2.cli.predict import read_picture
from rdt2.errors import ObservationError
from rdt2.policy.spec import PolicySpec


@pytest.fixture
def pictures(tmp_path):
    for side in ("left", "right"):
        Image.fromarray(np.full((480, 640, 3), 90, np.uint8)).save(tmp_path / f"{side}.png")
    return ["--left", str(tmp_path / "left.png"), "--right", str(tmp_path / "right.png")]


def test_evaluate_shards_prints_baselines_and_writes_json(still, shards, tmp_path, capsys):
    main(["evaluate", "shards", "--data", str(shards), "--split", "all", "--json", str(tmp_path / "e.json")])
    assert "stay still" in capsys.readouterr().out
    values = json.loads((tmp_path / "e.json").read_text())
    assert values["samples"] == 12
    assert values["policy"] == "demo-fm"
    assert values["position_mm"] == pytest.approx(5.75, abs=1e-3)  # 0 to 23 mm on one of two arms
    assert values["valid_rate"] == 1


def test_predict_writes_chunk_drawing_and_json(still, pictures, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    files = {kind: tmp_path / f"chunk.{kind}" for kind in ("npz", "png", "json")}
    main(
        [
            "predict",
            *pictures,
            "--instruction",
            "Pick up the apple.",
            "--out",
            str(files["npz"]),
            "--plot",
            str(files["png"]),
            "--json",
            str(files["json"]),
        ]
    )
    assert "predicted motion" in capsys.readouterr().out
    with np.load(files["npz"]) as arrays:
        assert arrays["values"].shape == (24, 20)
        assert arrays["left_poses"].shape == (24, 4, 4)
        assert arrays["right_widths"][0] == pytest.approx(0.05)
    assert Image.open(files["png"]).width > 500
    values = json.loads(files["json"].read_text())
    assert values["valid"] is True
    assert np.array(values["values"]).shape == (24, 20)


def test_an_invalid_chunk_is_said_and_never_written(still, pictures, tmp_path, capsys):
    still.valid = False
    with pytest.raises(SystemExit) as done:
        main(["predict", *pictures, "--instruction", "Pick up the apple.", "--out", str(tmp_path / "c.npz")])
    assert done.value.code == 1
    assert "must not be executed" in capsys.readouterr().out
    assert not (tmp_path / "c.npz").exists()


def test_odd_instructions_are_warned_about_and_empty_ones_refused(still, pictures, capsys):
    main(["predict", *pictures, "--instruction", "grab it"])
    assert "capital letter" in capsys.readouterr().err
    with pytest.raises(SystemExit) as done:
        main(["predict", *pictures, "--instruction", " "])
    assert done.value.code == 2


def test_pictures_are_cut_to_their_middle_square(tmp_path):
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, 100:200] = 250
    Image.fromarray(wide).save(tmp_path / "wide.png")
    picture = read_picture(tmp_path / "wide.png")
    assert picture.shape == (384, 384, 3)
    assert picture.min() == 250


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(ObservationError, match=r"notes\.png"):
        read_picture(tmp_path / "notes.png")


def test_a_deep_picture_is_not_clipped_to_white(tmp_path):
    values = np.full((40, 40), 700, np.uint16)
    Image.fromarray(values).save(tmp_path / "depth.png")
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "depth.tiff")
    with pytest.raises(ObservationError, match=r"depth.png: the picture has 16 bits a channel.*8-bit RGB"):
        read_picture(tmp_path / "depth.png")
    with pytest.raises(ObservationError, match=r"depth.tiff: the picture has 32-bit numbers"):
        read_picture(tmp_path / "depth.tiff")


def test_data_check_and_stats(shards, tmp_path, capsys):
    main(["data", "check", str(shards), "--json", str(tmp_path / "c.json")])
    assert json.loads((tmp_path / "c.json").read_text())["ok"] is True
    main(["data", "stats", str(shards), "--json", str(tmp_path / "s.json")])
    values = json.loads((tmp_path / "s.json").read_text())
    assert (values["samples"], values["episodes"]) == (12, 4)
    assert values["training_samples"] + values["held_out_samples"] == 12
    assert values["maximum"][0] == pytest.approx(0.023)
    assert values["sentences"] == {"Pick up the red cube with the left hand.": 12}


def test_data_stats_fits_a_normalizer_and_compares_it(shards, tmp_path, capsys):
    from rdt2.data import fit_normalizer
    from rdt2.normalizer import LinearNormalizer

    narrow = fit_normalizer(shards)
    dataclasses.replace(narrow, scale=3 * narrow.scale, offset=3 * narrow.offset).save_pretrained(tmp_path)
    options = ["--fit", str(tmp_path / "fit"), "--mode", "mean_std", "--compare", str(tmp_path)]
    main(["data", "stats", str(shards), *options, "--json", str(tmp_path / "s.json")])
    wanted = fit_normalizer(shards, mode="mean_std")
    for file in ("normalizer.safetensors", "normalizer.pt"):
        written = LinearNormalizer.from_pretrained(tmp_path / "fit" / file)
        np.testing.assert_allclose(written.scale, wanted.scale)
    assert json.loads((tmp_path / "s.json").read_text())["compared_reach"] == pytest.approx(3.0, abs=1e-3)
    assert (tmp_path / "fit" / "ranges.png").stat().st_size > 5000
    assert "models expect about 1" in capsys.readouterr().out


def test_data_check_exits_with_1_on_a_damaged_shard(shards, capsys):
    path = next(shards.glob("*.tar"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SystemExit) as done:
        main(["data", "check", str(shards)])
    assert done.value.code == 1
    assert "damaged" in capsys.readouterr().out


def test_the_real_recording_has_widths_outside_the_published_range(real, capsys):
    with pytest.raises(SystemExit):  # it has no instructions.json, which is an error of the data
        main(["data", "check", str(real), "--normalizer", str(real / "normalizer.pt"), "--fast"])
    text = capsys.readouterr().out
    assert "714 samples" in text
    assert "outside the normalizer's range" in text


def test_tokenizer_check_says_what_is_out_of_range_and_what_is_lost(shards, tmp_path, capsys):
    from rdt2.data import ShardIndex, fit_normalizer
    from rdt2.tokenizer import ActionTokenizer, TokenizerConfig

    folder = tmp_path / "rvq"
    tokenizer = ActionTokenizer(TokenizerConfig.tiny())
    normalizer = fit_normalizer(shards)
    actions = ShardIndex(shards).all_actions()
    tokenizer.start_linear(normalizer.normalize(torch.from_numpy(actions)), generator=torch.Generator())
    tokenizer.save_pretrained(folder)
    normalizer.save_pretrained(folder)
    plot, file = tmp_path / "worst.png", tmp_path / "check.json"
    main(
        [
            "tokenizer",
            "check",
            str(shards),
            "--tokenizer",
            str(folder),
            "--plot",
            str(plot),
            "--json",
            str(file),
        ]
    )
    values = json.loads(file.read_text())
    assert values["ok"]
    assert values["chunks"] == 12
    assert values["summary"]["position_mm"] == pytest.approx(values["position_mm_by_codebooks"][-1])
    assert values["position_mm_by_codebooks"][0] >= values["position_mm_by_codebooks"][-1]
    assert plot.stat().st_size > 5000

    lower = normalizer.maximum.clone()
    lower[0] -= 0.005  # right x
    dataclasses.replace(normalizer, maximum=lower).save_pretrained(folder)
    with pytest.raises(SystemExit):
        main(["tokenizer", "check", str(shards), "--tokenizer", str(folder), "--json", str(file)])
    (fault,) = [text for text in json.loads(file.read_text())["faults"] if " x runs" in text]
    assert "to 23.0 mm, the range is 0.0 to 18.0" in fault
    assert "not good" in capsys.readouterr().out


def test_tokenizer_inspect_and_tokenize(shards, tmp_path, capsys):
    from rdt2.data import ShardIndex, fit_normalizer
    from rdt2.tokenizer import ActionTokenizer, TokenizerConfig

    folder = tmp_path / "rvq"
    ActionTokenizer(TokenizerConfig.tiny()).save_pretrained(folder)
    fit_normalizer(shards).save_pretrained(folder)
    main(["tokenizer", "inspect", "--tokenizer", str(folder), "--json", str(tmp_path / "t.json")])
    values = json.loads((tmp_path / "t.json").read_text())
    assert (values["tokens"], values["codes"]) == (27, 256)
    assert values["parts"] == {"pos": [0, 18], "rot": [18, 24], "grip": [24, 27]}
    main(
        [
            "data",
            "tokenize",
            "--data",
            str(shards),
            "--tokenizer",
            str(folder),
            "--out",
            str(tmp_path / "out"),
        ]
    )
    assert ShardIndex(tmp_path / "out").has_tokens


def test_tokens_beside_shards_are_the_same_from_any_number_of_workers(shards, tmp_path, capsys):
    import numpy as np

    from rdt2.data import ShardIndex, fit_normalizer
    from rdt2.normalizer import LinearNormalizer
    from rdt2.tokenizer import ActionTokenizer, TokenizerConfig

    folder = tmp_path / "rvq"
    tokenizer = ActionTokenizer(TokenizerConfig.tiny()).eval()
    tokenizer.save_pretrained(folder)
    fit_normalizer(shards).save_pretrained(folder)
    command = ["data", "tokenize", "--data", str(shards), "--tokenizer", str(folder), "--sidecar"]
    found = []
    for workers in ("0", "2"):
        out = tmp_path / f"by-{workers}"
        main(
            [
                *command,
                "--device",
                "cpu",
                "--workers",
                workers,
                "--out",
                str(out),
                "--json",
                str(tmp_path / "t.json"),
            ]
        )
        index = ShardIndex(out / "dataset.yaml", instructions="ignore")
        assert json.loads((tmp_path / "t.json").read_text())["samples"] == len(index)
        found.append([index.tokens(number) for number in range(len(index))])
        assert index.token_origin == (tokenizer.digest, LinearNormalizer.from_pretrained(folder).digest)
        assert not list(out.glob("*.tar"))
    np.testing.assert_array_equal(found[0], found[1])
    for option, words in (("--workers=-1", "--workers is -1, expected 0 or more"), ("--device=gpu", "gpu")):
        with pytest.raises(SystemExit):
            main([*command, option])
        said = capsys.readouterr()
        assert words in said.out + said.err


def test_training_gets_what_was_asked(shards, tmp_path, monkeypatch):
    import types

    from rdt2.training.loop import TrainingResult

    asked = {}

    def run_training(stage, **settings):
        asked.update(settings, stage=stage)
        return TrainingResult(tmp_path / "run" / "model", 10, {}, 1.0)

    module = types.SimpleNamespace(run_training=run_training)
    monkeypatch.setitem(sys.modules, "rdt2.training.cli", module)
    main(
        [
            "train",
            "vq",
            "--data",
            str(shards),
            "--out",
            str(tmp_path / "run"),
            "--config",
            "p.yaml",
            "--resume",
            "--set",
            "steps=10",
            "--set",
            "seed=3",
            "--json",
            str(tmp_path / "j.json"),
        ]
    )
    assert asked["stage"] == "vq"
    assert list(asked["overrides"]) == ["steps=10", "seed=3"]
    assert asked["resume"] is True
    assert str(asked["config"]) == "p.yaml"
    assert json.loads((tmp_path / "j.json").read_text())["stage"] == "vq"


def test_evaluate_cell_passes_every_condition_on(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mujoco")
    from rdt2.evaluation import cell
    from rdt2.evaluation.results import CellEvaluation

    asked = {}

    def evaluate(policy, robot, task, **settings):
        asked.update(settings, policy=policy, robot=robot, task=task)
        names = ("scenery", "unseen_shapes", "swap_instruction", "seed")
        scenes = {"tasks": [task], **{name: settings[name] for name in names}}
        made = {
            "policy": policy.policy,
            "blind": settings["blind"],
            "no_instruction": settings["no_instruction"],
        }
        whole = {"policy": made, "robot": {"robot": robot}, "scenes": scenes, "loop": {}, "versions": {}}
        return CellEvaluation(whole, episodes_each=7, records=[], wall_seconds=1)

    monkeypatch.setattr(cell, "evaluate_cell", evaluate)
    line = (
        "evaluate cell --policy runs/fm --vlm runs/vlm --robot fr3 --task place --episodes 7 --seed 5 "
        "--scene unseen --shapes unseen --blind --swap-instruction --workers 2 --steps 3 --dtype bf16 "
        "--processor runs/vlm --revision main"
    )
    main(
        [
            *line.split(),
            "--json",
            str(tmp_path / "c.json"),
            "--report",
            str(tmp_path / "c.html"),
            "--film",
            "none",
        ]
    )
    wanted = PolicySpec(
        policy="runs/fm", vlm="runs/vlm", processor="runs/vlm", steps=3, dtype="bf16", revision="main"
    )
    assert asked["policy"] == wanted
    assert asked["blind"]
    assert (asked["robot"], asked["task"], asked["episodes"], asked["workers"]) == ("fr3", "place", 7, 2)
    assert asked["scenery"] == "unseen"
    assert asked["unseen_shapes"]
    assert asked["swap_instruction"]
    assert not asked["no_instruction"]
    assert asked["page"].film == "none"
    assert "place, unseen scenes" in (tmp_path / "c.html").read_text()
    values = json.loads((tmp_path / "c.json").read_text())
    assert (values["success"], values["episodes"], values["followed"]) == (0, 0, 0)


def test_the_demo_runs_prints_and_writes_its_report(still, tmp_path, monkeypatch, capsys):
    pytest.importorskip("mujoco")
    from rdt2.evaluation import cell

    run_trial = cell.run_trial

    def short(trial, policy, robot, **settings):
        return run_trial(trial, policy, robot, **{**settings, "max_seconds": 0.5})

    monkeypatch.setattr(cell, "run_trial", short)
    report, figures = tmp_path / "r.html", tmp_path / "r.json"
    main(
        [
            "demo",
            "--robot",
            "handheld",
            "--task",
            "press",
            "--episodes",
            "1",
            "--out",
            str(report),
            "--json",
            str(figures),
        ]
    )
    text = capsys.readouterr().out
    assert "0/1" in text
    assert "r.html" in text.replace("\n", "")
    page = report.read_text(encoding="utf-8")
    assert "Press the" in page
    assert "data:video/mp4" in page or "data:image/webp" in page
    values = json.loads(figures.read_text())
    assert (values["success"], values["episodes"]) == (0, 1)
    assert values["tasks"]["press"]["trials"] == 1


@pytest.mark.parametrize(
    ("options", "kind", "steps"),
    [
        (["--policy", "{fm}", "--steps", "1", "--processor", "{vlm}"], "FMPolicy", 1),
        (["--policy", "{vq}", "--temperature", "0.5"], "VQPolicy", None),
        (["--policy", "demo-vq"], "VQPolicy", None),
    ],
)
def test_the_demo_films_any_policy(options, kind, steps, tmp_path, monkeypatch):
    """regression: only the two built-in models could be filmed."""
    pytest.importorskip("mujoco")
    from rdt2.evaluation import cell
    from rdt2.policy.load import DEMOS

    shutil.copytree(DEMOS, tmp_path / "mine")
    places = {name: tmp_path / "mine" / f"{name}.json" for name in ("fm", "vq")}
    options = [each.format(**places, vlm=tmp_path / "mine" / "vlm") for each in options]
    run_trial, seen = cell.run_trial, []

    def short(trial, policy, robot, **settings):
        seen.append(policy)
        return run_trial(trial, policy, robot, **{**settings, "max_seconds": 0.3})

    monkeypatch.setattr(cell, "run_trial", short)
    report, figures = tmp_path / "r.html", tmp_path / "r.json"
    files = ["--out", str(report), "--json", str(figures)]
    main(["demo", "--robot", "handheld", "--task", "press", "--episodes", "1", *files, *options])
    assert type(seen[0]).__name__ == kind
    assert getattr(seen[0], "steps", None) == steps
    values, page = json.loads(figures.read_text()), report.read_text(encoding="utf-8")
    assert values["policy"] == options[1]
    assert options[1] in page
    assert values.get("steps") == steps
    assert ("the small built-in checkpoint" in page) == (options[1] == "demo-vq")


def test_a_demo_of_nothing_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["demo", "--policy", str(tmp_path / "nothing"), "--out", str(tmp_path / "r.html")])
    assert "no such folder" in " ".join(capsys.readouterr().err.split())


def test_a_sentence_of_ones_own_prints_what_came_of_it(still, tmp_path, monkeypatch, capsys):
    """regression: a sentence that names no task of the scene printed no result at all."""
    pytest.importorskip("mujoco")
    from rdt2.evaluation import cell

    run_trial = cell.run_trial

    def short(trial, policy, robot, **settings):
        return run_trial(trial, policy, robot, **{**settings, "max_seconds": 0.3})

    monkeypatch.setattr(cell, "run_trial", short)
    options = ["--robot", "handheld", "--task", "press", "--episodes", "1", "--out", str(tmp_path / "r.html")]
    main(["demo", *options, "--instruction", "Dance a waltz."])
    text, notes = capsys.readouterr()
    notes = " ".join(notes.split())
    assert notes.index("it names no task of these scenes") < notes.index("loading"), (
        "before the first episode"
    )
    assert "A sentence that does: Press the " in notes
    assert "Dance a waltz. it names no task of this scene" in text
