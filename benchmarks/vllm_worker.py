"""Runs in vLLM's own environment: answers one question again and again, and tells how much CPU time each run took.

Started by `benchmarks.beside_vllm`, which writes the work to a file and a number of rows to each line of the input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import process_time

import numpy as np
from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

if __name__ == "__main__":
    work = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    engine = LLM(
        work["model"], dtype="float32", enforce_eager=True, max_model_len=work["context"], max_num_seqs=work["most"],
        limit_mm_per_prompt={"image": 0, "video": 0, "audio": 1}, enable_prefix_caching=True, disable_log_stats=True,
        mm_processor_cache_gb=0,
    )  # fmt: skip
    wave = np.load(work["wave"])
    prompt = {"prompt_token_ids": work["token_ids"], "multi_modal_data": {"audio": [(wave, work["rate"])]}}
    print("ready", file=sys.stderr, flush=True)
    for line in sys.stdin:
        settings = SamplingParams(n=int(line), temperature=1.0, max_tokens=work["sampled"], ignore_eos=True)
        # Rows of one run share their prompt, as vLLM does by default; the next run reads it anew.
        assert engine.reset_prefix_cache()
        started = process_time()
        [result] = engine.generate([prompt], settings, use_tqdm=False)
        seconds = process_time() - started
        tokens = sum(len(out.token_ids) for out in result.outputs)
        found = {"cpu": seconds, "tokens": tokens, "prompt": len(result.prompt_token_ids)}
        print("result " + json.dumps(found), flush=True)
