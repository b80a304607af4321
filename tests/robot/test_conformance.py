"""The conformance suite on what there is: the cell with each kind of arms, and the fakes of other tests."""

from __future__ import annotations

import pytest
from fake_robot import fake_robot

pytest.register_assert_rewrite("conformance")

from conformance import Conformance  # noqa: E402


class TestFake(Conformance):
    @pytest.fixture
    def robot(self):
        return fake_robot(honest=True)


class CellConformance(Conformance):
    embodiment = ""

    @pytest.fixture
    def robot(self):
        pytest.importorskip("mujoco")
        from rdt2.sim import Cell, make_scene

        with Cell(self.embodiment, make_scene("pick", 1)) as cell:
            yield cell.robot()


class TestUR5e(CellConformance):
    embodiment = "ur5e"


class TestFR3(CellConformance):
    embodiment = "fr3"


class TestHandheld(CellConformance):
    embodiment = "handheld"
