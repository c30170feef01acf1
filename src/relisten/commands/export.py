"""`relisten export`: write a model or a training set in the layout of another program."""

from __future__ import annotations

from pathlib import Path

from relisten.reports.text import console, printable
from relisten.types import Format


def vllm(model: str, out: Path, /, *, max_seconds: int | None = None) -> int:
    """Write a model that relisten trained in the layout that vLLM reads, and print the command that serves it.

    The weights stay as they are. Only their names change, and the settings around them.

    Parameters
    ----------
    model
        nano, a folder, or a name on the Hugging Face hub.
    out
        The folder to write. The server needs nothing else.
    max_seconds
        The longest piece of audio that the server takes. vLLM computes the log-mel of every piece as if it was that
        long, so a large value makes it slower. By default the model's own setting is kept (chunk_length in
        preprocessor_config.json).
    """
    from relisten.remote.export import export_vllm

    export_vllm(model, out, max_seconds)
    lines = (
        f"{out}: serve it with vLLM 0.32 or newer, for example",
        f"  vllm serve {out} --enable-scale-out --logprobs-mode processed_logprobs"
        """ --limit-mm-per-prompt '{"image": 0, "video": 0, "audio": 9}'""",
        "and ask it with --engine http://HOST:8000 (audio: 9 is the recording and 8 segments).",
    )
    console().print("\n".join(map(printable, lines)), soft_wrap=True, markup=False, highlight=False)
    return 0


def ms_swift(set: Path, out: Path, /, *, model: str = "Qwen/Qwen2.5-Omni-7B", format: Format = "interleaved") -> int:
    """Write a training set in the form that ms-swift reads, with the prompt that relisten itself would use.

    Training then needs relisten's plug-in for ms-swift; the page "ms-swift" of the documentation has the commands.

    Parameters
    ----------
    set
        Examples as `relisten data build` writes them: sft.jsonl or rl.jsonl. Every example needs an answer.
    out
        The JSONL file to write. Recordings are named by their absolute paths.
    model
        The model that will be trained: its prompts are used (prompts.json in its folder, else the paper's).
    format
        How the model is to reason: conditioned, grounded or interleaved.
    """
    from relisten import models, records
    from relisten.data.export import export_swift

    examples = records.read_examples(set)
    export_swift(examples, out, models.load_without_weights(model).prompts, format)
    console().print(
        printable(f"{out}: {len(examples)} rows for ms-swift"), soft_wrap=True, markup=False, highlight=False
    )
    return 0
