#!/bin/bash
# Workers on a GPU node: one a card, each sees only its own. Small jobs fill a card better when several share it:
#   WORKERS_PER_GPU=3 bash workers_gpu_node.sh      starts NVIDIA's MPS, and three workers a card with a third of it each
# SIGTERM (Slurm sends it before the time is over, see slurm_array.sh) is passed on: jobs write a checkpoint or are
# handed back.
set -u
export AQVOLT_CONFIG_FILE='${root}/aqvolt.yaml'
PYTHON=$${PYTHON:-'${python}'}
each=$${WORKERS_PER_GPU:-1}
cards=$${CUDA_VISIBLE_DEVICES:-$$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd, -)}
if [ -z "$$cards" ]; then
  echo "No GPU is visible: CUDA_VISIBLE_DEVICES is empty and nvidia-smi names none." >&2
  exit 2
fi
cores=$${SLURM_CPUS_ON_NODE:-$$(getconf _NPROCESSORS_ONLN)}
number=$$(( $$(echo "$$cards" | tr ',' '\n' | grep -c .) * each ))
threads=$$(( cores / number ))
export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$$(( threads > 0 ? threads : 1 ))}
unset SLURM_NTASKS SLURM_CPUS_PER_TASK   # a worker counts its own cores, not the node's
if [ "$$each" -gt 1 ]; then
  export CUDA_MPS_PIPE_DIRECTORY=$${CUDA_MPS_PIPE_DIRECTORY:-$$(mktemp -d)}
  export CUDA_MPS_LOG_DIRECTORY=$${CUDA_MPS_LOG_DIRECTORY:-$$CUDA_MPS_PIPE_DIRECTORY}
  export CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=$$(( 100 / each ))
  nvidia-cuda-mps-control -d || exit 2
fi
pids=()
trap 'kill -TERM "$${pids[@]}" 2>/dev/null' TERM INT
for card in $${cards//,/ }; do
  for _ in $$(seq "$$each"); do
    CUDA_VISIBLE_DEVICES=$$card "$$PYTHON" -m aqvolt_launch work --category gpu --until-empty --grace "$${GRACE:-60}" &
    pids+=($$!)
  done
done
code=0
for pid in "$${pids[@]}"; do
  wait "$$pid"; one=$$?
  while kill -0 "$$pid" 2>/dev/null; do wait "$$pid"; one=$$?; done   # wait returns early when a signal comes
  [ "$$one" -eq 0 ] || code=$$one
done
if [ "$$each" -gt 1 ]; then echo quit | nvidia-cuda-mps-control; fi
exit "$$code"
