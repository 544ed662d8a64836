#!/bin/bash
# A SLURM cluster of one node on this machine, for tests:
#
#     scripts/slurm_here.sh install          Debian's packages, as root, unless they are there
#     scripts/slurm_here.sh start FOLDER     then: export SLURM_CONF=FOLDER/slurm.conf; sinfo; sbatch ...
#     scripts/slurm_here.sh stop FOLDER      cancels all jobs and ends the daemons; their logs stay in FOLDER
#
# Configuration, key, state, sockets and logs are in FOLDER (short: the path of a socket has at most 107 characters), ports are free ones; /etc stays
# as it is. No accounting and no cgroups: limits of memory are not enforced. Tried as root with SLURM 22.05 on Debian 12.
set -euo pipefail

programs="munged slurmctld slurmd sbatch"
packages="munge slurm-client slurmctld slurmd"

missing() {
    for program in $programs; do command -v "$program" >/dev/null || echo "$program"; done
}

install() {
    [ -z "$(missing)" ] && return
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        echo "SLURM is not here ($(missing | xargs)): install it, on Debian as root with: apt-get install $packages" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get install --yes --quiet --no-install-recommends $packages || # the list of packages may be old
        { apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends $packages; }
}

free_port() { # begins at a number, so that two calls give two ports
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}

configure() {
    local folder=$1 node user control
    node=$(hostname -s) user=$(id -un) control=$(free_port $((20000 + RANDOM % 10000)))
    cat >"$folder/slurm.conf" <<END
ClusterName=here
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$control
SlurmdPort=$(free_port $((control + 1)))
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# A job that is queued again waits for cred_expire seconds; what is less than 5 counts as the default, 120.
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# Four processors whatever the machine has, so that four tasks run at once.
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
ReturnToService=2
KillWait=10
NodeName=$node NodeAddr=127.0.0.1 CPUs=4
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE
END
}

start() {
    local folder=$1
    mkdir -p "$folder/state" "$folder/spool"
    configure "$folder"
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
    # --force: a folder above the socket may be closed to other users.
    munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --seed-file="$folder/munge.seed" \
        --log-file="$folder/munged.log" --pid-file="$folder/munged.pid"
    slurmctld -c
    slurmd -N "$(hostname -s)"
    for _ in $(seq 100); do
        [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ] && return
        sleep 0.2
    done
    echo "the node is not idle after 20 s:" >&2
    tail -n 20 "$folder/munged.log" "$folder/slurmctld.log" "$folder/slurmd.log" >&2 || true
    stop "$folder"
    exit 1
}

end() { # the daemon of a pid file: SIGTERM, and SIGKILL 10 s later
    local number
    number=$(cat "$1" 2>/dev/null) || return 0
    kill -TERM "$number" 2>/dev/null || return 0
    for _ in $(seq 100); do
        kill -0 "$number" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$number" 2>/dev/null || true
}

stop() {
    local folder=$1
    scancel --quiet --user="$(id -un)" 2>/dev/null || true
    for _ in $(seq 150); do
        [ -z "$(squeue --noheader 2>/dev/null)" ] && break
        sleep 0.1
    done
    for daemon in slurmd slurmctld munged; do end "$folder/$daemon.pid"; done
}

case "${1:-} $#" in
    "install 1") install ;;
    "start 2" | "stop 2")
        if [ -n "$(missing)" ]; then
            echo "SLURM is not here ($(missing | xargs)): scripts/slurm_here.sh install" >&2
            exit 1
        fi
        mkdir -p "$2"
        folder=$(cd "$2" && pwd)
        export SLURM_CONF=$folder/slurm.conf
        "$1" "$folder"
        ;;
    *)
        sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
        exit 1
        ;;
esac
