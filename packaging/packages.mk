# SPDX-License-Identifier: GPL-2.0-only
# Packages, a part of the Makefile.
.PHONY: portable

portable: prerequisites
	@$(call need,python3,python3)
	@python3 -c 'import ensurepip' 2>/dev/null || { \
	    echo 'installing python3-venv (apt-get)'; \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; }
	packaging/portable
