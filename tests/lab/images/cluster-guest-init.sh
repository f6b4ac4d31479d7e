#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The first process of a cluster's guest: arms its watchdog and feeds it, answers pings, and counts on its disk: each number is a block of
# its own with the boot that wrote it, and is said once the disk has it.

export PATH=/usr/sbin:/usr/bin HOME=/
/usr/bin/busybox --install -s /usr/bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
echo 1 > /proc/sys/kernel/printk
echo 1 > /proc/sys/kernel/panic_on_oops

for module in /modules/*.ko; do
    case $module in
    *xen_wdt.ko) insmod "$module" timeout=10 ;;
    *) insmod "$module" ;;
    esac
done
mount -t xenfs xenfs /proc/xen
watchdog -T 10 -t 1 /dev/watchdog
echo "guest: feeds"

tries=0
until [ -b /dev/xvda ] || [ $tries -ge 100 ]; do sleep 0.1; tries=$((tries + 1)); done
ip link set eth0 up
ip addr add 192.0.2.10/24 dev eth0

boot=$(cut -c 1-8 /proc/sys/kernel/random/boot_id)
last=$(tr -d '\0' < /dev/xvda | tail -n 1)
number=$((${last%% *} + 0))
echo "guest: boot $boot goes on after $number"
while true; do
    number=$((number + 1))
    # conv=fsync: the host, and the other one, have it when dd ends.
    if echo "$number $boot" | dd of=/dev/xvda bs=512 seek=$((number - 1)) count=1 conv=notrunc,fsync 2> /dev/null; then
        echo "guest: has $number"
    else
        echo "guest: lost $number"
    fi
    sleep 0.3
done
