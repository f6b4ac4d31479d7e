#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# dom0's first process: brings up Xen's tools, then serves the laboratory's commands for ever.

export PATH=/usr/sbin:/usr/bin HOME=/
/usr/bin/busybox --install -s /usr/bin
for tools in /usr/lib/xen-*/bin; do PATH=$PATH:$tools; done

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t pstore pstore /sys/fs/pstore
mount -t tmpfs -o size=16m tmpfs /var
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/xen /var/lib/xen /var/lib/xenstored /var/log/xen/console
ln -s /run /var/run
ln -s /run/lock /var/lock

# Arm's board has cards in place of a PC's ports; the sound card has no driver that enables it (see machine/definition.rs).
agent=/dev/ttyS1
if [ "$(uname -m)" = aarch64 ]; then
    cards=/sys/bus/pci/devices/0000:00
    echo 1 > $cards:13.0/enable
    agent=/dev/$(ls $cards:10.0/tty)
fi

# Which host watchdog this machine has.
watchdog=$(sed -n 's/.*lab\.watchdog=\([^ ]*\).*/\1/p' /proc/cmdline)
for module in /modules/*.ko /watchdog/"$watchdog"/*.ko; do
    insmod "$module" || echo "dom0-init: cannot load $module"
done
mount -t xenfs xenfs /proc/xen

# What the guard keeps over a reset of the host.
mkdir -p /var/lib/xenwarden
tries=0
until [ -b /dev/sda ] || [ $tries -ge 100 ]; do sleep 0.1; tries=$((tries + 1)); done
# Which of two disks is sda is not said.
until mount -t ext4 /dev/sda /var/lib/xenwarden || mount -t ext4 /dev/sdb /var/lib/xenwarden || [ $tries -ge 100 ]; do sleep 0.1; tries=$((tries + 1)); done
mountpoint -q /var/lib/xenwarden || echo "dom0-init: no state disk"
ln -s /var/lib/xenwarden/crash /var/crash

# From here on a log line costs a slow serial port nothing.
echo 1 > /proc/sys/kernel/printk
hostname host-a
syslogd -O /var/log/messages

chrt -f 98 dom0-pulse &

xenstored --pid-file /run/xenstored.pid
xen-init-dom0
xenconsoled --log=all --pid-file=/run/xenconsoled.pid

stty -F "$agent" 115200 raw -echo
while true; do
    dom0-agent "$agent"
    echo "dom0-init: the agent ended with $?"
    sleep 1
done
