#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The first process of a guest of QEMU: tells by each of its virtio-serial ports, once a second, that it lives.

export PATH=/usr/sbin:/usr/bin
/usr/bin/busybox --install -s /usr/bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*.ko; do
    insmod "$module" || echo "virtio-init: cannot load $module"
done

# Without udev there is no /dev/virtio-ports/NAME. A port comes a moment after its driver.
for name in socket terminal; do
    tries=0
    until port=$(grep -lx "$name" /sys/class/virtio-ports/*/name 2>/dev/null) || [ $tries -ge 600 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    port=/dev/$(basename "$(dirname "$port")")
    # Who writes waits while nobody listens: each port for itself.
    while sleep 1; do echo WATCHDOG=1; done > "$port" &
done
echo "virtio-init: up"
wait
