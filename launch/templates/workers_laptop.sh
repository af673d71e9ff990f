#!/bin/sh
# One worker on a laptop or workstation: runs whatever is queued, one job after the other, until nothing is left.
#   sh workers_laptop.sh            everything
#   sh workers_laptop.sh gpu        one category only
set -eu
export AQVOLT_CONFIG_FILE='${root}/aqvolt.yaml'
PYTHON=$${PYTHON:-'${python}'}
exec "$$PYTHON" -m aqvolt_launch work --until-empty $${1:+--category "$$1"}
