"""Runs in an environment that has ms-swift: `test_ms_swift_slow.py` starts it, and compares what it writes with ours.

    ENV/bin/python tests/swift_run.py FOLDER

FOLDER has the model (model/), the sets (sft.jsonl, rl.jsonl) and what is asked (asked.json). The results are written to
found.json there: what ms-swift's own loader, template, collation, rewards and vLLM engine make of them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from relisten import models

ROOT = Path(__file__).parent.parent
PLUGIN = ROOT / "src" / "relisten" / "plugins" / "ms_swift.py"


def main(folder: Path) -> None:
    from swift.infer_engine import protocol
    from swift.model import get_model_processor
    from swift.template import get_template
    from swift.utils.utils import import_external_file

    sys.path.insert(0, str(ROOT / "tests"))
    asked = json.loads((folder / "asked.json").read_text())
    plugin = import_external_file(str(PLUGIN))  # as --external_plugins does
    where = {"torch_dtype": torch.float32, "model_type": "qwen2_5_omni", "load_model": False}
    processor = get_model_processor(str(folder / "model"), **where)[1]
    model = models.load(folder / "model")  # ms-swift cannot load a folder without the talker's voices
    template = get_template(processor)
    page = (ROOT / "docs" / "ms-swift.md").read_text(encoding="utf-8")
    exec(page.partition("```py\n")[2].partition("```")[0], {})  # the reward of one's own, as the page shows it
    found: dict[str, Any] = {"template": type(template).__name__, "missing": missing_fields()}
    rows = {name: list(loaded(folder / f"{name}.jsonl")) for name in ("sft", "rl")}
    found["unknown options"] = unknown_options(page)
    found["rows"] = rows["rl"]
    template.set_mode("train")
    found["sft"] = [described(template.encode(row)) for row in rows["sft"]]
    template.set_mode("vllm")
    outputs = []
    for text, one in zip(asked["says"], asked["scripted"], strict=True):
        engine = scripted(model, folder, template, protocol, text)
        outputs += rolled(plugin, engine, protocol, rows["rl"][0], [one])
    if importlib.util.find_spec("vllm") is not None:
        real = vllm_engine(folder, template)
        outputs += rolled(plugin, real, protocol, rows["rl"][0], asked["free"])
    template.set_mode("train")
    template.dummy_model = SimpleNamespace(thinker=model.module)  # it counts positions
    found["rollouts"] = [trained(model, template, rows["rl"][0], output) for output in outputs]
    found["without us"] = without_us(processor, rows["rl"][0], outputs[0])
    (folder / "found.json").write_text(json.dumps(found))


def loaded(path: Path) -> Any:
    from swift.dataset import load_dataset

    return load_dataset(str(path), remove_unused_columns=False, num_proc=1)[0]


def unknown_options(page: str) -> list[str]:
    """Options of the page's commands that ms-swift does not have."""
    from swift.arguments import RLHFArguments, RolloutArguments, SftArguments

    classes = {"sft": SftArguments, "rlhf": RLHFArguments, "rollout": RolloutArguments}
    commands = re.findall(r"swift (sft|rlhf|rollout) ((?:.*\\\n)*.*)", page)
    assert {name for name, _ in commands} == set(classes)
    known = {name: {field.name for field in dataclasses.fields(one)} for name, one in classes.items()}
    return [option for name, text in commands for option in re.findall(r"--(\w+)", text) if option not in known[name]]


def without_us(processor: Any, row: dict[str, Any], output: Any) -> list[int]:
    """The tokens that the trainer would read of a rollout with ms-swift's own template; none if it fails."""
    from swift.rl_core.data import GRPOSample
    from swift.rlhf_trainers.utils import encode_sample
    from swift.template import get_template
    from swift.template.register import TEMPLATE_MAPPING
    from swift.template.templates.qwen import Qwen2_5OmniTemplate

    TEMPLATE_MAPPING["qwen2_5_omni"].template_cls = Qwen2_5OmniTemplate
    template = get_template(processor)
    template.set_mode("train")
    sample = GRPOSample.from_row(row)
    sample.apply_rollout_output(rollout_output=output)
    try:
        return list(encode_sample(sample, template)["input_ids"])
    except Exception as error:
        print("without our template:", error)
        return []


def missing_fields() -> list[str]:
    """Fields of the tests' fakes that the real classes do not have."""
    import swift_fakes
    from swift.infer_engine import protocol

    names = ["RolloutInferRequest", "RequestConfig", "ChatMessage", "ChatCompletionResponseChoice"]
    missing = []
    for name in [*names, "ChatCompletionResponse", "RolloutOutput"]:
        real = getattr(protocol, name)
        known = set(getattr(real, "model_fields", None) or {field.name for field in dataclasses.fields(real)})
        fake = {field.name for field in dataclasses.fields(getattr(swift_fakes, name))}
        missing += [f"{name}.{field}" for field in sorted(fake - known)]
    return missing


