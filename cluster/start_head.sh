#!/usr/bin/env bash
# Start a Ray head on this machine, ready for `ray job submit`. Further options go to `ray start` (e.g. --num-gpus 1).
set -euo pipefail
cd "$(dirname "$0")/.."

if [ ! -x .venv/bin/ray ]; then
  echo "error: .venv has no ray; run 'make demo' or 'make test' once, which set it up" >&2
  exit 1
fi

# Jobs run with the interpreter that comes first on the head's PATH.
export PATH="$PWD/.venv/bin:$PATH"
# Whoever reaches a head without a token can run code on it, and head and clients must agree: so it is never left open.
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
if [ "$RAY_AUTH_MODE" = token ]; then
  ray get-auth-token --generate >/dev/null
fi

# The value of an option among the arguments: option NAME DEFAULT ARGUMENTS...
option() {
  local name=$1 value=$2
  shift 2
  while [ $# -gt 0 ]; do
    case "$1" in
      "$name") value="${2:-$value}" ;;
      "$name="*) value="${1#*=}" ;;
    esac
    shift
  done
  echo "$value"
}

# With a busy port Ray would end in a trace, or go on with another than the one that jobs are submitted to.
for use in "--port $(option --port 6379 "$@")" "--dashboard-port $(option --dashboard-port 8265 "$@")"; do
  if (exec 3<>"/dev/tcp/127.0.0.1/${use#* }") 2>/dev/null; then
    echo "error: port ${use#* } is in use, perhaps by a head that runs here already: stop that with" \
      ".venv/bin/ray stop, or give another ${use% *}" >&2
    exit 1
  fi
done

# Whoever does not read the service's answers is hung up on by Ray's proxies, if Serve is used.
export RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH="${RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH:-serve.pace:middlewares}"

ray start --head --dashboard-host 127.0.0.1 --disable-usage-stats "$@"

cat <<MESSAGE

Submit a job from the root of the checkout (paths are absolute: a job runs in a temporary copy of the folder):

  export RAY_AUTH_MODE=$RAY_AUTH_MODE
  .venv/bin/ray job submit --runtime-env runtime_env.yaml --working-dir . -- \\
    python jobs/train_stage1.py --preset mini train.data="\$PWD/runs/demo/tokens" train.out="\$PWD/runs/cluster"

Stop the head with .venv/bin/ray stop
MESSAGE
