# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh disable=SC2034 # they are for who reads this
# What the scripts for SysV and OpenRC share.
#
# In: NAME of the script, and what the files below set of these variables. The script defines `ready`,
# whether its program does what it is for, and `stopped`, run once it has ended. Out: functions, whose
# exit codes are those of LSB 5.0. None of them ever sends SIGKILL: a guard that is killed leaves the
# host watchdog armed. A script with instances sets INSTANCES, the directory of their configurations.

umask 022
GUARD=/usr/sbin/xenwardend
MONITOR=/usr/sbin/xenwarden-monitor
CLI=/usr/bin/xenwarden
PULSE=/usr/sbin/xenwarden-pulse
QEMU=/usr/sbin/xenwarden-qemu
CONFIG=/etc/xenwarden/xenwarden.conf
# Who watches heartbeats; a packager makes this user, with a group of the same name. None: who runs the script.
PULSE_USER=xenwarden-pulse
# Seconds until a program must be ready, and must have ended after it was told to.
START_S=30
STOP_S=30
# Where pids are kept, and what the guard says at its start and its end.
RUN=/run
# What is there on Xen only.
XEN=/sys/hypervisor/type
# That of Debian, of Red Hat, and of OpenRC.
for defaults in /etc/default/xenwarden /etc/sysconfig/xenwarden /etc/conf.d/xenwarden; do
    # shellcheck source=/dev/null
    if [ -r "$defaults" ]; then . "$defaults"; fi
done

# All but the guard tell syslog by themselves, for as long as they run.
LOG=/dev/null
INSTANCES=
case $NAME in
xenwardend) PROGRAM=$GUARD LOG=$RUN/$NAME.log ;;
xenwarden-pulse) PROGRAM=$PULSE INSTANCES=/etc/xenwarden/pulse ;;
xenwarden-qemu) PROGRAM=$QEMU INSTANCES=/etc/xenwarden/qemu ;;
*) PROGRAM=$MONITOR ;;
esac
SERVICE=$NAME
# What is in the command line of the program that the pid file names.
MARK=$NAME
# As whom it runs.
RUNS_AS=
PIDFILE=$RUN/$NAME.pid
# As Red Hat's rc has it: what has no file here is not stopped.
SUBSYS=/var/lock/subsys

# A place that anybody may make is none to write to: links in it lead anywhere.
has_subsys() {
    [ -d "$SUBSYS" ] && [ ! -L "$SUBSYS" ] && [ -O "$SUBSYS" ]
}

say() {
    echo "$SERVICE: $*"
}

# Makes what follows be about the instance $1 of the script.
become() {
    SERVICE=$NAME.$1
    CONFIG=$INSTANCES/$1.conf
    MARK=$CONFIG
    PIDFILE=$RUN/$SERVICE.pid
    SOCKET=$RUN/$NAME/$1.sock
    if [ "$NAME" = xenwarden-pulse ]; then RUNS_AS=$PULSE_USER; fi
}

# What an instance finds when it starts: a right configuration, its directories, and no socket of a run before.
prepare() {
    if [ "$NAME" = xenwarden-qemu ]; then bounded_traces; fi
    mkdir -p "$RUN/$NAME" || return 1
    if [ -n "$RUNS_AS" ]; then chown "$RUNS_AS:" "$RUN/$NAME" || return 1; fi
    rm -f "$SOCKET"
    "$PROGRAM" --check-config --config "$CONFIG" >/dev/null || return 6
}

# What QEMUs write there while an alarm is open has a bound. Where it cannot be mounted no trace is written.
bounded_traces() {
    traces=$RUN/xenwarden_qemu_trace
    if grep -qs " $traces " /proc/mounts; then return; fi
    mkdir -p "$traces"
    mount -t tmpfs -o size=32m,mode=0711,nosuid,nodev,noexec tmpfs "$traces" || say "no file system for traces"
}

# An instance has opened all that it serves. One that is told of another socket is believed.
listens() {
    [ -S "$SOCKET" ] || grep -q '^\[control\]' "$CONFIG"
}

# Tries a command each second until it succeeds, $1 times at most.
within() {
    tries=$1
    shift
    while [ "$tries" -gt 0 ]; do
        sleep 1
        if "$@"; then return 0; fi
        tries=$((tries - 1))
    done
    return 1
}

# It runs, as the process that the pid file names. A zombie has no command line; a process that is
# about to become the program has this script's.
runs() {
    pid=
    if [ -r "$PIDFILE" ]; then read -r pid <"$PIDFILE" || :; fi
    [ -n "$pid" ] && grep -qF -- "$MARK" "/proc/$pid/cmdline" 2>/dev/null
}

ended() {
    ! runs
}

ended_or_ready() {
    ended || ready
}

forget() {
    rm -f "$PIDFILE"
    if has_subsys; then rm -f "$SUBSYS/$SERVICE"; fi
}

# In a session of its own, so that no terminal's ^C reaches it. Whatever changes the user becomes the program: runuser(1) would
# stay as its parent.
launch() {
    set -- "$PROGRAM" --config "$CONFIG"
    if [ -z "$RUNS_AS" ]; then
        :
    elif command -v setpriv >/dev/null; then
        set -- setpriv --reuid "$RUNS_AS" --regid "$RUNS_AS" --init-groups "$@"
    else
        set -- chroot --userspec="$RUNS_AS:$RUNS_AS" --groups="$(id -G "$RUNS_AS" | tr ' ' ,)" / "$@"
    fi
    setsid "$@" </dev/null >"$LOG" 2>&1 9>&- &
    echo $! >"$PIDFILE"
    if has_subsys; then : >"$SUBSYS/$SERVICE"; fi
}