def described(encoded: dict[str, Any]) -> dict[str, Any]:
    """What the template made of a row: tokens, which of them are learnt, and the mel frames of each piece of audio."""
    labels = [label != -100 for label in encoded["labels"]]
    frames = encoded["feature_attention_mask"].sum(-1).tolist()
    return {"input_ids": encoded["input_ids"], "learnt": labels, "frames": frames}


def scripted(model: Any, folder: Path, template: Any, protocol: Any, text: str) -> Any:
    """The engine of the default tests, with ms-swift's own template and classes around it."""
    import swift_fakes

    def told(written: str) -> str | None:
        ends = text.endswith("</answer>")
        return text[len(written) :] if text.startswith(written) and (ends or written != text) else None

    return swift_fakes.ScriptedEngine(model, str(folder / "model"), template, told, protocol)


def vllm_engine(folder: Path, template: Any) -> Any:
    from swift.infer_engine import GRPOVllmEngine

    return GRPOVllmEngine(
        str(folder / "model"), template=template, model_type="qwen2_5_omni", torch_dtype=torch.float32,
        use_async_engine=True, max_num_seqs=8, enforce_eager=True, logprobs_mode="processed_logprobs",
        limit_mm_per_prompt={"image": 0, "video": 0, "audio": 9},
    )  # fmt: skip


def rolled(plugin: Any, engine: Any, protocol: Any, row: dict[str, Any], asked: list[dict[str, Any]]) -> list[Any]:
    """One rollout for each dictionary of options, through the scheduler as `swift rollout` calls it."""
    from swift.rl_core.data import GRPOSample
    from swift.rollout import multi_turns

    async def run() -> list[Any]:
        outputs = []
        for number, one in enumerate(asked):
            scheduler = multi_turns["relisten"](infer_engine=engine, max_turns=one["max_turns"])
            sample = GRPOSample.from_row(row | {"request_id": f"{type(engine).__name__}-{number}"})
            config = protocol.RequestConfig(
                n=1, max_tokens=one["max_tokens"], temperature=one["temperature"], top_p=1.0, top_k=-1, min_p=0.0,
                repetition_penalty=1.0, logprobs=True, return_details=True,
            )  # fmt: skip
            output = await scheduler.run(sample.to_infer_request(include_extra=True), config)
            # The server sends it as JSON.
            outputs.append(protocol.RolloutOutput.model_validate_json(output.model_dump_json()))
        return outputs

    return asyncio.get_event_loop().run_until_complete(run())


@torch.no_grad()
def trained(model: Any, template: Any, row: dict[str, Any], output: Any) -> dict[str, Any]:
    """What the GRPO trainer sees of a rollout: tokens, what is learnt, log-probabilities, rewards."""
    from swift.rewards import orms
    from swift.rl_core.data import GRPOSample
    from swift.rl_core.grpo_algorithm import compute_rewards_per_func
    from swift.rlhf_trainers.utils import collate_to_grpo_micro_batch, encode_sample

    sample = GRPOSample.from_row(row)
    sample.apply_rollout_output(rollout_output=output)
    sample.encoded = encode_sample(sample, template)
    described_here = described(sample.encoded)
    inputs, batch = collate_to_grpo_micro_batch([sample], template, device=torch.device("cpu"))
    names = ("input_ids", "attention_mask", "input_features", "feature_attention_mask", "position_ids")
    logits = model.module(**{name: inputs[name] for name in names if inputs.get(name) is not None}).logits[0].float()
    ours = logits.index_fill(-1, model.banned_token_ids, float("-inf")).log_softmax(-1)
    logprobs = logits.log_softmax(-1)
    ids, learnt = described_here["input_ids"], described_here["learnt"]
    # Only rows with labelled segments have `located`.
    names_of_rewards = [name for name in orms if name.startswith(("relisten_", "brief")) and name != "relisten_located"]
    functions = [orms[name]() for name in names_of_rewards]
    rewards = compute_rewards_per_func([sample], functions, None, torch.device("cpu"))[0].tolist()
    return described_here | {
        "logprobs": [float(logprobs[at - 1, ids[at]]) for at in range(1, len(ids)) if learnt[at]],
        "logprobs without placeholders": [float(ours[at - 1, ids[at]]) for at in range(1, len(ids)) if learnt[at]],
        "rollout_logprobs": output.rollout_logprobs[0],
        "aligned": batch.rollout_per_token_logps is not None,
        "num_learnt": int(batch.completion_mask.sum()),
        "truncated": bool(batch.truncated_mask[0]),
        "rewards": dict(zip(names_of_rewards, rewards, strict=True)),
        "text": sample.messages[-1]["content"],
        "num_audios": len(sample.audios),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
