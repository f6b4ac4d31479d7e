#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# A guest's first process: arms its watchdog, feeds it, and takes commands on its console.
# On the kernel's command line: watchdog=SECONDS (0: none), feeder=no to arm and never feed. A file /broken makes it a guest that
# comes up, but not so far that it arms its watchdog.

export PATH=/usr/sbin:/usr/bin HOME=/
/usr/bin/busybox --install -s /usr/bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
echo 1 > /proc/sys/kernel/printk
echo 1 > /proc/sys/kernel/sysrq
echo 1 > /proc/sys/kernel/panic_on_oops

watchdog=10 feeder=yes
for word in $(cat /proc/cmdline); do
    case $word in
    watchdog=* | feeder=*) eval "$word" ;;
    esac
done

[ ! -e /broken ] || watchdog=0

for module in /modules/*.ko; do
    case $module in
    *xen_wdt.ko) [ "$watchdog" = 0 ] || insmod "$module" timeout="$watchdog" ;;
    *) insmod "$module" ;;
    esac
done
mount -t xenfs xenfs /proc/xen

if [ "$watchdog" != 0 ]; then
    if [ "$feeder" = yes ]; then
        watchdog -T "$watchdog" -t 1 /dev/watchdog
    else
        # Opening arms it; nothing ever feeds it again.
        sleep 1000000 > /dev/watchdog &
    fi
fi

echo "guest: up"
while true; do
    cttyhack sh
done
