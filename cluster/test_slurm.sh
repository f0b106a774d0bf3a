#!/usr/bin/env bash
# A real SLURM on one throwaway machine, for tests: controller, two nodes of four claimed CPUs and two pretended GPUs each, two partitions
# (jobs of `urgent` preempt those of `main`, which are requeued). It installs Debian packages and writes /etc/slurm, as root and without
# systemd, so it refuses to run unless told that this machine may be thrown away:
#
#     PROTOMER_SLURM_TEST=1 bash cluster/test_slurm.sh start     installs what is missing, starts all, waits until the nodes are idle
#     PROTOMER_SLURM_TEST=1 bash cluster/test_slurm.sh stop      cancels what runs, ends the daemons, removes what start wrote
#     PROTOMER_SLURM_TEST=1 bash cluster/test_slurm.sh status
set -euo pipefail

if [ "${PROTOMER_SLURM_TEST:-}" != 1 ]; then
  echo "test_slurm.sh changes this machine (packages, /etc/slurm, daemons). Set PROTOMER_SLURM_TEST=1 where it may be thrown away." >&2
  exit 2
fi
if [ "$(id -u)" != 0 ]; then
  echo "test_slurm.sh must be root: found $(id -un). It installs packages and starts daemons." >&2
  exit 3
fi

CONF=/etc/slurm/slurm.conf
MARK='# written by cluster/test_slurm.sh'
WORK=/var/tmp/protomer-test-slurm
PACKAGES=(slurmctld slurmd slurm-client munge libpmix2 slurm-wlm-basic-plugins)
NODES=(n1 n2)

install_packages() {
  if command -v slurmctld slurmd srun munged >/dev/null; then return; fi
  command -v apt-get >/dev/null || { echo "test_slurm.sh needs apt-get (Debian, Ubuntu) or an installed SLURM" >&2; exit 3; }
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}" >/dev/null; }; then
    echo "apt-get could not install ${PACKAGES[*]}" >&2
    exit 3
  fi
}

write_configuration() {
  if [ -e "$CONF" ] && ! grep -qF "$MARK" "$CONF"; then
    echo "$CONF belongs to another SLURM: this machine is no throwaway" >&2
    exit 2
  fi
  mkdir -p /etc/slurm "$WORK/state" "$WORK/log"
  local host
  host=$(hostname -s)
  # config_overrides: nodes may claim more CPUs than there are. StateSaveLocation is new at every start: no job of an earlier one comes back.
  cat >"$CONF" <<EOT
$MARK
ClusterName=protomer-test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
CryptoType=crypto/munge
SlurmctldPidFile=$WORK/slurmctld.pid
SlurmdPidFile=$WORK/slurmd-%n.pid
SlurmdSpoolDir=$WORK/spool-%n
StateSaveLocation=$WORK/state
SlurmctldLogFile=$WORK/log/slurmctld.log
SlurmdLogFile=$WORK/log/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
MpiDefault=pmi2
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
MinJobAge=300
KillWait=10
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=100000
SchedulerTimeSlice=5
EOT
  local number=0 node
  for node in "${NODES[@]}"; do
    echo "NodeName=$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((17000 + number)) CPUs=4 RealMemory=20000 Gres=gpu:2 State=UNKNOWN"
    number=$((number + 1))
  done >>"$CONF"
  local all
  all=$(IFS=,; echo "${NODES[*]}")
  cat >>"$CONF" <<EOT
PartitionName=main Nodes=$all Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=$all MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOT
  printf '%s\nName=gpu File=/dev/null\nName=gpu File=/dev/zero\n' "$MARK" >/etc/slurm/gres.conf
}

start_munge() {
  mkdir -p /run/munge /var/log/munge /var/lib/munge /etc/munge
  [ -s /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none
  chmod 400 /etc/munge/munge.key
  chmod 755 /run/munge
  chown -R munge:munge /run/munge /var/log/munge /var/lib/munge /etc/munge
  munge -n >/dev/null 2>&1 || runuser -u munge -- /usr/sbin/munged --force
}

start() {
  install_packages
  if scontrol ping >/dev/null 2>&1 && are_idle; then return; fi
  stop_daemons
  rm -rf "$WORK"
  write_configuration
  start_munge
  slurmctld
  local node
  for node in "${NODES[@]}"; do slurmd -N "$node"; done
  for _ in $(seq 400); do
    if are_idle; then sinfo; return; fi
    sleep 0.3
  done
  echo "the nodes did not become idle within 120 s; see $WORK/log" >&2
  sinfo >&2 || true
  exit 1
}

are_idle() { [ "$(sinfo -h -p main -t idle,mixed,alloc -o %D 2>/dev/null | awk '{n += $1} END {print n + 0}')" = "${#NODES[@]}" ]; }

stop_daemons() {
  local file
  for file in "$WORK"/slurmd-*.pid "$WORK/slurmctld.pid"; do
    if [ -s "$file" ]; then end_process "$(cat "$file")"; fi
  done
}

end_process() {
  kill "$1" 2>/dev/null || return 0
  for _ in $(seq 50); do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -9 "$1" 2>/dev/null || true
}

stop() {
  if scontrol ping >/dev/null 2>&1; then
    squeue -h -o %A | xargs -r scancel
    for _ in $(seq 60); do
      [ -z "$(squeue -h)" ] && break
      sleep 0.5
    done
  fi
  stop_daemons
  if [ -s /run/munge/munged.pid ]; then end_process "$(cat /run/munge/munged.pid)"; fi
  if [ -e "$CONF" ] && grep -qF "$MARK" "$CONF"; then rm -f "$CONF" /etc/slurm/gres.conf; fi
  rm -rf "$WORK"
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  status) sinfo && squeue ;;
  *)
    echo "usage: PROTOMER_SLURM_TEST=1 bash $0 start|stop|status" >&2
    exit 2
    ;;
esac
