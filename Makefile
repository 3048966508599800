# pyrunc: `make` prints the targets. Everything below is callable from any directory, with an empty environment, as root
# on a machine that has nothing yet (what is missing is then installed from Debian's packages), or as any user on one
# that has what it takes.

SHELL := /bin/sh
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:

HERE := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
BUILD := $(HERE)/build
VENV := $(BUILD)/venv
PY := $(VENV)/bin/python
LIB := $(BUILD)/lib/pyrunc
PREFIX ?= /usr/local
DESTDIR ?=
export PATH := $(if $(PATH),$(PATH):)/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL := C.UTF-8
export PYTHONDONTWRITEBYTECODE := 1
unexport PYTHONPATH PYTHONHOME

# -- what the machine must have -----------------------------------------------------------------------------------------

DEPS_BUILD := gcc libc6-dev python3 python3-dev python3-venv
DEPS_RUN := libseccomp2 libsystemd0 busybox-static procps util-linux
DEPS_TEST := $(DEPS_RUN) strace clang clang-format libclang-rt-14-dev uidmap libcap2-bin
DEPS_BENCH := runc crun busybox-static
# CRIU, of which tests/fixtures/criu.py fetches one that works, holds up a container's network with it
DEPS_ROOT := $(DEPS_TEST) $(DEPS_BENCH) iptables

# $(call need,PACKAGES): install what is missing of them as root; without root say what is missing. A machine without
# dpkg is not asked: whatever is missing there shows by itself.
define need
command -v dpkg-query >/dev/null || exit 0; missing=; \
for package in $(1); do \
    case "$$(dpkg-query -W -f '$${Status}' $$package 2>/dev/null)" in *'ok installed') ;; *) missing="$$missing $$package" ;; esac; \
done; \
[ -n "$$missing" ] || exit 0; \
if [ "$$(id -u)" != 0 ]; then echo "missing Debian packages:$$missing (run as root: apt-get install$$missing)" >&2; exit 1; fi; \
echo "installing:$$missing"; export DEBIAN_FRONTEND=noninteractive; \
apt-get install -qq -y --no-install-recommends $$missing >$(BUILD)/apt.log 2>&1 || \
{ apt-get update -qq >>$(BUILD)/apt.log 2>&1 && apt-get install -qq -y --no-install-recommends $$missing >>$(BUILD)/apt.log 2>&1; } || \
{ tail -n 20 $(BUILD)/apt.log >&2; echo "could not install:$$missing" >&2; exit 1; }
endef

# The system's own interpreter by its real path, never a version manager's wrapper, which would be started (and would
# start others) at each command; PYTHON= names another.
find-python = for candidate in $(PYTHON) /usr/bin/python3 /usr/bin/python3.1[1-9] /usr/local/bin/python3.1[1-9]; do \
    "$$candidate" -IS -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
    "$$candidate" -I -c 'import ensurepip' 2>/dev/null || continue; \
    python=$$(realpath "$$candidate"); break; done; \
    [ -n "$${python-}" ] || { echo "no python3 >= 3.11 with its venv module here; name one with PYTHON=" >&2; exit 1; }

# -- help ---------------------------------------------------------------------------------------------------------------

.PHONY: help
help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(HERE)/Makefile | expand -t 24

# A stamp is as old as the moment before its recipe began: what is saved meanwhile is newer, and is built next time.

# -- building -----------------------------------------------------------------------------------------------------------

.PHONY: deps build wheel dist install clean
deps: ## install the Debian packages that the other targets need (as root)
	@mkdir -p $(BUILD)
	@$(call need,make $(DEPS_BUILD) $(DEPS_ROOT))

# Several makes may run at once in one tree; they take turns.
build: ## build/bin/pyrunc, with the private virtual environment it needs
	@mkdir -p $(BUILD)
	@exec 9>$(BUILD)/.lock; flock 9; exec $(MAKE) -f $(HERE)/Makefile -C $(HERE) staged 9>&-

KERNEL := $(wildcard $(HERE)/runtime/kernel/*.[ch] $(HERE)/runtime/kernel/build.py $(HERE)/runtime/ops.py \
    $(HERE)/shim/front.h $(HERE)/shim/*/front.c $(HERE)/shim/conmon/options.py)
STAGED := $(shell find $(HERE)/runtime $(HERE)/shim $(HERE)/specs -name __pycache__ -prune -o \( -name '*.py' -o -name '*.json' \) -print 2>/dev/null | sort)
LIST := $(BUILD)/.files
# A file that went away leaves no newer one behind: the list of names is a prerequisite of its own.
ifneq ($(file <$(LIST)),$(STAGED))
.PHONY: $(LIST)
endif

.PHONY: staged
staged: $(BUILD)/.staged
	@:

$(LIST):
	@mkdir -p $(@D)
	@$(file >$@.new,$(STAGED))mv $@.new $@

