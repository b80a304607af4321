"""RDT2 as a model server of vla-eval.

    python -m vla_eval_rdt2.server --address 127.0.0.1:8000 --args.policy demo-fm

An observation has `images`, both wrists' under the names of `left_camera` and `right_camera` (any size, uint8 RGB,
height first), `task_description`, and for absolute actions `state`, the 20 columns of `rdt2.action.state_vector`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from vla_eval.model_servers.base import SessionContext
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.specs import IMAGE_RGB, LANGUAGE, DimSpec

from rdt2.action import ACTION_DIM, FPS, HORIZON, absolute_rows
from rdt2.errors import ConfigError, ObservationError
from rdt2.observation import Observation, wrist_picture
from rdt2.policy import PolicySpec, load_policy

COLUMNS = "right arm, then left: position (m), first two COLUMNS of the rotation, opening (m)"
STATE = DimSpec("state", ACTION_DIM, "rdt2_two_arms_absolute", description=COLUMNS)


class RDT2ModelServer(PredictModelServer):
    """Any policy of rdt2, also one behind an address.

    Args:
        policy: as `rdt2.policy.load_policy` takes it: a folder, a hub id, demo-fm, ws://host:8000.
        vlm: the vision-language model, where the policy is an expert alone.
        tokenizer: the action tokenizer, where the policy is an RDT2-VQ model alone.
        normalizer: where the policy brings none.
        device: cpu, cuda or cuda:N.
        frame: absolute: poses in the frame of `state`; relative: motion since the observation that a chunk was
            predicted from, for benchmarks that know which one that was.
        left_camera: name of the left wrist's pictures in `images`.
        right_camera: of the right wrist's.
        late_rows: leading rows of a chunk that are left out, because their time is over when the arms can act.
        seed: of the policy's noise; none draws it anew.
        chunk_size: rows that are driven before the next chunk is predicted.
        options: of `PredictModelServer`, such as max_batch_size.
    """

    def __init__(
        self,
        policy: str = "demo-fm",
        *,
        vlm: str | None = None,
        tokenizer: str | None = None,
        normalizer: str | None = None,
        device: str = "cpu",
        frame: Literal["absolute", "relative"] = "absolute",
        left_camera: str = "left",
        right_camera: str = "right",
        late_rows: int = 0,
        seed: int | None = None,
        chunk_size: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(chunk_size=chunk_size, **{"hz": FPS, **options})
        if not 0 <= late_rows < HORIZON or not 1 <= chunk_size <= HORIZON - late_rows:
            raise ConfigError(
                f"chunk_size is {chunk_size} and late_rows {late_rows}, expected at least 1 and 0, together at most "
                f"{HORIZON}, the rows of a chunk."
            )
        if frame not in ("absolute", "relative"):
            raise ConfigError(f"frame is {frame!r}, expected 'absolute' or 'relative'.")
        self.frame, self.late_rows, self.seed = frame, late_rows, seed
        self.left_camera, self.right_camera = left_camera, right_camera
        self.policy = load_policy(
            PolicySpec.of(policy, vlm=vlm, tokenizer=tokenizer, normalizer=normalizer, device=device)
        )

    def get_observation_params(self) -> dict[str, Any]:
        return {"send_wrist_image": True, "send_state": True}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        state = {"state": STATE} if self.frame == "absolute" else {}
        return {"image": IMAGE_RGB, "language": LANGUAGE, **state}

    def get_action_spec(self) -> dict[str, DimSpec]:
        return {
            "actions": DimSpec(
                "actions", ACTION_DIM, f"rdt2_two_arms_{self.frame}", description=f"{COLUMNS}; {self.frame}"
            )
        }

    def predict_batch(
        self, obs_batch: list[dict[str, Any]], ctx_batch: list[SessionContext]
    ) -> list[dict[str, Any]]:
        """Rows of a chunk for each observation, float32 (24 - late_rows, 20).

        Raises:
            ObservationError: what an observation lacks. ActionError: a chunk came out unusable.
        """
        observations = [self._observation(each) for each in obs_batch]
        seeds = None if self.seed is None else [self.seed + ctx.step for ctx in ctx_batch]
        answers = []
        for chunk, seen in zip(self.policy.predict(observations, seed=seeds), observations, strict=True):
            chunk.require_valid()
            rows = chunk.values if self.frame == "relative" else absolute_rows(chunk.values, seen.state)
            answers.append({"actions": rows[self.late_rows :]})
        return answers

    def _observation(self, seen: dict[str, Any]) -> Observation:
        images = seen.get("images")
        there = sorted(map(str, images)) if isinstance(images, Mapping) else []
        pictures = {}
        for side, name in (("left", self.left_camera), ("right", self.right_camera)):
            if name not in there:
                raise ObservationError(
                    f"images has no {name!r}, found {', '.join(there) or 'none'}. Name the {side} wrist's camera: "
                    f"--args.{side}_camera NAME"
                )
            pictures[side] = wrist_picture(images[name])
        state = seen.get("state", seen.get("states"))
        if state is None and self.frame == "absolute":
            raise ObservationError(
                f"the observation has no state, which absolute actions need: 20 columns, {COLUMNS}. Or serve motion "
                "since the observation: --args.frame relative"
            )
        given = {} if state is None else {"state": np.asarray(state, np.float32)}
        return Observation(**pictures, instruction=seen.get("task_description", ""), **given)


if __name__ == "__main__":
    from vla_eval.model_servers.serve import run_server

    run_server(RDT2ModelServer)
