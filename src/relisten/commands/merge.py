"""`relisten merge`: a LoRA adapter and its base model as one model."""

from __future__ import annotations

from pathlib import Path

from relisten.commands.options import ModelOptions
from relisten.reports.text import console


def merge(model: str, out: Path, /, *, dtype: str = "auto") -> Path:
    """Add an adapter to the weights of its base model, and write them as a model of their own.

    The sum is made in float32 and then cast. A line says how much of the adapter's change the cast costs.

    Parameters
    ----------
    model
        The folder, or the name on the Hugging Face hub, of an adapter, such as out/sft/model after
        `relisten train sft --lora 64`.
    out
        A new folder for the merged model.
    dtype
        Precision of the merged weights: auto (that of the base model), float32, bfloat16 or float16.
    """
    from relisten.models import adapter, find

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: is there already; name a new folder for the merged model")
    if not adapter.is_adapter(find(model)):
        raise ValueError(f"{model}: is not an adapter ({adapter.SETTINGS} is missing), so there is nothing to merge")
    loaded, _ = ModelOptions(model, device="cpu", dtype=dtype).open()
    adapter.to_float32(loaded.module, find(model))
    base = adapter.base_of(find(model))
    lost = adapter.merge(loaded, loaded.module.dtype)
    loaded.save(out)
    console(stderr=True).print(
        f"{model} is merged into {base}, in {str(loaded.module.dtype).removeprefix('torch.')}. {adapter.said(lost)}",
        soft_wrap=True,
        markup=False,
    )
    return out
