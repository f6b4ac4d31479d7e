# SPDX-License-Identifier: GPL-2.0-only
# Makes of the units those for systemd 219 (el7): without what it lacks, which it would ignore with a
# warning, and with what it calls otherwise. Their comments are about what may be gone, so they go.
/^# SPDX/!{
/^#/d
}
/^# SPDX/a\
# For systemd 219. Why each line is there is said in init/systemd of the sources.
# [Unit] has it since 230; before, [Service] had it.
/^StartLimitIntervalSec=/{
s/Sec//
h
d
}
/^\[Service\]/{
x
/./{
x
G
b
}
x
}
# Since 229. A time that cannot be read would be 90 s, and then SIGKILL.
s/^TimeoutStopSec=infinity/TimeoutStopSec=0/
# Before 234 the store refuses what cannot be polled, as a watchdog (systemd#6160): a restart disarms.
/^FileDescriptorStoreMax=/d
# 235
/^StateDirectory/d
/^LockPersonality=/d
# 232
/^ProtectKernel/d
/^ProtectControlGroups=/d
# 231, and its groups of system calls
/^RestrictRealtime=/d
/^SystemCallFilter=/d
/^SystemCallErrorNumber=/d
/^MemoryDenyWriteExecute=/d
# 233
/^RestrictNamespaces=/d
# It would go with each instance that ends: xenwarden.tmpfiles has it there.
/^RuntimeDirectory/d
# 231, 232
/^MemoryDenyWriteExecute=/d
/^ProtectControlGroups=/d
