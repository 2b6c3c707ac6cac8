#!/bin/sh
# Process 1 of a fetched Linux guest: load the modules, then a shell on the console, for ever.
export HOME=/root TERM=vt102
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
while read -r module; do
	insmod "/lib/modules/$module"
done </lib/modules/order
hostname guest
ip link set lo up
# From here on the console is the shell's: only errors of the kernel's may get between; dmesg has the rest.
dmesg -n 4
cd /root
echo
echo "Linux $(uname -r) is up. 'poweroff -f' ends it."
while :; do
	# cttyhack finds the terminal behind /dev/console, so that the shell has job control and ^C.
	setsid cttyhack sh
done
