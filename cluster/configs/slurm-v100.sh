#!/usr/bin/env bash
# A Ray cluster that lives as long as one Slurm job: V100 nodes, one run, nothing left behind.
#
#   sbatch cluster/configs/slurm-v100.sh pretrain platform/configs/pretrain-200m-v100.yaml \
#       corpus=/shared/pfam storage=/shared/runs name=first
#   scancel --batch --signal=USR1 JOB      # a checkpoint, then the end; plain scancel loses the steps since the last
#
# from the clone, with the environment active that holds Ray and the cu126 build of torch (constraints-v100.txt), on a
# file system that every node sees. Whatever the site calls its partition and GPUs: `sbatch --partition=... --gres=...`.
# The same command again goes on where the last one stopped. The dashboard listens on the first node alone and asks for
# the token; its tunnel is printed when the cluster is up.
#
#SBATCH --job-name=proteinlm
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gres=gpu:8
#SBATCH --mem=0
#SBATCH --time=24:00:00
# Five minutes before the end the run saves a checkpoint. To this script alone (B:): the signal would end Ray itself.
#SBATCH --signal=B:USR1@300
# A node that dies does not take the others along: the run goes on with those that are left.
#SBATCH --no-kill
#SBATCH --open-mode=append

set -euo pipefail

RESERVED_CPUS=4   # of each node: Ray itself, the driver, the system
JOIN_SECONDS=${JOIN_SECONDS:-300}

fail() {
    echo "slurm-v100.sh: $*" >&2
    exit 2
}

[[ $# -gt 0 ]] || fail "usage: sbatch slurm-v100.sh VERB CONFIG.yaml key=value ..."
[[ -n ${SLURM_JOB_ID:-} ]] || fail "no Slurm job: submit it with sbatch"
command -v ray > /dev/null || fail "no ray on PATH: activate its environment before sbatch"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
((${#nodes[@]} > 0)) || fail "scontrol named no node for $SLURM_JOB_NODELIST"
head=${nodes[0]}   # where Slurm runs this script
gpus=${SLURM_GPUS_ON_NODE:-0}
cpus=$((SLURM_CPUS_ON_NODE - RESERVED_CPUS))
((gpus > 0)) || fail "no GPU on $head; ask for some, such as --gres=gpu:8"
((cpus > gpus)) ||
    fail "$SLURM_CPUS_ON_NODE CPUs on $head for $gpus GPUs; ask for $((gpus + RESERVED_CPUS + 1)) or more, to read data"

# The address by which the other nodes know this one. A name that leads to the machine itself (127.0.1.1) does not do.
address=${HEAD_ADDRESS:-$(getent ahostsv4 "$head" | awk '$1 !~ /^127\./ { print $1; exit }' || true)}
address=${address:-$(hostname -I | awk '{ print $1 }' || true)}
[[ -n $address ]] || fail "no address of $head is known; HEAD_ADDRESS sets it"
port=$((20000 + SLURM_JOB_ID % 3000 * 4))   # of this job, where nodes are shared
folder=/tmp/ray-$SLURM_JOB_ID               # short: the paths of Ray's sockets may have 107 bytes

export RAY_AUTH_MODE=token
ray get-auth-token --generate > /dev/null   # ~/.ray/auth_token, made once; home directories are shared
export RAY_ADDRESS=$address:$port

steps=()
everywhere=(--overlap --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" --ntasks-per-node=1 --no-kill --kill-on-bad-exit=0)

# shellcheck disable=SC2317,SC2329  # called by the trap
end_cluster() {   # CODE; by process id: `ray stop` would end every Ray of this user on the node
    ((${#steps[@]} == 0)) || kill "${steps[@]}" 2> /dev/null || true
    for step in "${steps[@]}"; do
        timeout 60 tail --pid="$step" -s 0.1 -f /dev/null || kill -KILL "$step" 2> /dev/null || true
    done
    if (($1 == 0)); then
        timeout 60 srun "${everywhere[@]}" rm -rf -- "$folder" || true
    elif ((${#steps[@]} > 0)); then
        echo "slurm-v100.sh: Ray's logs stay in $folder of each node" >&2
    fi
}
trap 'end_cluster $?' EXIT
trap 'exit 143' USR1 TERM INT

# A head without CPUs and GPUs and, on this node as on all others, a second Ray node that trains.
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" --cpus-per-task="$RESERVED_CPUS" --gres=none --mem=0 \
    ray start --head --block --node-ip-address="$address" --port="$port" --num-cpus=0 --num-gpus=0 \
    --dashboard-host=127.0.0.1 --dashboard-port=$((port + 1)) --ray-client-server-port=$((port + 2)) \
    --dashboard-agent-listen-port=$((port + 3)) --temp-dir="$folder" --disable-usage-stats &
steps+=($!)

SECONDS=0
until timeout 5 bash -c "exec 3<> /dev/tcp/$address/$port" 2> /dev/null; do
    ((SECONDS < JOIN_SECONDS)) || fail "no head at $RAY_ADDRESS after $JOIN_SECONDS s; HEAD_ADDRESS sets its address"
    kill -0 "${steps[0]}" 2> /dev/null || fail "the head ended on $head as soon as it had started"
    sleep 0.2
done

srun "${everywhere[@]}" --cpus-per-task="$SLURM_CPUS_ON_NODE" --cpu-bind=none --mem=0 --wait=0 \
    ray start --address="$RAY_ADDRESS" --block --num-cpus="$cpus" --num-gpus="$gpus" \
    --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 --disable-usage-stats &
steps+=($!)

timeout "$JOIN_SECONDS" python - "${nodes[@]}" << 'PYTHON' || fail "not all nodes joined within $JOIN_SECONDS s"
"""Waits for the nodes that are named, and says which ones are missing."""
import sys
import time

import ray

ray.init(logging_level="ERROR", log_to_driver=False)
said = None
while True:
    training = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    names = {node["NodeManagerHostname"].split(".")[0] for node in training}
    missing = [name for name in sys.argv[1:] if name.split(".")[0] not in names]
    if not missing:
        break
    if missing != said:
        print("waiting for", *missing, flush=True)
        said = missing
    time.sleep(1)
PYTHON

echo "dashboard: ssh -N -L 8265:127.0.0.1:$((port + 1)) $head (-J your login node), then http://127.0.0.1:8265"
echo "token: ray get-auth-token"

python -m proteinlm "$@" &
driver=$!
signalled=1
trap 'signalled=1; kill -USR1 "$driver" 2> /dev/null || true' USR1
trap 'signalled=1; kill -TERM "$driver" 2> /dev/null || true' TERM INT

while ((signalled)); do   # a signal ends the waiting, not the driver
    signalled=0
    code=0
    wait "$driver" || code=$?
done
exit "$code"
