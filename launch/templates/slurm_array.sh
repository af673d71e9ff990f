#!/bin/bash
# A Slurm array of nodes, each of which works until nothing is left or its time is over:
#   sbatch --array=1-20%10 slurm_array.sh vasp
#   sbatch --array=1-4 --gres=gpu:4 --export=ALL,WORKERS_PER_GPU=2 slurm_array.sh gpu
# The node's script gets SIGTERM three minutes before the end and passes it on to its workers.
#SBATCH --job-name=aqvolt
#SBATCH --nodes=1
#SBATCH --ntasks=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --output=${root}/.aqvolt/queue/%x-%A_%a.out
category=$${1:-vasp}
# module load vasp; export PMG_VASP_PSP_DIR=/path/to/potcars
# The database's address with its password: . ~/.aqvolt-secrets   (a file of mode 600 with export AQVOLT_MONGO_URI=...)
case "$$category" in
  gpu) exec bash '${root}/workers_gpu_node.sh' ;;
  vasp) exec bash '${root}/workers_vasp_node.sh' ;;
  cpu) exec sh '${root}/workers_laptop.sh' cpu ;;
  *) echo "There is no category $$category; expected cpu, gpu or vasp." >&2; exit 2 ;;
esac
