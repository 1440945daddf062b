# shellcheck shell=bash disable=SC2154  # the settings of a recipe set the variables
# The common part of the recipes: sourced with RECIPE, a file in settings/ or the path of one of your own, and the
# flags of the call as arguments, which come last and win.
# BASE, a file in bases/, names a model to start from other than CLIP, with settings that precede those of the recipe.
# Under SLURM it trains on all nodes of the job and requeues it, elsewhere on the GPUs of this machine.
# docs/clusters.md explains each setting. NCCL variables are left to the site.

stop() { echo "open_clip_ext: $(uname -n): $*" >&2; exit 2; }
settings=$(dirname "${BASH_SOURCE[0]}")/settings
recipes=$(cd "$settings" && printf '%s ' *.sh) && recipes=${recipes//.sh /, } && recipes=${recipes%, }
[[ ${RECIPE:-} ]] || stop "set RECIPE to the name of a file in launch/settings: $recipes"
[[ $RECIPE == */* ]] || RECIPE=$settings/$RECIPE.sh
[[ -f $RECIPE ]] || stop "$(basename "$RECIPE" .sh): no such recipe in $(dirname "$RECIPE"); there are $recipes in $settings"
if [[ ${BASE:-} ]]; then
  bases=$(dirname "${BASH_SOURCE[0]}")/bases
  [[ -f $bases/$BASE.sh ]] || stop "$BASE: no such base in $bases; there are $(cd "$bases" && echo *.sh)"
  # shellcheck source=launch/bases/siglip2-b16.sh
  source "$bases/$BASE.sh"
fi
# shellcheck source=launch/settings/degla.sh
source "$RECIPE"
RECIPE=$(basename "$RECIPE" .sh)

: "${MODEL:=ViT-B-32-quickgelu}"                # -quickgelu: OpenAI's weights need it
: "${PRETRAINED=openai}"                        # a tag or a checkpoint file; empty: from scratch
[[ ${TRAIN_DATA:-} ]] || stop "set TRAIN_DATA to a CSV with the columns filepath and title, or to webdataset shards"
: "${NEGATIVES:=}"                              # a store of `open-clip-ext negatives`; empty: companions are in the data
: "${COMPANIONS:=}" "${COMPANION_KEYS:=}"       # KIND=COUNT ..., KIND=COLUMN ...
: "${DATASET_TYPE:=auto}" "${CSV_SEPARATOR:=,}" "${TRAIN_NUM_SAMPLES:=}"
: "${ACCUM:=1}"                                 # GLOBAL_BATCH is fixed, whatever the number of GPUs
: "${PRECISION:=amp}" "${SEED:=42}" "${WORKERS:=8}"
: "${LOSS:=$RECIPE}" "${LOSS_CFG:=}" "${EXTRA_FLAGS:=}" "${MODEL_FLAGS:=}"
: "${NAME:=${BASE:+$BASE-}$RECIPE}"             # the same name resumes
: "${LOGS:=logs}"                               # on a file system that every node sees
: "${SAVE_EVERY:=200}"                          # steps between checkpoints within an epoch
: "${MAX_RESTARTS:=5}"                          # for any reason, then the job ends
: "${GRACE:=240}"                               # seconds to save before the time limit
: "${TRAINER:=-m -- open_clip_train.main}"      # what torchrun starts; `-m -- open_clip_ext` where start-up files are not read

refused() { # checked whatever the status: upstream exits with 0 over some flags
  [[ ! -f $OPEN_CLIP_EXT_REFUSED ]] || stop "no restart, the same input would fail again: $(<"$OPEN_CLIP_EXT_REFUSED")"
  # torchrun reports failed ranks as status 1, so these mean that the call of torchrun itself is wrong.
  [[ $rc != 2 && $rc != 12[67] ]] || stop "no restart, torchrun cannot be started like this (status $rc, TRAINER=$TRAINER); see above"
}

restart=${SLURM_RESTART_COUNT:-0}
if [[ -n ${SLURM_JOB_ID:-} ]]; then
  nodes=$SLURM_JOB_NUM_NODES processes=${SLURM_GPUS_ON_NODE:-0}
  mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  : "${RDZV_HOST:=${hosts[0]}}"                 # a name of the first node that all others can reach
  rendezvous=$RDZV_HOST:$((20000 + (SLURM_JOB_ID + restart) % 20000))
  advice="ask SLURM for some, as with --gpus-per-node"
else
  nodes=1 processes=${GPUS:-$(python -c 'import torch; print(torch.cuda.device_count())')}
  advice="set GPUS to the number of processes to start all the same"
fi
((processes)) || stop "no GPU was allocated; $advice"

per_step=$((nodes * processes * ACCUM))
((GLOBAL_BATCH % per_step == 0)) ||
  stop "a global batch of $GLOBAL_BATCH cannot be split over $nodes x $processes GPUs and ACCUM=$ACCUM; change one of them"

# shellcheck disable=SC2206  # some are lists of words
flags=(
  --model "$MODEL" ${PRETRAINED:+--pretrained "$PRETRAINED"} $MODEL_FLAGS
  --train-data "$TRAIN_DATA" --dataset-type "$DATASET_TYPE" --csv-separator "$CSV_SEPARATOR"
  --loss "$LOSS" ${LOSS_CFG:+--loss-cfg $LOSS_CFG} ${COMPANIONS:+--companions $COMPANIONS}
  ${COMPANION_KEYS:+--companion-keys $COMPANION_KEYS} ${NEGATIVES:+--negatives "$NEGATIVES"}
  --batch-size $((GLOBAL_BATCH / per_step)) --accum-freq "$ACCUM" ${EPOCHS:+--epochs "$EPOCHS"}
  ${LR:+--lr "$LR"} ${WD:+--wd "$WD"} ${WARMUP:+--warmup "$WARMUP"}
  --precision "$PRECISION" --seed "$SEED" --workers "$WORKERS"
  --local-loss --gather-with-grad ${TRAIN_NUM_SAMPLES:+--train-num-samples "$TRAIN_NUM_SAMPLES"}
  --logs "$LOGS" --name "$NAME" --save-most-recent --save-every-steps "$SAVE_EVERY" --resume latest $EXTRA_FLAGS "$@"
)

# One task per node. A node without the plugin must stop the job, not train plain CLIP.
# shellcheck disable=SC2016  # expanded on the node
preflight='[[ -x $(command -v open-clip-ext) ]] || {
  echo "open_clip_ext: $(uname -n): open-clip-ext is not on the PATH of this node; install the plugin there" >&2; exit 1; }
exec open-clip-ext doctor --quiet --node "${SLURM_NODEID:-0}" "$@"'
doctor=(bash -c "$preflight" preflight --nodes "$nodes" --processes "$processes")
[[ $TRAINER != *" open_clip_ext" ]] || doctor+=(--no-start-up)
# USR1 is meant for the ranks, so torchrun ignores it.
# shellcheck disable=SC2206,SC2016  # TRAINER is a list of words
train=(bash -c 'trap "" USR1; exec torchrun "$@"' train --nnodes "$nodes" --nproc-per-node "$processes")
export PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1
export OPEN_CLIP_EXT_REFUSED=$LOGS/$NAME.refused      # where a rank writes why its input is wrong, so that it is not tried again

if [[ -z ${SLURM_JOB_ID:-} ]]; then
  "${doctor[@]}" -- "${flags[@]}" || exit 2
  told=
  trap 'told=1' INT TERM
  for ((restart = 0; ; restart++)); do
    rm -f "$LOGS/$NAME/stopped" "$OPEN_CLIP_EXT_REFUSED"
    rc=0
    # shellcheck disable=SC2086
    "${train[@]}" --standalone --max-restarts 0 $TRAINER "${flags[@]}" || rc=$?
    refused
    ((rc)) || exit 0
    [[ ! $told && ! -f $LOGS/$NAME/stopped ]] && ((restart < MAX_RESTARTS)) || exit "$rc"   # told to stop, or out of restarts
    echo "restart $((restart + 1)) of at most $MAX_RESTARTS: the step ended with status $rc"
  done
fi

on_every_node=(srun --ntasks-per-node=1 --kill-on-bad-exit=1)
# The last output of a failing task is lost if SLURM ends the step first, so wait a little.
# shellcheck disable=SC2016
linger=(bash -c '"$@" || { rc=$?; sleep 2; exit "$rc"; }' linger)
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}   # srun does not inherit it from sbatch
echo "job $SLURM_JOB_ID, restart $restart of at most $MAX_RESTARTS, $nodes x $processes on ${hosts[*]}"

running() { [[ $(squeue --noheader --job "$SLURM_JOB_ID" --format %T) == RUNNING ]]; }
again() { # again WHY: requeue the job, unless SLURM or a user has ended it or it was restarted too often
  running || { echo "SLURM has ended this job itself ($1)"; return 1; }
  ((restart < MAX_RESTARTS)) || { echo "no requeue after $MAX_RESTARTS restarts: $1"; return 1; }
  echo "requeue: $1"
  scontrol requeue "$SLURM_JOB_ID" && sleep 600       # until SLURM ends this script
}
warned=
trap 'warned=$SECONDS; echo "time limit near: the ranks are told to save"' USR1
trap : TERM   # preemption: decide what to do when the step has ended

((restart <= MAX_RESTARTS)) || stop "restart $restart is more than MAX_RESTARTS=$MAX_RESTARTS; see the log above for what ends the job"
"${on_every_node[@]}" "${linger[@]}" "${doctor[@]}" --meet "$rendezvous" -- "${flags[@]}" || { [[ $warned ]] && again "time limit near"; exit 2; }
rm -f "$LOGS/$NAME/stopped" "$OPEN_CLIP_EXT_REFUSED"   # the first is where a run notes that it was told to stop and has saved

# shellcheck disable=SC2086
"${on_every_node[@]}" "${train[@]}" --max-restarts 0 \
  --rdzv-id "$SLURM_JOB_ID.$restart" --rdzv-backend c10d --rdzv-endpoint "$rendezvous" $TRAINER "${flags[@]}" &
step=$!
while kill -0 "$step" 2>/dev/null; do
  if [[ $warned ]]; then # repeatedly: a rank that is still loading misses the signal
    ((SECONDS - warned < GRACE)) || again "nothing saved within $GRACE s" || exit 1
    scancel --signal=USR1 "$SLURM_JOB_ID"
    sleep 5
  else
    wait "$step" || true # until it ends or a signal comes
  fi
done
rc=0
wait "$step" || rc=$?
refused
((rc)) || exit 0
why="the step ended with status $rc"
[[ ! -f $LOGS/$NAME/stopped ]] || why="saved and stopped on $(<"$LOGS/$NAME/stopped")"
again "$why" || exit "$rc"
