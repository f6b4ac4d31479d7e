# SPDX-License-Identifier: GPL-2.0-only
# make demo   a real Xen host, a real guest, a wedge, and the hardware that pulls it down
# make test   all tests: the units here, the scenarios on nested Xen
# make help   the rest

CARGO ?= cargo
LAB = $(CARGO) run --quiet --release -p xenwarden-lab --bin lab --
N ?= 150
SEED ?=
JOBS ?=
RUNS ?= 1
SAMPLES ?= 200
# One of those that make bench compares; none: all.
DAEMON ?=
SECONDS ?= 60
WEDGE ?= timer-lost-2
# The series of the laboratory's Xen; none: the usual one.
XEN ?=
export XENWARDEN_LAB_XEN_SERIES = $(XEN)
# The laboratory's processors, as Debian calls them: amd64 or arm64; none: amd64.
ARCH ?=
export XENWARDEN_LAB_ARCH = $(ARCH)

.PHONY: help build cross cross-tools programs prerequisites lab demo test test-all unit simulation scenarios series qemu-test colo cluster pool pool-size portable-test soak soak-report cost bench bench-false-resets bench-report bench-look growth mutants fuzz lint install alerts oldest-compiler \
    install-files install-init install-systemd install-systemd-219 install-sysv install-openrc clean

help:
	@echo 'make demo [WEDGE=KIND]  show a wedge on nested Xen; WEDGE=list names the kinds'
	@echo 'make test               unit tests, then scenarios on nested Xen'
	@echo 'make test-all           all that takes long: simulation, packages, QEMU, every scenario at three phases, soak, broken variants,'
	@echo '                        the cost of the patches, mutants, fuzz for ten minutes'
	@echo 'make test-all XEN=4.20  the wedges on another Xen, with the kernel and tools of its Debian release'
	@echo 'make test-all ARCH=arm64  the wedges that can be injected on Arm, with cross-built programs and Xen'
	@echo 'make unit               unit tests alone (seconds)'
	@echo 'make simulation         the guard over 12 million schedules of a simulated host, orders to fence over 2 million of a pool (minutes)'
	@echo 'make scenarios          scenarios alone'
	@echo 'make series             apply each series of Xen patches to its tree; XEN_GIT=FOLDER and XCPNG_GIT=FOLDER name clones'
	@echo '                        of the repositories of Xen and of XCP-ng'"'"'s package of it, else only the one for Debian 12'
	@echo 'make colo               heartbeats between two QEMUs in COLO: one is lost, or one direction between them (a minute)'
	@echo 'make cluster            two nested Xen hosts with Pacemaker and DRBD: one dies, the guest runs on the other, moves, fences (an hour)'
	@echo 'make pool               three corosyncs on this machine, partitioned and killed, with a xenwarden-pool each (minutes; root)'
	@echo 'make pool-size          what a pool of 64 hosts and 10,000 guests costs'
	@echo 'make qemu-test          build Debian 12'"'"'s and 13'"'"'s QEMU as it is and with the patches for it, and run our tests of it and its own of'
	@echo '                        watchdogs (minutes)'
	@echo 'make soak [N=150]       every row that ends with a reset and every wedge, at even phases, until there are N runs in all; ended at any'
	@echo '                        moment it goes on where it was (N=10000: hours). SEED=NUMBER chooses the order, JOBS=NUMBER how many run at a time'
	@echo 'make soak-report        what the soak says so far: min, median, p99, max against the bound, and what is out of the common'
	@echo 'make cost               what the patches cost guests, by instruction count on nested Xen'
	@echo 'make bench [RUNS=1]     ours against sbd, watchdog(8), busybox and xenwatchdogd on nested Xen: wedges, cost, kicks, false resets in'
	@echo '                        SAMPLES=200 intervals between kicks, a busy device; into doc/bench.md (hours; goes on where it was interrupted)'
	@echo 'make bench-false-resets SAMPLES=10000 [DAEMON=xenwarden]'
	@echo '                        only these, of all daemons or of one, until there are so many under each load'
	@echo 'make bench-report       make doc/bench.md and its figures of the data again'
	@echo 'make bench-look         what a look at the table costs, in nanoseconds'
	@echo 'make growth             what it takes by guests and by pCPUs, in instructions; into doc/bench.md (minutes)'
	@echo 'make mutants            mutants of the guard, the guests and the table that no test notices (an hour)'
	@echo 'make lab                only build the laboratory: packages, Xen, images, saved state'
	@echo 'make fuzz [SECONDS=60]  fuzz the decoders of the evidence, of the frames of heartbeats, and of the pool'"'"'s messages'
	@echo 'make alerts             try the alerts for Prometheus with promtool'
	@echo 'make oldest-compiler    whether the oldest compiler that is promised builds it'
	@echo 'make lint               format, clippy, documentation, licences, shellcheck, manual pages'
	@echo 'make install DESTDIR=   programs, manual pages, schema of events, configuration, and what INIT needs:'
	@echo '                        systemd (the default), systemd-219 (el7), sysv or openrc; see init/README.md'
	@echo '                        PREFIX, SBINDIR, BINDIR, DATADIR, MANDIR, DOCDIR, SYSCONFDIR, UNITDIR, PRESETDIR, SYSUSERSDIR, TMPFILESDIR, INITDIR, ZSHDIR'
	@echo '                        say where; GRUBDIR=/etc/default/grub.d has grub give Xen its watchdog'
	@echo 'make portable           programs that run where there is glibc 2.17, as in XCP-ng, into target/portable'
	@echo 'make portable-test      the wedges on nested Xen with these programs'
	@echo 'make deb [ARCH=arm64]   Debian source and binary package, looked at by lintian, into target/deb'
	@echo 'make rpm                rpm of the portable programs for XCP-ng and XenServer (el7), into target/rpm'
	@echo 'make packages-test      install, upgrade and purge the .deb in a Debian of its own; the files of both packages'

