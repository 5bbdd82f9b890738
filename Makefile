# Zero-OS. `make up` starts a grid on this machine, `make test` proves it.
# Everything that is built lands in bin/ and build/, and nowhere else.

GO      ?= go
DIR     ?=
UPFLAGS ?=

# Node binaries are static and byte-reproducible: no paths, no version control
# state, no build id.
GOBUILD := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags='-s -w -buildid='

COMMANDS := zos zosd zos-init zos-fault zos-shim zos-gateway zos-guest

# Debian packages that a build, a grid and the tests need.
PACKAGES := gcc libc6-dev pkg-config libseccomp-dev qemu-system-x86 ipxe-qemu ovmf swtpm \
            openssh-client debootstrap zstd xz-utils jq e2fsprogs btrfs-progs erofs-utils cpio nftables iproute2 procps curl wireguard-tools haproxy openssl \
            crun runc

.PHONY: deps build bin runc image up test unit lint bench bench-net bench-gateway bench-run repro fuzz soak clean

# deps installs what is missing. It needs root only when something is.
deps:
	@missing=$$(for p in $(PACKAGES); do \
		dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		if [ $$(id -u) -ne 0 ]; then \
			echo "missing packages:" $$missing >&2; echo "run: sudo make deps" >&2; exit 1; \
		fi; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	fi
	@./boot/fetch-kernel.sh build/kernel

build: bin image

bin: runc
	@mkdir -p bin
	$(foreach c,$(COMMANDS),$(GOBUILD) -o bin/$(c) ./cmd/$(c) &&) true
	$(foreach e,hello shop,$(GOBUILD) -o bin/$(e) ./examples/$(e) &&) true

# runc needs cgo for libseccomp; it is linked statically all the same.
runc: bin/runc
bin/runc: go.mod
	@mkdir -p bin
	CGO_ENABLED=1 $(GO) build -trimpath -buildvcs=false -tags 'seccomp osusergo netgo' \
		-ldflags='-s -w -buildid= -extldflags=-static' -o $@ github.com/opencontainers/runc

# image makes what nodes boot: kernel, first stage, OS flist and the demo image.
image: bin
	bin/zos boot image --out bin/image

up: deps build
	bin/zos up $(if $(DIR),--dir $(DIR)) $(UPFLAGS)

# Tests that boot machines come after the others, two at a time since each machine has
# one processor: the node that runs people's software first, since it takes longest. The
# grids with three machines come alone.
MACHINES = $(sort $(shell git grep -lE '"github.com/zero-os/zos/(vmtest|qemu)"' -- '*_test.go' | xargs -n1 dirname | sed 's,^,./,'))
test: deps lint build
	$(GO) test -timeout 20m $(filter-out $(MACHINES),$(shell $(GO) list -f '{{.Dir}}' ./... | sed 's,^$(CURDIR),.,'))
	printf '%s\n' '-run TestWorkloads ./grid' $(filter-out ./grid,$(MACHINES)) | xargs -P 2 -L 1 $(GO) test -timeout 45m
	$(GO) test -timeout 30m -skip TestWorkloads ./grid

# unit needs no root, no mounts and no virtual machine.
UNIT := ./canon ./sign ./seal ./problem ./contract ./spec/... ./ledger/merkle ./supervise ./node ./node/identity
unit:
	$(GO) test $(UNIT)

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'lint: run gofmt -w on these files'; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

# fuzz gives every decoder FUZZTIME, and little of that to making inputs smaller; a
# finding is written below its testdata.
FUZZTIME ?= 30s
fuzz:
	@set -e; for f in $$(git ls-files '*_test.go' | xargs grep -l '^func Fuzz'); do \
		for t in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$f); do \
			echo "fuzz: $$t in $$(dirname $$f)"; \
			$(GO) test -run '^$$' -fuzz "^$$t$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./$$(dirname $$f); \
		done; done

# repro builds everything in two directories and compares every file.
repro: deps
	@set -e; rm -rf build/repro; for d in one a-second-and-longer-name; do \
		mkdir -p build/repro/$$d/build; \
		git ls-files -z | xargs -0 cp --parents -t build/repro/$$d; \
		ln -s $(CURDIR)/build/kernel build/repro/$$d/build/kernel; \
		$(MAKE) -s -C build/repro/$$d build; \
		(cd build/repro/$$d/bin && find . -type f -print0 | sort -z | xargs -0 sha256sum) > build/repro/$$d.sha256; \
	done; \
	diff build/repro/one.sha256 build/repro/a-second-and-longer-name.sha256; \
	echo "repro: $$(wc -l < build/repro/one.sha256) files have equal digests in both directories"; \
	cat build/repro/one.sha256 | grep -E 'image/(vmlinuz|initrd|os)|zos'

# bench prints the measures of docs/reference/benchmarks.md as a table.
BENCHFLAGS ?=
bench: deps build
	$(GO) run ./bench $(BENCHFLAGS)

# bench-net prints the measures of networks. It needs root, and a quiet machine.
bench-net: deps
	$(GO) run ./bench/net $(BENCHFLAGS)

# bench-gateway prints the measures of the gateway, beside HAProxy. It needs root,
# since it listens at port 443 of loopback addresses, and a quiet machine.
bench-gateway: deps
	$(GO) run ./bench/gateway $(BENCHFLAGS)

# bench-run prints the measures of running workloads, beside runc, crun and plain
# QEMU. It needs root, and a quiet machine.
bench-run: deps bin/runc
	$(GO) run ./bench/run $(BENCHFLAGS)

# Packages whose tests under the node's kernel have some that take long: they run with
# ZOS_SOAK set, and are skipped without.
SOAK := ./vmm ./workload/escape

# soak runs those; creates and deletes CYCLES containers and VMS micro-VMs with faults on
# one node, and measures a workload beside hostile tenants there; takes all software that
# make test knows through its life in micro-VMs; and then cuts the power of three nodes
# at random for as long as FOR. SEED chooses the run.
SEED   ?= 1
FOR    ?= 1h
CYCLES ?= 1000
VMS    ?= 16
soak: deps build
	ZOS_SOAK=1 $(GO) test -count=1 -timeout 1h -p 1 -run TestInTheNodesKernel -v $(SOAK)
	ZOS_SOAK=1 ZOS_SOAK_SEED=$(SEED) ZOS_SOAK_CYCLES=$(CYCLES) ZOS_SOAK_MACHINES=$(VMS) \
		$(GO) test -tags soak -count=1 -timeout 0 -v ./workload/soak
	ZOS_SOAK=1 $(GO) test -count=1 -timeout 2h -run TestWorkloads -v ./grid
	$(GO) test -tags soak -count=1 -timeout 0 -run TestSoak -v ./grid -args -soak.seed $(SEED) -soak.for $(FOR)

clean:
	rm -rf bin build
