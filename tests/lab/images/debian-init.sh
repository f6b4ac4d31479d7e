#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# dom0's first process where it is a Debian on a disk: finds that, and hands over to its systemd. What the laboratory needs in it goes to
# /run, which is gone with the next boot: programs, guests, packages, and units that run the programs.

export PATH=/usr/bin HOME=/
/usr/bin/busybox --install -s /usr/bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
# A log line would cost a slow serial port.
echo 1 > /proc/sys/kernel/printk
for module in /modules/*.ko; do
    insmod "$module" || echo "debian-init: cannot load $module"
done
tries=0
until [ -b /dev/sda ] || [ $tries -ge 100 ]; do sleep 0.1; tries=$((tries + 1)); done
mkdir /disk
mount -t ext4 /dev/sda /disk || echo "debian-init: no disk"

mount -t tmpfs -o mode=755,nosuid,nodev,size=200m tmpfs /run
mv /lab /run/lab
chmod 644 /run/lab/units/*
mkdir -p /run/systemd/system/sysinit.target.wants
for unit in /run/lab/units/*; do
    ln -s "$unit" /run/systemd/system/
    ln -s "$unit" /run/systemd/system/sysinit.target.wants/
done

for folder in proc sys dev run; do mount --move /$folder /disk/$folder; done
exec switch_root /disk /sbin/init
