from __future__ import annotations

import json

import numpy as np
import pytest

from rdt2.errors import RecordingError
from rdt2.evaluation.files import write_json


def test_values_of_all_kinds(tmp_path):
    path = write_json(
        tmp_path / "deep" / "r.json",
        {
            "a": np.float32(0.5),
            "b": np.arange(2),
            "nan": float("nan"),
            "path": tmp_path,
            "t": (1, None),
            "字": "字",
        },
    )
    values = json.loads(path.read_text(encoding="utf-8"))
    assert values == {"a": 0.5, "b": [0, 1], "nan": None, "path": str(tmp_path), "t": [1, None], "字": "字"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match=r"r\.json"):
        write_json(tmp_path / "file" / "r.json", {})