# Installs the Debian package $(2), unless there is the program $(1).
need = command -v $(1) >/dev/null || { \
	echo 'installing $(2) (apt-get)'; \
	apt-get update -qq && apt-get install -y -qq --no-install-recommends $(2); }

# A linker and the C headers: all that building needs besides Rust.
prerequisites:
	@if ! command -v cc >/dev/null || ! test -e /usr/include/linux/watchdog.h; then \
	    echo 'installing gcc and libc6-dev (apt-get)'; \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev; \
	fi

build: prerequisites
	$(CARGO) build --release --workspace
ifeq ($(ARCH),arm64)
	$(MAKE) cross
endif

# What building for arm64 needs besides, and the programs with those of the laboratory's in dom0.
CROSS = aarch64-unknown-linux-gnu
cross-tools:
	@command -v aarch64-linux-gnu-gcc >/dev/null && test -e /usr/aarch64-linux-gnu/lib/crti.o || { \
	    echo 'installing gcc-aarch64-linux-gnu and libc6-dev-arm64-cross (apt-get)'; apt-get update -qq && \
	    apt-get install -y -qq --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross; }
	@test -e "$$(rustc --print sysroot)/lib/rustlib/$(CROSS)" || { \
	    echo 'installing the standard library for $(CROSS) (rustup)'; rustup target add $(CROSS); }

cross: prerequisites cross-tools
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	    $(CARGO) build --release --target $(CROSS) -p xenwarden -p xenwarden-lab-dom0

lab: build
	$(LAB) build

demo: build
	@$(LAB) demo $(WEDGE)

# Some of them follow guests of a QEMU.
unit: prerequisites
	@$(call need,qemu-system-x86_64,qemu-system-x86)
	$(CARGO) test -p xenwarden
	$(CARGO) test --release -p xenwarden-lab --lib --bins

simulation: prerequisites
	$(CARGO) test --release -p xenwarden --test guard_simulation --test fencing_model -- --ignored --nocapture

scenarios: lab
	$(CARGO) test --release -p xenwarden-lab --test scenarios

export XEN_GIT XCPNG_GIT
series: build
	$(LAB) series

# Fetches Debian's source of QEMU, so it is no part of `make series`.
qemu-test: prerequisites
	tests/qemu/run

colo: prerequisites
	@$(call need,qemu-system-x86_64,qemu-system-x86)
	$(CARGO) test -p xenwarden --test pulse_colo -- --ignored

