"""Pictures, instructions and action tokens to the batches that RDT2's VLM reads.

    processor = VLMProcessor.from_pretrained(folder)
    batch = processor.prompt([picture], ["Pick up the apple."])            # ends with <|quad_start|>
    batch = processor.training([picture], ["Pick up the apple."], tokens)  # and what the model must write

One picture a sample, left wrist beside right wrist. Action token ``a`` is the vocabulary id
``vocab_size - (a + 1)``, where ``vocab_size`` is the base vocabulary without added tokens.
"""

from __future__ import annotations

import itertools
import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from rdt2.errors import ActionError, CheckpointError, ObservationError
from rdt2.files import require_file
from rdt2.hub import locate
from rdt2.vlm.adapters import base_of
from rdt2.vlm.images import CONFIG_NAME, PROCESSOR_NAME, ImageProcessor, Patches, has_settings
from rdt2.vlm.layout import CONFIG, read_config, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from jaxtyping import Int, UInt8
    from tokenizers import Tokenizer
    from torch import Tensor

# The chat template of Qwen2.5-VL, rendered for the one conversation RDT2 has: the default system line and
# one user turn, the picture and then the instruction. The answer starts with <|quad_start|>.
BEFORE_PICTURE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
)
BEFORE_INSTRUCTION = "<|vision_end|>"
AFTER_INSTRUCTION = "<|im_end|>\n<|im_start|>assistant\n<|quad_start|>"

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
)
PROCESSOR_FILES = (*TOKENIZER_FILES, CONFIG_NAME, PROCESSOR_NAME)
PUBLISHED = "Qwen/Qwen2.5-VL-7B-Instruct"  # whose processor RDT2-VQ, which has none, was trained with
IntOrTensor = TypeVar("IntOrTensor", int, torch.Tensor)
ACTION_TOKENS = 1024  # of the published model: ids at the end of the base vocabulary
ACTION_NAME = "<|action_{}|>"  # what a vocabulary made for RDT2 calls them
IGNORE = -100  # label of a position that carries no loss


