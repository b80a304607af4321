"""Where a policy runs and in which numbers, as people write it."""

from __future__ import annotations

import torch

from rdt2.errors import ConfigError

DTYPES = {
    **dict.fromkeys(("float32", "fp32", "float"), torch.float32),
    **dict.fromkeys(("bfloat16", "bf16"), torch.bfloat16),
    **dict.fromkeys(("float16", "fp16", "half"), torch.float16),
}


def checked_device(device: str | int | torch.device) -> torch.device:
    """The device of a name, a number or a torch device, if it is there.

    Raises:
        ConfigError: no device of torch, one that policies do not run on, or one that is not there.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device is {device!r}, expected cpu, cuda or cuda:N.") from error
    if found.type == "cpu":
        return torch.device("cpu")  # one it is, whatever its number
    if found.type != "cuda":
        raise ConfigError(f"device is {str(found)!r}, which policies do not run on; expected cpu or cuda.")
    if torch.version.cuda is None:
        raise ConfigError(
            f"device is {str(found)!r}, but torch {torch.__version__} is built without CUDA. Install its CUDA build "
            "(pytorch.org says how), or choose cpu."
        )
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device is {str(found)!r}, but torch sees no NVIDIA GPU. Look at nvidia-smi, the driver and "
            "CUDA_VISIBLE_DEVICES, or choose cpu."
        )
    count = torch.cuda.device_count()
    if found.index is not None and found.index >= count:
        raise ConfigError(f"device is {str(found)!r}, but the GPUs here are cuda:0 to cuda:{count - 1}.")
    return found


def checked_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of a name, such as "bfloat16", "bf16" or "torch.bfloat16", or of torch; None for the device's usual.

    Raises:
        ConfigError: another one.
    """
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    name = str(dtype).removeprefix("torch.").lower()
    if name not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)} or the torch dtype.")
    return DTYPES[name]
