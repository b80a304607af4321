"""Whether plain transformers of another version reads what is written here, with the same logits.

    python scripts/check_transformers.py write FOLDER   # here: two small models, and what they answer
    python scripts/check_transformers.py read FOLDER    # in an environment with another transformers, without rdt2

`make check-transformers` does both, for the versions that people have.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import numpy as np
import torch

SENTENCE = "Pick up the red cube."


def write(folder: Path) -> None:
    """Make a model whose head is its own and one whose head is the embedding, and note their logits."""
    from rdt2.vlm import TinyConfig, VLMProcessor, create_tiny_vlm, load_vlm, save_vlm

    config = TinyConfig(
        hidden_size=64, num_layers=3, num_heads=2, num_kv_heads=1, intermediate_size=96, vision_hidden_size=32,
        vision_num_heads=2, vision_intermediate_size=48,
    )  # fmt: skip
    processor, model = create_tiny_vlm(folder / "source", sentences=[SENTENCE], config=config)
    picture = np.random.default_rng(0).integers(0, 256, (384, 768, 3), dtype=np.uint8)
    batch = processor.prompt([picture], [SENTENCE])
    for name in ("own-head", "tied"):
        if name == "tied":
            model.config.tie_word_embeddings = True
            model.lm_head.weight = model.model.language_model.embed_tokens.weight
        save_vlm(model, folder / name)
        VLMProcessor.from_pretrained(folder / "source").save_pretrained(folder / name)
        with torch.no_grad():
            logits = load_vlm(folder / name)(**batch).logits
        torch.save(
            {"batch": batch, "picture": torch.from_numpy(picture), "logits": logits}, folder / f"{name}.pt"
        )


def read(folder: Path) -> None:
    """Compare tokens, picture and logits of plain transformers with what was noted."""
    import transformers
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    try:
        from transformers import Qwen2VLImageProcessorPil as Images  # of version 5
    except ImportError:
        from transformers import Qwen2VLImageProcessor as Images
    for name in ("own-head", "tied"):
        noted = torch.load(folder / f"{name}.pt", weights_only=True)
        model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder / name, output_loading_info=True
        )
        problems = {
            key: info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]
        }
        assert not problems, problems
        known = inspect.signature(model.forward).parameters
        with torch.no_grad():
            logits = model.eval()(**{k: v for k, v in noted["batch"].items() if k in known}).logits
        assert len(model.generation_config.eos_token_id) == 2
        ends = noted["batch"]["input_ids"][0]
        tokenizer = AutoTokenizer.from_pretrained(folder / name)
        assert tokenizer(tokenizer.decode(ends))["input_ids"] == ends.tolist()
        pixels = Images.from_pretrained(folder / name)(images=[noted["picture"].numpy()], return_tensors="pt")
        difference = float((logits - noted["logits"]).abs().max())
        shift = float((pixels["pixel_values"] - noted["batch"]["pixel_values"]).abs().max())
        print(
            f"transformers {transformers.__version__}, {name}: logits within {difference:.1e}, pixels {shift:.1e}"
        )
        assert difference < 1e-4
        assert shift == 0


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