class VLMProcessor:
    """Text and picture processing of RDT2's Qwen2.5-VL.

    Attributes:
        images: the picture side; ``processor.images(pictures)`` gives pixel values and grids.
        vocab_size: size of the base vocabulary, without added tokens.
        action_tokens: how many of its last ids are action tokens': as many as it names so, and as published where it
            names none, for there they took over the ids of the rarest words.
        pad_id, quad_start_id, quad_end_id, end_id, image_id: ids of the control tokens.
        before_picture: ids in front of the picture's tokens, the same in every prompt.
        after_instruction: ids behind the sentence, up to and including ``<|quad_start|>``.
    """

    def __init__(self, tokenizer: Tokenizer, images: ImageProcessor, *, source: Path | None = None) -> None:
        self.tokenizer = tokenizer
        self.images = images
        self.source = source
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=False)
        numbers = itertools.takewhile(
            lambda a: tokenizer.token_to_id(ACTION_NAME.format(a)), itertools.count()
        )
        self.action_tokens = len(list(numbers)) or ACTION_TOKENS
        self.pad_id = self._id("<|endoftext|>")
        self.quad_start_id = self._id("<|quad_start|>")
        self.quad_end_id = self._id("<|quad_end|>")
        self.end_id = self._id("<|im_end|>")
        self.image_id = self._id("<|image_pad|>")
        self.before_picture = self._ids(BEFORE_PICTURE)
        self._before_instruction = self._ids(BEFORE_INSTRUCTION)
        self.after_instruction = self._ids(AFTER_INSTRUCTION)
        self._instruction = lru_cache(maxsize=4096)(self._encode_instruction)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> VLMProcessor:
        """Read tokenizer and picture settings from a local folder or a hub id.

        Raises:
            CheckpointError: a file is missing or is not Qwen2.5-VL's.
        """
        from tokenizers import Tokenizer

        folder = locate(path, PROCESSOR_FILES, what="a processor")
        file = require_file(
            folder / "tokenizer.json",
            advice="Copy the tokenizer files of Qwen/Qwen2.5-VL-7B-Instruct there, or point at that model",
        )
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise CheckpointError(f"{file} is not a tokenizer ({error}); download it again") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(tokenizer, ImageProcessor.from_pretrained(folder), source=folder)

    @classmethod
    def beside(
        cls, vlm: str | Path, *, given: str | Path | None = None, base: str | Path | None = None
    ) -> VLMProcessor:
        """The processor to use with a VLM: ``given``, or the one beside it, else the published one of all RDT2.

        Args:
            vlm: folder or hub id of a VLM, or of adapters, which share what their VLM has beside it.
            given: folder or hub id of the processor to use.
            base: folder or hub id of the VLM of adapters, if it is not where they say.

        Raises:
            CheckpointError: as :meth:`from_pretrained`, or there is none beside the VLM and the published one can
                not be fetched, or it knows more words than the VLM.
        """
        processor = cls._found(vlm, base) if given is None else cls.from_pretrained(given)
        words = processor.tokenizer.get_vocab_size()
        rows = read_config(locate(base_of(vlm, base=base), (CONFIG,))).text_config.vocab_size
        if words > rows:
            raise CheckpointError(
                f"the processor {processor.source} knows {words} words, but the VLM {vlm} has rows for {rows}. Use the "
                "processor that this VLM was trained with."
            )
        return processor

    @classmethod
    def _found(cls, vlm: str | Path, base: str | Path | None) -> VLMProcessor:
        """The one beside a VLM, else the published one."""
        for place in dict.fromkeys((str(vlm), base_of(vlm, base=base))):
            folder = locate(place, PROCESSOR_FILES, what="a processor")
            if (folder / "tokenizer.json").is_file() and has_settings(folder):
                return cls.from_pretrained(place)
        if (folder / "tokenizer.json").is_file() or has_settings(folder):
            return cls.from_pretrained(folder)  # half of one, which says what is missing
        try:
            return cls.from_pretrained(PUBLISHED)
        except CheckpointError as error:
            raise CheckpointError(
                f"{vlm}: has no tokenizer.json beside it. Copy the tokenizer files and preprocessor_config.json of "
                f"{PUBLISHED} there, or pass a folder with them as processor=FOLDER. "
                f"{error}"
            ) from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer and picture settings into ``folder``, as every transformers since 4.49 reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.source is not None and self.source.resolve() != folder.resolve():
            for name in TOKENIZER_FILES:
                if (self.source / name).is_file():
                    shutil.copyfile(self.source / name, folder / name)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        if (file := folder / "tokenizer_config.json").is_file():
            file.write_text(json.dumps(_as_published(read_json(file, advice="")), indent=2) + "\n")
        self.images.save_pretrained(folder)

    def action_token_id(self, token: IntOrTensor) -> IntOrTensor:
        """Vocabulary id of action token(s) ``a``: ``vocab_size - (a + 1)``. It is its own inverse."""
        return self.vocab_size - (token + 1)

    def prompt(
        self,
        pictures: Sequence[UInt8[np.ndarray, "h w 3"]] | Patches,
        instructions: Sequence[str],
        *,
        images: Callable[..., tuple[Tensor, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """A left-padded batch up to and including ``<|quad_start|>``, ready for the first action token.

        Args:
            pictures: uint8 RGB, left wrist beside right wrist, one a sample; or patches that are cut already.
            instructions: one sentence a sample.
            images: what makes pixel values and grids of pictures instead of ``self.images``.

        Returns:
            input_ids, attention_mask, mm_token_type_ids (b, s) int64; pixel_values (patches, 1176) float32;
            image_grid_thw (b, 3) int64.

        Raises:
            ObservationError: no or different numbers of pictures and instructions, a picture that is not
                uint8 RGB, an instruction that is empty or contains control tokens.
        """
        pixel_values, grid = self._pictures(pictures, instructions, images or self.images)
        rows = [
            self._prompt_ids(text, n) for text, n in zip(instructions, self._image_tokens(grid), strict=True)
        ]
        return self._batch(rows, pixel_values, grid, left=True)

    def training(
        self,
        pictures: Sequence[UInt8[np.ndarray, "h w 3"]] | Patches,
        instructions: Sequence[str],
        tokens: Int[Tensor, "b 27"] | Int[np.ndarray, "b 27"],
        *,
        num_embeddings: int = 1024,
    ) -> dict[str, Tensor]:
        """A right-padded batch of prompt and answer, with ``labels`` (b, s) int64 on the answer alone.

        The answer is the action tokens, ``<|quad_end|>`` and ``<|im_end|>``; nothing of the prompt (not even
        the opening of the assistant's turn) carries loss.

        Raises:
            ObservationError: as in :meth:`prompt`.
            ActionError: tokens of another shape, or outside 0 .. num_embeddings - 1.
        """
        answers = self._answers(torch.as_tensor(tokens), len(instructions), num_embeddings)
        pixel_values, grid = self._pictures(pictures, instructions, self.images)
        prompts = [
            self._prompt_ids(text, n) for text, n in zip(instructions, self._image_tokens(grid), strict=True)
        ]
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        batch = self._batch(rows, pixel_values, grid, left=False)
        labels = torch.full_like(batch["input_ids"], IGNORE)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        return {**batch, "labels": labels}

    def _pictures(
        self,
        pictures: Sequence[np.ndarray] | Patches,
        instructions: Sequence[str],
        images: Callable[..., tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        count = len(pictures.grid if isinstance(pictures, Patches) else pictures)
        if count != len(instructions) or not count:
            raise ObservationError(
                f"expected one instruction a picture, got {count} pictures and {len(instructions)} "
                "instructions; pass lists of the same length, at least one"
            )
        return pictures if isinstance(pictures, Patches) else images(pictures)

    def _image_tokens(self, grid: Int[Tensor, "b 3"]) -> list[int]:
        return (grid.prod(-1) // self.images.merge_size**2).tolist()

    def _prompt_ids(self, instruction: str, image_tokens: int) -> list[int]:
        picture = [self.image_id] * image_tokens
        text = [*self._before_instruction, *self._instruction(instruction), *self.after_instruction]
        return [*self.before_picture, *picture, *text]

    def _encode_instruction(self, instruction: str) -> tuple[int, ...]:
        if not isinstance(instruction, str) or not instruction.strip():
            raise ObservationError(
                f"expected an instruction such as 'Pick up the apple.', got {instruction!r}; a policy must "
                "be told what to do (in training: the sample's instruction key has no sentence)"
            )
        ids = self._ids(instruction)
        if any(i >= self.vocab_size for i in ids):
            raise ObservationError(
                f"the instruction {instruction!r} contains a control token; use plain words"
            )
        return tuple(spelled for i in ids for spelled in self._spelled(i))

    def _spelled(self, word: int) -> list[int]:
        """An id, or where it is an action token's the ids of its bytes: a sentence holds none, whatever it says.

        The rarest words of Qwen's vocabulary have the ids that action tokens took over.
        """
        if word < self.vocab_size - self.action_tokens:
            return [word]
        return [self._id(byte) for byte in self.tokenizer.id_to_token(word) or ""]

    def _answers(self, tokens: Tensor, count: int, num_embeddings: int) -> list[list[int]]:
        if tokens.ndim != 2 or len(tokens) != count or tokens.is_floating_point():
            raise ActionError(
                f"expected integer action tokens of shape ({count}, 27), got {tokens.dtype} "
                f"{tuple(tokens.shape)}; encode the chunks with the action tokenizer"
            )
        wrong = ((tokens < 0) | (tokens >= num_embeddings)).nonzero().tolist()
        if wrong:
            row, column = wrong[0]
            raise ActionError(
                f"expected action tokens 0..{num_embeddings - 1}, got {int(tokens[row, column])} at sample "
                f"{row}, position {column} ({len(wrong)} such in the batch); encode the chunks again"
            )
        ids = self.action_token_id(tokens.to(torch.int64)).tolist()
        return [[*row, self.quad_end_id, self.end_id] for row in ids]

    def _batch(
        self, rows: list[list[int]], pixel_values: Tensor, grid: Tensor, *, left: bool
    ) -> dict[str, Tensor]:
        length = max(len(row) for row in rows)
        input_ids = torch.full((len(rows), length), self.pad_id, dtype=torch.int64)
        attention_mask = torch.zeros_like(input_ids)
        for i, row in enumerate(rows):
            where = slice(length - len(row), length) if left else slice(0, len(row))
            input_ids[i, where] = torch.tensor(row)
            attention_mask[i, where] = 1
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            # Without these transformers computes text positions for image tokens, and says nothing.
            "mm_token_type_ids": (input_ids == self.image_id).to(torch.int64),
            "pixel_values": pixel_values,
            "image_grid_thw": grid,
        }

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _id(self, name: str) -> int:
        token_id = self.tokenizer.token_to_id(name)
        if token_id is None:
            raise CheckpointError(
                f"expected the token {name} in the tokenizer of {self.source}, found none; "
                "RDT2 needs the tokenizer of Qwen2.5-VL"
            )
        return token_id


def _as_published(config: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer_config.json without what only transformers 5 knows: 4.x stops at a list of extra tokens."""
    config = {**config, "tokenizer_class": "Qwen2Tokenizer"}
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    return config
