#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# A cluster's host, step by step: `cluster up NAME`, `ring`, `disk`, `warden`, `pacemaker`; `cluster format` at first. There is no init system in these images; what
# is done here is what its units, and the packages' scripts, do on an installed host.

export PATH=/usr/sbin:/usr/bin
LOG=/run/lab.log

# A program that is left to itself.
leave() { (setsid "$@" < /dev/null > /dev/null 2>&1 &); }

up() {
    case $1 in alpha) number=1 ;; *) number=2 ;; esac
    hostname "$1"
    for module in /cluster/modules/*.ko; do
        insmod "$module"
    done
    # Where udev is, these are there; the scripts of Xen's disks wait for ever without.
    ln -s /proc/self/fd /dev/fd
    ln -s /proc/self/fd/0 /dev/stdin
    mkdir -p /dev/shm /var/lib/pacemaker /var/log/pacemaker /var/lib/corosync /var/lib/drbd /run/crm /run/drbd \
        /run/resource-agents /run/lock/subsys /run/xenwarden-pool /var/lib/xenwarden-pool /run/xen-hotplug /run/corosync-qdevice
    mount -o remount,size=64m /var
    # These outlive a boot.
    for folder in pacemaker xenwarden-pool; do
        mkdir -p /var/lib/xenwarden/of-$folder
        mount --bind /var/lib/xenwarden/of-$folder /var/lib/$folder
    done
    mount -t tmpfs -o size=300m tmpfs /dev/shm
    for folder in cib pengine blackbox cores; do mkdir -p /var/lib/pacemaker/$folder; done
    chown -R hacluster:haclient /var/lib/pacemaker /var/log/pacemaker /run/crm
    chown xenwarden-pool:xenwarden-pool /run/xenwarden-pool /var/lib/xenwarden-pool
    chmod 750 /var/lib/xenwarden-pool
    chmod 400 /etc/corosync/authkey
    echo "0000000000000000000000000000000$number" > /etc/machine-id
    # The volume that DRBD has, and a third vote without certificates.
    mkdir /dev/vg0
    # The disk that is not the host's own, whatever its name.
    case $(mount) in */dev/sda*) ln -s /dev/sdb /dev/vg0/web ;; *) ln -s /dev/sda /dev/vg0/web ;; esac
    sed -i 's/tls: on/tls: off/' /etc/corosync/corosync.conf

    # Each line that anybody says goes out through the debug port, when it is said.
    mkfifo $LOG
    (setsid sh -c "exec chrt -f 97 dom0-tee <> $LOG" > /dev/null 2>&1 &)
    killall syslogd
    syslogd -O $LOG

    ip link set lo up
    brctl addbr br0
    brctl setfd br0 0
    ip link set eth0 up
    ip link set eth1 up
    brctl addif br0 eth0
    ip link set br0 up
    ip addr add 192.0.2.$number/24 dev br0
    ip addr add 198.51.100.1$number/24 dev eth1
    # xenconsoled goes by the name that a guest has at first.
    for name in web web--incoming; do
        touch /var/log/xen/console/guest-$name.log
        leave bash -c "while :; do while IFS= read -r line; do echo \"web: \$line\"; done; sleep 0.2; done < /var/log/xen/console/guest-$name.log > $LOG"
    done
    leave socat TCP-LISTEN:9000,fork,reuseaddr EXEC:"xl migrate-receive"
}

ring() {
    leave corosync -f
    until corosync-cmapctl runtime.members > /dev/null 2>&1; do sleep 0.5; done
    leave corosync-qdevice -f
}

# Both disks are all zeros: they are said to be the same, on one host, once both are connected.
format() { drbdadm create-md --force r0; }

disk() { leave sh -c "drbdadm up r0 > $LOG 2>&1"; }

# By its path: busybox's shell would take busybox's own setpriv.
warden() {
    for program in xenwardend xenwarden-monitor; do
        leave sh -c "$program > $LOG 2>&1"
    done
    leave sh -c "until [ -e /run/xenwarden/events.sock ]; do sleep 0.2; done; while :; do /usr/sbin/setpriv --reuid xenwarden-pool --regid xenwarden-pool --groups xenwarden --no-new-privs xenwarden-pool > $LOG 2>&1; sleep 1; done"
}

pacemaker() { leave pacemakerd -f; }

"$@"