$(VENV)/.installed: $(HERE)/constraints.txt
	@$(call need,$(DEPS_BUILD) $(DEPS_RUN))
	@$(find-python); [ -x $(PY) ] || "$$python" -m venv $(VENV)
	@echo "installing the Python packages of constraints.txt into $(VENV)"
	@$(PY) -I -m pip --disable-pip-version-check install -q --only-binary :all: -r $(HERE)/constraints.txt
	@touch $@

$(BUILD)/.kernel: $(KERNEL) $(VENV)/.installed
	@touch $@.new
	@$(PY) $(HERE)/runtime/kernel/build.py --out $(BUILD)/kernel
	@mv $@.new $@

$(BUILD)/.staged: $(STAGED) $(LIST) $(HERE)/stage.py $(HERE)/shim/containerd/warm.txt $(BUILD)/.kernel
	@touch $@.new
	@$(PY) -I $(HERE)/stage.py --lib $(LIB) --bin $(BUILD)/bin --kernel $(BUILD)/kernel --interpreter $(PY) \
	    --site "$$($(PY) -I -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
	@mv $@.new $@

# The other packages are copied beside ours and not taken from the system: -S leaves the system's directories out, and
# what the tests passed with is what runs.
install: build ## install to $(DESTDIR)$(PREFIX): bin/pyrunc, lib/pyrunc
	@$(PY) -I $(HERE)/stage.py --lib $(PREFIX)/lib/pyrunc --bin $(PREFIX)/bin --kernel $(BUILD)/kernel --interpreter $(PY) $(if $(DESTDIR),--destdir $(abspath $(DESTDIR)))
	@cd $(HERE) && $(PY) -m runtime.cli.generate $(BUILD)/share
	@share=$(abspath $(DESTDIR)/$(PREFIX))/share; cd $(BUILD)/share; \
	install -d $$share/man/man8 $$share/bash-completion/completions $$share/zsh/site-functions $$share/fish/vendor_completions.d; \
	install -m 644 man/man8/* $$share/man/man8; install -m 644 completions/bash/* $$share/bash-completion/completions; \
	install -m 644 completions/zsh/* $$share/zsh/site-functions; install -m 644 completions/fish/* $$share/fish/vendor_completions.d
	@echo "installed $(DESTDIR)$(PREFIX)/bin/pyrunc"

wheel: build ## dist/pyrunc-*.whl, with the compiled extension
	@rm -rf $(BUILD)/wheel $(HERE)/dist/*.whl; mkdir -p $(HERE)/dist
	@cd $(HERE) && $(PY) -m pip --disable-pip-version-check wheel -q --no-deps --no-build-isolation -w dist .
	@ls $(HERE)/dist/*.whl

dist: ## dist/pyrunc-*.tar.gz, the source
	@mkdir -p $(HERE)/dist
	@version=$$(sed -n 's/^version = "\(.*\)"/\1/p' $(HERE)/pyproject.toml); \
	git -C $(HERE) archive --format=tar.gz --prefix=pyrunc-$$version/ -o dist/pyrunc-$$version.tar.gz HEAD; \
	ls $(HERE)/dist/pyrunc-$$version.tar.gz

clean: ## remove what was built; the virtual environment, other engines and the guest stay (rm -rf build removes those too)
	@find $(BUILD) -mindepth 1 -maxdepth 1 ! -name venv ! -name trixie ! -name 'trixie.*' ! -name containerd2 ! -name crio ! -name guest ! -name .lock -exec rm -rf {} + 2>/dev/null || true
	@rm -rf $(HERE)/dist

# -- running ------------------------------------------------------------------------------------------------------------

.PHONY: run guest test check check-root check-systemd check-fuzz test-engines test-guest conformance differential teeth chaos bench bench-guest fuzz specs
run: build ## a container from a bundle made here, and what is isolated in it
	@$(PY) $(HERE)/examples/tour.py

GUEST_USER ?= root
GUEST_KERNEL ?= uml
guest: build ## a shell, or COMMAND='...', on cgroup v2 and systemd in a virtual machine; GUEST_USER=tester, loner; GUEST_KERNEL=cloud, container
	@$(PY) $(HERE)/tests/guest/guest.py --user $(GUEST_USER) --kernel $(GUEST_KERNEL) $(if $(value COMMAND),-- /bin/sh -c '$(subst ','\'',$(value COMMAND))')

# -- testing ------------------------------------------------------------------------------------------------------------

PYTEST := cd $(HERE) && $(PY) -m pytest
# Two workers: the suites wait for the kernel more than they compute, and two is what the smallest machine has.
WORKERS ?= 2

test: ## check, check-root, check-systemd, conformance, check-fuzz, test-engines, one after the other; test-guest is for itself
	@for target in check check-root check-systemd conformance check-fuzz test-engines; do $(MAKE) -f $(HERE)/Makefile $$target NEWER='-m newer'; done
	@$(PY) $(HERE)/tests/total.py $$(find $(BUILD)/tests $(BUILD)/conformance.json -name '*.xml' -o -name '*.json')

check: build ## format, types, unit, plans, house: no root, under a minute
	@$(call need,$(DEPS_TEST))
	@mkdir -p $(BUILD)/tests; rm -f $(BUILD)/tests/*.xml $(BUILD)/tests/*.json
	@cd $(HERE) && $(VENV)/bin/ruff format --check -q --output-format concise . && $(VENV)/bin/ruff check -q --output-format concise .
	@cd $(HERE) && find runtime shim tests -name '*.[ch]' -exec clang-format --dry-run -Werror {} +
	@cd $(HERE) && $(VENV)/bin/mypy --no-error-summary
	@$(PYTEST) -n $(WORKERS) --junit-xml=$(BUILD)/tests/check.xml tests/unit tests/plans tests/house tests/fuzz/test_inputs.py

check-root: build ## kernel, cli, shim, attacks, a sample of chaos and of differential: what needs root
	@$(call need,$(DEPS_ROOT))
	@[ "$$(id -u)" = 0 ] || { echo "check-root needs root" >&2; exit 1; }
	@mkdir -p $(BUILD)/tests
	@$(PY) $(HERE)/runtime/kernel/build.py --out $(BUILD)/kernel --sanitize --fuzz
	@$(PYTEST) -n $(WORKERS) --junit-xml=$(BUILD)/tests/check-root.xml $(wildcard $(addprefix $(HERE)/tests/,kernel cli shim attacks chaos differential fuzz/test_as_root.py))

# systemd on cgroup v2, in a container of ours (tests/guest/container.py): what needs no controllers where v1 has them all.
check-systemd: build ## the same on cgroup v2 with systemd, as root and as users: the quick part, at the machine's own speed
	@$(call need,$(DEPS_ROOT))
	@[ "$$(id -u)" = 0 ] || { echo "check-systemd needs root" >&2; exit 1; }
	@$(PY) $(HERE)/tests/guest/suites.py --kernel container

# Of the same seed each time: what fails here has been brought in by a change, and fails again. More beside each other than there are
# processors, since several of them wait for what they have forked.
check-fuzz: build $(BUILD)/atheris/.installed ## a minute of each fuzzer, and a moment of those that can under Atheris
	@$(call need,$(DEPS_TEST))
	@$(PY) $(HERE)/runtime/kernel/build.py --out $(BUILD)/kernel --fuzz
	@$(PY) $(HERE)/tests/fuzz/run.py --seconds 60 --seed 1 --jobs 4
	@! grep -q . $(BUILD)/atheris/.installed || { echo "under Atheris"; $(PY) $(HERE)/tests/fuzz/run.py --engine atheris --inputs 1000 --seed 1 --jobs 4; }

# It is large, and none of what the other targets need.
ATHERIS := atheris==3.0.0
$(BUILD)/atheris/.installed: $(VENV)/.installed
	@mkdir -p $(@D); : >$@
	@if [ "$$($(PY) -Ic 'import platform, sys; print(platform.machine(), sys.version_info < (3, 14))')" = "x86_64 True" ]; then \
	    $(PY) -I -m pip --disable-pip-version-check install -q --only-binary :all: --target $(@D) --upgrade $(ATHERIS) || { rm $@; exit 1; }; \
	    echo $(ATHERIS) >$@; \
	else echo "there is no Atheris for this machine's architecture and Python: its moment is left out"; fi

# The machine's own engines, then those of a newer Debian (tests/engines/newer.py): all the same tests, or what NEWER selects.
# Others are built from Go modules when they are asked for (tests/engines/modules.py).
ENGINES ?= bookworm trixie
NEWER ?=
test-engines: build ## containerd, dockerd, Podman and Buildah on pyrunc; ENGINES=trixie, containerd2 or crio; ENGINE_RUNTIME=/usr/sbin/runc for a comparison
	@$(call need,$(DEPS_TEST))
	@[ "$$(id -u)" = 0 ] || { echo "test-engines needs root" >&2; exit 1; }
	@mkdir -p $(BUILD)/tests
	@for engines in $(ENGINES); do echo "with the engines of $$engines"; selected=; [ $$engines = bookworm ] || selected='$(NEWER)'; \
	( export ENGINES=$$engines; $(PYTEST) --dist loadfile -n $(WORKERS) $$selected \
	    --junit-xml=$(BUILD)/tests/engines-$$engines.xml $(HERE)/tests/engines ); done

# In virtual machines of the project's own (tests/guest), two at a time; what cannot run here is skipped, and says why.
GUEST ?=
test-guest: build ## the suites on cgroup v2 with systemd, as root and as users: the quick part, GUEST=all, or GUEST='tester podman'
	@$(call need,$(DEPS_TEST))
	@$(PY) $(HERE)/tests/guest/suites.py $(if $(filter all,$(GUEST)),--all,$(GUEST))

conformance: build ## clauses of the specification, OCI runtime-tools' validation suite; PEER=/usr/sbin/runc for a comparison
	@$(call need,$(DEPS_RUN))
	@[ "$$(id -u)" = 0 ] || { echo "conformance needs root" >&2; exit 1; }
	@mkdir -p $(BUILD)/tests
	@$(if $(PEER),,$(PY) $(HERE)/conformance/clauses.py)
	@$(PY) $(HERE)/conformance/run.py $(if $(PEER),--runtime $(PEER) --compare-only)

CASES ?= 300
differential: build ## pyrunc beside runc and crun on generated configurations: what shows of each, compared; CASES=300
	@$(call need,$(DEPS_ROOT))
	@[ "$$(id -u)" = 0 ] || { echo "differential needs root" >&2; exit 1; }
	@$(PY) $(HERE)/tests/differential/run.py --cases $(CASES) $(if $(filter 300,$(CASES)),,--sample)

bench: build ## pyrunc against runc and crun, by themselves and under engines; RUNS=30 BENCH_PEERS=name=path,... CGROUP_MANAGER=systemd
	@$(call need,$(DEPS_BENCH))
	@$(PY) $(HERE)/tests/bench.py
	@$(PY) $(HERE)/tests/bench_engines.py

BENCH_GUEST ?= container
bench-guest: build ## the same in the guest, by themselves, with each maker of cgroups; RUNS=30 SCOPES=500 BENCH_GUEST=uml
	@$(call need,$(DEPS_BENCH))
	@$(PY) $(HERE)/tests/fixtures/programs.py
	@for driver in cgroupfs systemd; do \
	$(PY) $(HERE)/tests/guest/guest.py --kernel $(BENCH_GUEST) --back $(BUILD) --env=RUNS=$(RUNS) --env=SCOPES=$(SCOPES) --env=CGROUP_MANAGER=$$driver -- \
	    $(PY) $(HERE)/tests/bench.py --install --output /run/guest/back/bench-$$driver.json; done

TEETH ?=
teeth: build ## whether the tests of attacks can fail: on builds that are broken on purpose; TEETH='T06 T13'
	@$(call need,$(DEPS_ROOT))
	@[ "$$(id -u)" = 0 ] || { echo "teeth needs root" >&2; exit 1; }
	@$(PY) $(HERE)/tests/attacks/teeth.py $(TEETH)

# Everything there is to try is SAMPLE=0; what is evenly spread over it takes ten minutes of two processors, all of it an hour and a half.
SAMPLE ?= 12000
POINTS ?=
PEER_SAMPLE ?=
chaos: build ## one fault at each system call of each command, and what is left; POINTS='create:2:137' SAMPLE=500 PEER_SAMPLE=500 BENCH_PEERS=runc=/usr/sbin/runc
	@$(call need,$(DEPS_ROOT))
	@[ "$$(id -u)" = 0 ] || { echo "chaos needs root" >&2; exit 1; }
	@SAMPLE=$(SAMPLE) PEER_SAMPLE=$(PEER_SAMPLE) POINTS='$(POINTS)' $(PY) $(HERE)/tests/chaos/campaign.py

SECONDS ?= 60
UNTIL ?=
FUZZERS ?=
ENGINE ?= own
fuzz: build $(if $(filter atheris,$(ENGINE)),$(BUILD)/atheris/.installed) ## whatever comes from outside, made up: each fuzzer for SECONDS=60, or until its runs have taken UNTIL=3600; FUZZERS='plan config state'; ENGINE=atheris
	@$(call need,$(DEPS_TEST))
	@$(PY) $(HERE)/runtime/kernel/build.py --out $(BUILD)/kernel --fuzz
	@$(PY) $(HERE)/tests/fuzz/run.py --grow --engine $(ENGINE) $(if $(UNTIL),--until $(UNTIL),--seconds $(SECONDS)) $(if $(FUZZERS),--only $(FUZZERS))
	@[ "$$(id -u)" != 0 ] || { $(call need,$(DEPS_BENCH)); }
	@[ "$$(id -u)" != 0 ] || [ -n "$(FUZZERS)" ] || $(PY) $(HERE)/tests/fuzz/peers.py

specs: build ## regenerate what is generated and committed; CI fails on a difference
	@cd $(HERE) && $(PY) specs/generate.py && $(PY) -m runtime.kernel.generate && $(PY) -m runtime.libraries_build
	@[ -z "$${CI-}" ] || git -C $(HERE) diff --exit-code -- specs runtime