# Three corosyncs on this machine, in namespaces of their own; XENWARDEN_POOL_KILLS says how often a leader is killed.
pool: prerequisites
	@$(call need,corosync,corosync)
	@$(call need,corosync-qnetd,corosync-qnetd corosync-qdevice)
	@$(call need,faketime,faketime)
	@$(call need,ip,iproute2)
	$(CARGO) test -p xenwarden --test pool_corosync --test pool_fencing --test pool_links --test pool_situations -- --ignored --test-threads 1 --nocapture

cluster: lab
	$(LAB) cluster all
	$(LAB) cluster fence- 12

# What 64 hosts and 10,000 guests cost.
pool-size: prerequisites
	$(CARGO) test --release -p xenwarden --test pool_size -- --ignored --nocapture

test: unit scenarios series colo

ifeq ($(XEN)$(ARCH:amd64=),)
test-all: unit simulation alerts lab series colo cluster pool qemu-test
	$(MAKE) packages-test
	XENWARDEN_POOL_KILLS=100 $(MAKE) pool
	XENWARDEN_LAB_PHASES=3 $(CARGO) test --release -p xenwarden-lab --test scenarios -- --include-ignored
	$(LAB) soak more $(N) $(if $(JOBS),--jobs $(JOBS))
	$(LAB) variants
	$(LAB) cost
	$(MAKE) portable-test
	$(MAKE) fuzz SECONDS=600
	$(MAKE) mutants
else
# The same programs on another Xen, or on other processors: the wedges, each at three phases.
test-all: lab
	XENWARDEN_LAB_PHASES=3 $(CARGO) test --release -p xenwarden-lab --test scenarios -- --include-ignored $(if $(ARCH:amd64=),,wedge/)
endif

# The wedges, with the programs that are meant for old dom0s.
portable-test: lab portable
	XENWARDEN_LAB_PROGRAMS=target/portable $(CARGO) test --release -p xenwarden-lab --test scenarios -- wedge/

soak: lab
	$(LAB) soak $(N) $(SEED) $(if $(JOBS),--jobs $(JOBS))

soak-report: prerequisites
	$(LAB) soak report

cost: build
	$(LAB) cost

bench: build
	failed=; for part in 'wedges $(RUNS)' 'cost $(RUNS)' 'kicks $(RUNS)' 'busy $(RUNS)' 'false-resets $(SAMPLES)'; do \
	    $(LAB) bench $$part || failed=1; done; \
	$(LAB) bench report && test -z "$$failed"

bench-false-resets: build
	$(LAB) bench false-resets $(SAMPLES) $(DAEMON)
	$(LAB) bench report

bench-report: prerequisites
	$(LAB) bench report

bench-look: prerequisites
	$(CARGO) bench -p xenwarden --bench look

growth: prerequisites
	@$(call need,valgrind,valgrind)
	$(LAB) bench growth

mutants: prerequisites
	@command -v cargo-mutants >/dev/null || { \
	    echo 'installing cargo-mutants (cargo install)'; $(CARGO) install --quiet --locked cargo-mutants; }
	tests/mutants/run

fuzz: prerequisites
	@$(call need,c++,g++)
	fuzz/run $(SECONDS)