# One start at a time: of two the loser would take the pid of the one that runs for its own.
start_it() {
    exec 9>"$RUN/$SERVICE.start" || return 1
    if command -v flock >/dev/null; then flock 9; fi
    code=0
    start_alone || code=$?
    exec 9>&-
    return "$code"
}

# Waits until it is ready. What was started here and is not in time is stopped again.
start_alone() {
    if [ ! -x "$PROGRAM" ]; then
        say "$PROGRAM is not installed"
        return 5
    fi
    if [ ! -e "$XEN" ]; then
        say "this is not Xen, nothing to do"
        return 0
    fi
    launched=
    runs || {
        if [ -n "$INSTANCES" ]; then prepare || return; fi
        launch
        launched=yes
    }
    within "$START_S" ended_or_ready || {
        say "is not ready after $START_S s"
        if [ -n "$launched" ]; then stop_it; fi
        return 1
    }
    if runs; then
        say "ready"
        return 0
    fi
    code=0
    wait "$pid" || code=$?
    if [ -f "$LOG" ]; then cat "$LOG"; fi
    say "has ended with $code"
    forget
    case $code in
    77) return 4 ;; # not allowed
    78) return 6 ;; # wrongly configured
    *) return 1 ;;
    esac
}

# init(8) tells the runlevel, OpenRC that it goes down, be it for single-user mode.
goes_down() {
    [ "${RC_GOINGDOWN-}" = YES ] || [ "${RUNLEVEL-}" = 0 ] || [ "${RUNLEVEL-}" = 6 ]
}

# What ends it. The guard leaves the host watchdog running for a shutdown that hangs, if it is told of one: not in single-user mode, and
# not for a halt, which stands still on purpose. An earlier version does not handle that signal (proc(5): SigCgt), and would be killed by it.
ending() {
    if [ "$NAME" = xenwardend ] && goes_down && [ "${RC_RUNLEVEL-shutdown}" = shutdown ] && [ "${INIT_HALT-}" != HALT ] &&
        grep -q '^SigCgt:[[:space:]]*[0-9a-f]\{8\}[2367abef]' "/proc/$pid/status" 2>/dev/null; then
        echo PWR
    else
        echo TERM
    fi
}

stop_it() {
    if ended; then
        forget
        return 0
    fi
    signal=$(ending)
    kill -"$signal" "$pid"
    within "$STOP_S" ended || {
        say "has not ended within $STOP_S s of SIG$signal: see xenwarden status. It goes on, and is not killed"
        return 1
    }
    forget
    stopped
}

status_of_it() {
    if ended; then
        say "does not run"
        if [ -e "$PIDFILE" ]; then return 1; fi
        return 3
    fi
    if ready; then
        say "runs (pid $pid)"
        return 0
    fi
    say "runs (pid $pid), but see xenwarden status"
    return 150
}

# The host watchdog is armed and kicked.
armed() {
    "$CLI" status --config "$CONFIG" >/dev/null 2>&1
}

# The monitor answers, whatever it has to say (xenwarden(1)).
answers() {
    answer=0
    "$CLI" guests --config "$CONFIG" >/dev/null 2>&1 || answer=$?
    case $answer in
    0 | 1 | 3) return 0 ;;
    *) return 1 ;;
    esac
}

# How the guard has ended: told, at a shutdown also to the next boot, as the monitor ended before it.
# Fails if the host watchdog runs on.
guard_stopped() {
    if [ -s "$LOG" ]; then tail -n 1 "$LOG"; fi
    # A sick disk holds up no shutdown.
    if goes_down; then timeout 10 "$MONITOR" --record-stop --config "$CONFIG" || :; fi
    ! grep -q 'cannot be disarmed' "$LOG"
}

# What a SysV script with instances is asked to do, of those that are named, or of each that has a configuration. What has lost its
# configuration is stopped all the same.
lsb_each() {
    action=${1-}
    if [ $# -gt 0 ]; then shift; fi
    if [ $# -eq 0 ]; then
        for file in "$INSTANCES"/*.conf "$RUN/$NAME".*.pid; do
            one=${file##*/}
            one=${one#"$NAME".}
            one=${one%.conf}
            one=${one%.pid}
            case " $* " in *" $one "*) continue ;; esac
            if [ -e "$file" ]; then set -- "$@" "$one"; fi
        done
    fi
    case $action in
    status) if [ $# -eq 0 ]; then return 3; fi ;;
    start | stop | restart | force-reload | try-restart | condrestart) ;;
    # What is no instance's to answer.
    *)
        lsb "$action"
        return
        ;;
    esac
    worst=0
    for one; do
        (become "$one" && lsb "$action") || worst=$?
    done
    return "$worst"
}

# What a SysV script is asked to do.
lsb() {
    cd / || return 1
    case $1 in
    start) start_it ;;
    stop) stop_it ;;
    status) status_of_it ;;
    restart | force-reload) stop_it && start_it ;;
    try-restart | condrestart) if runs; then stop_it && start_it; fi ;;
    reload)
        say "takes a new configuration with a restart only"
        return 3
        ;;
    *)
        echo "usage: $NAME start|stop|status|restart|try-restart|force-reload"
        return 2
        ;;
    esac
}
