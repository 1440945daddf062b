#!/usr/bin/env bash
# A real Slurm cluster on one machine, for as long as this process lives; tests/cluster/slurm.py runs it.
#   slurm.sh cluster FOLDER NODES     as pid 1 of new net, uts, ipc, mount and pid namespaces: the controller `ctl`, and nodes
#   slurm.sh node FOLDER I            in there: (re)start node I, in namespaces of its own, with a cable to ctl's bridge
# Nothing outside the namespaces is touched. When pid 1 ends, the kernel ends every daemon, job, interface and mount.
set -euo pipefail
mode=$1 dir=$2

node() {
  ip link del "vb$1" 2>/dev/null || true
  ip link add "vb$1" type veth peer name "ve$1"
  ip link set "vb$1" master br0 up
  rm -f "$dir/plugged$1"; mkdir -p "$dir/spool.node$1"
  unshare --net --uts --ipc --mount --pid --fork --kill-child --mount-proc bash -c '
    hostname "node$2"
    until [ -e "$1/plugged$2" ]; do sleep .02; done
    ip link set lo up; ip link set "ve$2" name eth0; ip addr add "10.77.0.$((10 + $2))/24" dev eth0; ip link set eth0 up
    mount -t tmpfs tmpfs /dev/shm
    slurmd -D -N "node$2" -f "$1/slurm.conf" & wait $!' node "$dir" "$1" >"$dir/slurmd$1.out" 2>&1 </dev/null &
  local child= parent=$!
  until child=$(<"/proc/$parent/task/$parent/children") && [ -n "$child" ]; do sleep .02; done
  echo "${child%% *}" >"$dir/node$1.init"
  ip link set "ve$1" netns "${child%% *}"
  touch "$dir/plugged$1"
}

cluster() {
  hostname ctl
  ip link set lo up
  ip link add br0 type bridge forward_delay 0; ip addr add 10.77.0.1/24 dev br0; ip link set br0 up
  { echo "127.0.0.1 localhost"; echo "10.77.0.1 ctl"; for i in $(seq "$1"); do echo "10.77.0.$((10 + i)) node$i"; done; } >"$dir/hosts"
  mount --bind "$dir/hosts" /etc/hosts
  mkdir -m 700 "$dir/munge"; mkdir "$dir/state" "$dir/dev" "$dir/disk"
  mount -t tmpfs -o size=300m tmpfs "$dir/disk"            # a small file system that all nodes share
  for i in 0 1; do mknod "$dir/dev/nvidia$i" c 1 3; done   # what Slurm hands out as GPUs
  head -c 1024 /dev/urandom >"$dir/munge/key"; chmod 600 "$dir/munge/key"
  munged --foreground --force --key-file="$dir/munge/key" --seed-file="$dir/munge/seed" --socket="$dir/munge.sock" \
    --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" >"$dir/munged.out" 2>&1 &
  until munge -S "$dir/munge.sock" -n >/dev/null 2>&1; do sleep .05; done

  echo "NodeName=node[1-$1] Name=gpu File=$dir/dev/nvidia[0-1]" >"$dir/gres.conf"
  # cred_expire is also the wait before a requeued job starts, 120 s if it is less than 5; SlurmdTimeout, how long a node may be silent (300 s by default).
  cat >"$dir/slurm.conf" <<END
ClusterName=test
SlurmctldHost=ctl(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobRequeue=1
SlurmctldTimeout=30
SlurmdTimeout=8
InactiveLimit=0
KillWait=5
MinJobAge=3600
MessageTimeout=10
TCPTimeout=2
SchedulerParameters=sched_interval=1,bf_interval=2
GresTypes=gpu
NodeName=node[1-$1] CPUs=64 RealMemory=64000 Gres=gpu:2
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
END
  export SLURM_CONF=$dir/slurm.conf
  slurmctld -D -f "$SLURM_CONF" >"$dir/slurmctld.out" 2>&1 &
  for i in $(seq "$1"); do node "$i"; done
  until [ "$(sinfo -h -p batch -N -t idle -o %N 2>/dev/null | wc -l)" = "$1" ]; do sleep .1; done
  touch "$dir/ready"
  while :; do sleep 3600 & wait $! || true; done   # and reap what falls to pid 1
}

export PATH=$PATH:/usr/sbin:/sbin
"$mode" "$3"
