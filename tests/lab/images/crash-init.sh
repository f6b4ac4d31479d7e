#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The crash kernel's first process: keeps what the dead host's memory tells of it, says so, and lives on until it is reset.

export PATH=/usr/bin HOME=/
/usr/bin/busybox --install -s /usr/bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
# Its lines would come into the middle of ours.
echo 1 > /proc/sys/kernel/printk
for module in /modules/*.ko; do
    insmod "$module" || echo "crash-init: cannot load $module"
done

say() {
    echo "crash-init: $1 $(cut -d ' ' -f 1 /proc/uptime)"
}
say "came up at"

# dom0 has it as /var/crash.
tries=0
until [ -b /dev/sda ] || [ $tries -ge 100 ]; do sleep 0.1; tries=$((tries + 1)); done
mount -t ext4 /dev/sda /tmp || echo "crash-init: no disk"
dump=/tmp/crash/$(date +%Y%m%d%H%M%S)
mkdir -p "$dump"
# The notes come right behind the headers.
head -c 65536 /proc/vmcore > "$dump/vmcore-notes"
umount /tmp

names=$(head -c 65536 /proc/vmcore | strings -n 3 | grep -Ex 'CORE|Xen|VMCOREINFO_XEN' | sort | uniq -c)
say "notes: $(echo $names), of a vmcore of $(stat -c %s /proc/vmcore) bytes, at"
while true; do
    sleep 1
    say "lives at"
done