SCRIPTS = doc/examples/cluster/fence-peer init/functions.sh init/systemd/stop-for-good init/systemd/stopping init/sysv/* init/openrc/* init/grub.d/* init/xcp-ng/* hooks/* .ci/run fuzz/run tests/mutants/run tests/qemu/run \
    $(addprefix packaging/,source vendored-licences portable deb rpm test) packaging/debian/xenwarden.p* packaging/debian/tests/installed

lint: prerequisites
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --quiet --no-deps --workspace
	$(CARGO) test --quiet -p xenwarden --test licences
	@$(call need,shellcheck,shellcheck)
	shellcheck -x $(SCRIPTS)
	@if command -v mandoc >/dev/null; then mandoc -Tlint -W warning man/*; \
	    else echo 'mandoc is not here: nobody has looked for mistakes in the manual pages'; fi
	@if man --warnings -l man/xenwarden.1 >/dev/null 2>&1; then for page in man/*; do \
	    said=$$(man --warnings -l $$page 2>&1 >/dev/null); test -z "$$said" || { echo "$$page: $$said"; exit 1; }; done; \
	    else echo 'man is not here: nobody has seen the manual pages'; fi
	@if command -v cargo-deny >/dev/null; then cargo-deny check licenses bans sources; \
	    else echo 'cargo-deny is not here: licences and sources were checked by tests/licences.rs'; fi

# The compiler of Debian 13 is the oldest that is promised. With rustup: make oldest-compiler CARGO='cargo +1.85'
oldest-compiler: prerequisites
	@$(call need,$(firstword $(CARGO)),cargo)
	$(CARGO) check --locked --workspace

# promtool comes with prometheus, of which nothing else is run.
alerts:
	@$(call need,promtool,prometheus)
	promtool check rules monitoring/alerts.yml
	promtool test rules monitoring/alerts.test.yml

# What is installed, and where: as the GNU coding standards name the directories.
PREFIX ?= /usr
SBINDIR ?= $(PREFIX)/sbin
BINDIR ?= $(PREFIX)/bin
DATADIR ?= $(PREFIX)/share
MANDIR ?= $(DATADIR)/man
DOCDIR ?= $(DATADIR)/doc/xenwarden
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
PRESETDIR ?= $(PREFIX)/lib/systemd/system-preset
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
INITDIR ?= $(SYSCONFDIR)/init.d
ZSHDIR ?= $(DATADIR)/zsh/site-functions
# None unless told: it changes how the host boots.
GRUBDIR ?=

# systemd, systemd-219, sysv or openrc.
INIT ?= systemd
UNITS = xenwardend.service xenwarden-monitor.service xenwarden-shutdown.service xenwarden-pulse@.service xenwarden-qemu@.service xenwarden-pool.service run-xenwarden_qemu_trace.mount
# What names the usual directories is made to name these.
PLACED = sed -e 's|/usr/sbin/|$(SBINDIR)/|g' -e 's|/usr/bin/|$(BINDIR)/|g' \
    -e 's|/usr/share/xenwarden/|$(DATADIR)/xenwarden/|g' -e 's|/etc/|$(SYSCONFDIR)/|g'
# Where the programs are that are installed, and where one is that runs here: it writes its completions.
BUILT ?= target/release
COMPLETER ?= $(BUILT)

# Needs what building needs, which `make prerequisites` installs on Debian; installs no package.
programs:
	$(CARGO) build --release --locked -p xenwarden $(if $(TARGET),--target $(TARGET))

install: programs
	$(MAKE) install-files

# Builds nothing.
install-files: install-init
	install -D -m 755 $(BUILT)/xenwardend $(DESTDIR)$(SBINDIR)/xenwardend
	install -D -m 755 $(BUILT)/xenwarden-monitor $(DESTDIR)$(SBINDIR)/xenwarden-monitor
	install -D -m 755 $(BUILT)/xenwarden-pulse $(DESTDIR)$(SBINDIR)/xenwarden-pulse
	install -D -m 755 $(BUILT)/xenwarden-qemu $(DESTDIR)$(SBINDIR)/xenwarden-qemu
	install -D -m 755 $(BUILT)/xenwarden-pool $(DESTDIR)$(SBINDIR)/xenwarden-pool
	install -D -m 755 $(BUILT)/fence_xenwarden $(DESTDIR)$(SBINDIR)/fence_xenwarden
	install -D -m 755 $(BUILT)/xenwarden $(DESTDIR)$(BINDIR)/xenwarden
	install -d $(DESTDIR)$(DATADIR)/bash-completion/completions $(DESTDIR)$(ZSHDIR) $(DESTDIR)$(DATADIR)/fish/vendor_completions.d
	umask 022; $(COMPLETER)/xenwarden completions bash > $(DESTDIR)$(DATADIR)/bash-completion/completions/xenwarden
	umask 022; $(COMPLETER)/xenwarden completions zsh > $(DESTDIR)$(ZSHDIR)/_xenwarden
	umask 022; $(COMPLETER)/xenwarden completions fish > $(DESTDIR)$(DATADIR)/fish/vendor_completions.d/xenwarden.fish
	test -e $(DESTDIR)$(SYSCONFDIR)/xenwarden/xenwarden.conf || \
	    install -D -m 644 init/xenwarden.conf $(DESTDIR)$(SYSCONFDIR)/xenwarden/xenwarden.conf
	for page in xenwardend xenwarden-monitor xenwarden-pulse xenwarden-qemu xenwarden-pool fence_xenwarden; do \
	    install -D -m 644 man/$$page.8 $(DESTDIR)$(MANDIR)/man8/$$page.8 || exit 1; done
	for hook in xapi-message alertmanager mail; do \
	    install -D -m 755 hooks/$$hook $(DESTDIR)$(DATADIR)/xenwarden/hooks/$$hook || exit 1; done
	install -D -m 644 man/xenwarden.1 $(DESTDIR)$(MANDIR)/man1/xenwarden.1
	install -D -m 644 man/xenwarden.conf.5 $(DESTDIR)$(MANDIR)/man5/xenwarden.conf.5
	install -D -m 644 man/xenwarden-pulse.conf.5 $(DESTDIR)$(MANDIR)/man5/xenwarden-pulse.conf.5
	install -D -m 644 man/xenwarden-events.7 $(DESTDIR)$(MANDIR)/man7/xenwarden-events.7
	for page in events.schema.json operating.md sizing.md cluster.md awd-protocol.md; do \
	    install -D -m 644 doc/$$page $(DESTDIR)$(DOCDIR)/$$page || exit 1; done
	for file in $$(find doc/examples -type f); do mode=644; test ! -x $$file || mode=755; \
	    install -D -m $$mode $$file $(DESTDIR)$(DOCDIR)/$${file#doc/} || exit 1; done
	for file in alerts.yml dashboard.json; do \
	    install -D -m 644 monitoring/$$file $(DESTDIR)$(DOCDIR)/monitoring/$$file || exit 1; done

# What has the host's init start the programs. Builds nothing.
install-init: install-$(INIT)
	test -z '$(GRUBDIR)' || install -D -m 644 init/grub.d/xenwarden.cfg $(DESTDIR)$(GRUBDIR)/xenwarden.cfg

install-systemd install-systemd-219:
	install -d $(DESTDIR)$(UNITDIR)
	umask 022; for unit in $(UNITS); do \
	    $(PLACED) $(if $(findstring 219,$@),-f init/systemd/219.sed) init/systemd/$$unit > $(DESTDIR)$(UNITDIR)/$$unit || exit 1; done
	install -d -m 755 $(DESTDIR)$(SYSCONFDIR)/xenwarden/pulse $(DESTDIR)$(SYSCONFDIR)/xenwarden/qemu
	install -D -m 644 init/systemd/80-xenwarden.preset $(DESTDIR)$(PRESETDIR)/80-xenwarden.preset
	install -D -m 644 init/systemd/xenwarden.sysusers $(DESTDIR)$(SYSUSERSDIR)/xenwarden.conf
	install -D -m 644 init/corosync/xenwarden-pool $(DESTDIR)$(SYSCONFDIR)/corosync/uidgid.d/xenwarden-pool
	$(if $(findstring 219,$@),install -D -m 644 init/systemd/xenwarden.tmpfiles $(DESTDIR)$(TMPFILESDIR)/xenwarden.conf)
	install -d $(DESTDIR)$(DATADIR)/xenwarden
	umask 022; for script in stop-for-good stopping; do \
	    $(PLACED) init/systemd/$$script > $(DESTDIR)$(DATADIR)/xenwarden/$$script && \
	    chmod 755 $(DESTDIR)$(DATADIR)/xenwarden/$$script || exit 1; done

install-sysv install-openrc:
	install -d $(DESTDIR)$(INITDIR) $(DESTDIR)$(DATADIR)/xenwarden
	install -d -m 755 $(DESTDIR)$(SYSCONFDIR)/xenwarden/pulse $(DESTDIR)$(SYSCONFDIR)/xenwarden/qemu
	umask 022; $(PLACED) init/functions.sh > $(DESTDIR)$(DATADIR)/xenwarden/functions.sh
	for script in xenwardend xenwarden-monitor xenwarden-pulse xenwarden-qemu; do \
	    $(PLACED) init/$(@:install-%=%)/$$script > $(DESTDIR)$(INITDIR)/$$script && \
	    chmod 755 $(DESTDIR)$(INITDIR)/$$script || exit 1; done

include packaging/packages.mk

clean:
	$(CARGO) clean
