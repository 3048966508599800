# Root's part of one run, in the guest: brings the tree, starts the command, and sends back what it said and made.
#
# The host has written beside this file: `settings`, shell variables, and `command`, what to run. Everything leaves by serial
# lines: out and err are the command's, `status` says "booted" and "exit STATUS BYTES", `back` is a tar file of that many bytes.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
. /run/guest/host/settings
# where the kernel numbers the lines, they are given as patterns
cd /dev && out=$(echo $out) err=$(echo $err) status=$(echo $status) back=$(echo $back) && cd /

tell() {
    (echo "$*" >/dev/$status) # in a subshell: a terminal that is opened would become ours
}

drain() { # until all that was written has left
    case $1 in tty*) stty -F /dev/$1 raw -echo ;; esac
}

for line in $out $err $status $back; do drain $line; done
tell booted

# The tree at its own path, under a layer: what is written here, the host never sees.
layer=/var/lib/guest
mkdir -p $layer/upper $layer/work "$tree"
/usr/local/lib/guest/mount "$source" /run/guest/tree
chown --reference=/run/guest/tree $layer/upper
chmod --reference=/run/guest/tree $layer/upper
mount -t overlay -o "lowerdir=/run/guest/tree,upperdir=$layer/upper,workdir=$layer/work" overlay "$tree"
# what the command puts here, the host gets
mkdir -m 1777 /run/guest/back

command="/bin/sh /run/guest/host/command"
if [ "$user" != root ]; then
    # A service of the user's manager, as after a log-in: with a session bus, a runtime directory and controllers of its own.
    systemctl start "user@$(id -u "$user").service"
    command="systemd-run --user --machine=$user@.host --quiet --pipe --wait --collect -p Delegate=yes -p TasksMax=infinity $command"
fi
if [ -n "$terminal" ]; then
    stty -F /dev/$terminal sane rows "$rows" cols "$columns"
    setsid -c -w $command </dev/$terminal >/dev/$terminal 2>&1
    code=$?
else
    # The command has pipes and not the lines themselves, which are terminals.
    mkfifo -m 666 /run/guest/out /run/guest/err
    cat /run/guest/out >/dev/$out & copies=$!
    cat /run/guest/err >/dev/$err & copies="$copies $!"
    $command </dev/null >/run/guest/out 2>/run/guest/err
    code=$?
    # What it left running may hold the pipes: their end is not awaited for long.
    for turn in 1 2 3 4 5 6 7 8 9 10; do
        kill -0 $copies 2>/dev/null || break
        sleep 0.05
    done
    drain $out
    drain $err
fi
tar -C /run/guest/back -cf /run/guest/back.tar .
cat /run/guest/back.tar >/dev/$back
drain $back
tell exit $code $(stat -c %s /run/guest/back.tar)
drain $status
