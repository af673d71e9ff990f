#!/bin/bash
# VASP in one allocation: one run at a time on all of its tasks, or several side by side.
#   RUNS=4 bash workers_vasp_node.sh      four runs, each on a quarter of the tasks
# Under Slurm each run is a step of its own (srun --exact), elsewhere mpirun with its share of the cores.
# Set VASP (vasp_std by default) and PMG_VASP_PSP_DIR. SIGTERM is passed on: a static goes back into the queue.
set -u
export AQVOLT_CONFIG_FILE='${root}/aqvolt.yaml'
export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1}
PYTHON=$${PYTHON:-'${python}'}
runs=$${RUNS:-1}
tasks=$$(( $${SLURM_NTASKS:-$$(getconf _NPROCESSORS_ONLN)} / runs ))
if [ "$$tasks" -lt 1 ]; then
  echo "RUNS=$$runs is more than there are tasks; give each run one at least." >&2
  exit 2
fi
if [ -n "$${SLURM_JOB_ID:-}" ]; then
  export VASP_CMD="srun --exact --ntasks=$$tasks $${VASP:-vasp_std}"
else
  export VASP_CMD="$${MPIRUN:-mpirun} -np $$tasks $${VASP:-vasp_std}"
fi
export SLURM_NTASKS=$$tasks   # what one worker occupies, for the core-hours of 'aqvolt status'
pids=()
trap 'kill -TERM "$${pids[@]}" 2>/dev/null' TERM INT
for _ in $$(seq "$$runs"); do
  "$$PYTHON" -m aqvolt_launch work --category vasp --until-empty --grace "$${GRACE:-15}" &
  pids+=($$!)
done
code=0
for pid in "$${pids[@]}"; do
  wait "$$pid"; one=$$?
  while kill -0 "$$pid" 2>/dev/null; do wait "$$pid"; one=$$?; done   # wait returns early when a signal comes
  [ "$$one" -eq 0 ] || code=$$one
done
exit "$$code"
