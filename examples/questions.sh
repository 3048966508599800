# What a process can find out about where it is; examples/tour.py asks the host and the container. POSIX sh, no root.

limit() { # FILE-IN-V1-CONTROLLER CONTROLLER FILE-IN-V2
    # In the container the cgroup namespace makes its own cgroup the root of what is mounted.
    path=$(sed -n "s/^[0-9]*:\([^:]*,\)*$2\(,[^:]*\)*:\(.*\)/\3/p" /proc/self/cgroup | head -n 1)
    for file in "/sys/fs/cgroup/$2$path/$1" "/sys/fs/cgroup/$2/$1" "/sys/fs/cgroup/$3"; do
        [ -r "$file" ] && { cat "$file"; return; }
    done
    echo none
}

echo "hostname: $(hostname)"
echo "pid 1: $(tr '\0' ' ' </proc/1/cmdline)"
echo "processes: $(ls /proc | grep -c '^[0-9]')"
echo "user: $(id)"
echo "capabilities: $(sed -n 's/^CapEff:\t*//p' /proc/self/status)"
echo "capability bound: $(sed -n 's/^CapBnd:\t*//p' /proc/self/status)"
echo "no new privileges: $(sed -n 's/^NoNewPrivs:\t*//p' /proc/self/status)"
echo "root: $(sed -n 's/^[^ ]* [^ ]* [^ ]* \([^ ]*\) \/ \([^ ]*\) .*- .*/\1 (\2)/p' /proc/self/mountinfo | head -n 1)"
echo "mounts: $(grep -c . /proc/self/mountinfo)"
echo "network devices: $(sed -n 's/^ *\([^: ]*\):.*/\1/p' /proc/net/dev | tr '\n' ' ') in $(readlink /proc/self/ns/net)"
echo "pid namespace: $(readlink /proc/self/ns/pid)"
echo "mount namespace: $(readlink /proc/self/ns/mnt)"
echo "ipc namespace: $(readlink /proc/self/ns/ipc)"
echo "memory limit: $(limit memory.limit_in_bytes memory memory.max)"
echo "process limit: $(limit pids.max pids pids.max)"
echo "cpu quota: $(limit cpu.cfs_quota_us cpu cpu.max)"
echo "devices: $(ls /dev | tr '\n' ' ')"
