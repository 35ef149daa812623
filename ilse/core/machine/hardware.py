"""What the processor supports, according to PyTorch."""

from __future__ import annotations


def native_bfloat16(device: str) -> bool:
    """Whether `device` (cpu or cuda, with or without a number) multiplies bfloat16 itself."""
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private to torch, and its only word on the matter; a release without them means no, which is right.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
