# SPDX-License-Identifier: GPL-2.0-only
# Packages, a part of the Makefile. packaging/README.md says what they are.
.PHONY: portable deb rpm packages-test

portable: prerequisites
	@$(call need,python3,python3)
	@python3 -c 'import ensurepip' 2>/dev/null || { \
	    echo 'installing python3-venv (apt-get)'; \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; }
	packaging/portable

deb: prerequisites
ifeq ($(ARCH),arm64)
	$(MAKE) cross-tools
endif
	@$(call need,git,git)
	@$(call need,cargo,cargo)
	@$(call need,dpkg-buildpackage,dpkg-dev)
	@$(call need,lintian,lintian)
	packaging/deb $(ARCH)

rpm: portable
	@$(call need,git,git)
	@$(call need,rpmbuild,rpm)
	@$(call need,rpmlint,rpmlint)
	packaging/rpm

packages-test: deb rpm
	@$(call need,debootstrap,debootstrap)
	packaging/test
