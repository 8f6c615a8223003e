# Makefile - builds attnd (the daemon), attn (the client) and bench (the engine in-process).
# `make help` lists the targets; `make V=1` shows the commands.

BUILD    ?= build
CC       ?= cc
CXX      ?= c++
OPT      ?= -O2 -g
SAN      ?=
STD      := -std=gnu11
# Options that not every compiler has.
accepted  = $(shell $(CC) -Werror $(1) -x c -c -o /dev/null /dev/null 2>/dev/null && echo $(1))
WARN     := -Wall -Wextra -Wshadow -Wconversion -Wmissing-prototypes -Wstrict-prototypes -Wvla \
            -Wformat=2 -Werror=switch -Werror=vla $(call accepted,-Wno-enum-float-conversion) \
            $(if $(SAN),-Wno-stringop-overread -Wno-unknown-warning-option,$(if $(CI),-Werror))
# Sanitizers make the compiler see what is not there: their builds only warn, and not of that.
HARDEN   := -fstack-protector-strong -fstack-clash-protection -fcf-protection -fPIE \
            $(call accepted,-ftrivial-auto-var-init=zero) $(if $(SAN),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
SANFLAGS := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer)
# Numbers that a run forgets to write are NaN in these builds; POISON=1 makes another.
POISON   ?= $(SAN)
CPPFLAGS += -I. -I$(BUILD) -D_GNU_SOURCE $(if $(POISON),-DATTND_POISON)
ALL_C    := $(STD) $(OPT) $(WARN) $(HARDEN) $(SANFLAGS) -MMD -MP
ALL_CXX  := -std=c++17 $(OPT) -Wall -Wextra -Wshadow -Wconversion $(HARDEN) $(SANFLAGS) -fno-exceptions -fno-rtti -MMD -MP
LINK     := $(SANFLAGS) -pie -Wl,-z,relro,-z,now,-z,noexecstack

MHD_LIBS     := -lmicrohttpd
JANSSON_LIBS := -ljansson
DNNL_LIBS    := -ldnnl -lgomp
CURL_LIBS    := -lcurl
ENGINE_LIBS  := $(DNNL_LIBS) $(JANSSON_LIBS) -lm -lpthread
API_LIBS     := -lz -lstdc++

# Files named for an instruction set are compiled for it; they run only where engine/cpu.c saw it.
ISA_avx2   := -mavx2 -mfma
ISA_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512cd -mavx2 -mfma -mprefer-vector-width=512
ISA_avx512_bf16 := $(ISA_avx512) -mavx512bf16
ISA_amx    := $(ISA_avx512_bf16) -mamx-tile -mamx-bf16

ENGINE_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard engine/*.c engine/formats/*.c))
API_OBJ    := $(patsubst %.c,$(BUILD)/%.o,$(wildcard api/*.c)) \
              $(patsubst %.cc,$(BUILD)/%.o,$(wildcard api/*.cc))
CLIENT_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(filter-out api/client/attn.c,$(wildcard api/client/*.c)))
SERVER_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(filter-out server/main.c,$(wildcard server/*.c))) \
              $(patsubst %.cc,$(BUILD)/%.o,$(wildcard server/*.cc))
UNIT_TESTS := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/unit/*_test.c))
PROGRAMS   := $(BUILD)/attnd $(BUILD)/attn $(BUILD)/bench
HTTP_TESTS := $(BUILD)/attnd $(BUILD)/attn $(BUILD)/tests/http/load # what they run

# A line a file, $(call say,CC,file); the commands with V=1, nothing with -s.
quiet := $(findstring s,$(firstword -$(MAKEFLAGS)))
say    = $(if $(V)$(quiet),,@printf '  %-4s %s\n' $(1) $(2))
Q     := $(if $(V),,@)

.PHONY: all
all: $(PROGRAMS) $(HTTP_TESTS) ## build attnd, attn and bench

# Which commit this is, "unknown" outside git. It is told to the two programs that print it, which
# alone are made again when it changes.
ifndef REVISION
REVISION := $(or $(if $(wildcard .git),$(shell git describe --always --dirty 2>/dev/null)),unknown)
endif
$(BUILD)/server/main.o $(BUILD)/api/client/attn.o: CPPFLAGS += -DATTND_REVISION='"$(REVISION)"'
$(BUILD)/server/main.o $(BUILD)/api/client/attn.o: $(BUILD)/revision
.PHONY: always
$(BUILD)/revision: always
	@mkdir -p $(@D); echo '$(REVISION)' | cmp -s - $@ || echo '$(REVISION)' >$@

$(BUILD)/%_avx2.o: ISA := $(ISA_avx2)
$(BUILD)/%_avx512.o: ISA := $(ISA_avx512)
$(BUILD)/%_avx512_bf16.o: ISA := $(ISA_avx512_bf16)
$(BUILD)/%_amx.o: ISA := $(ISA_amx)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CPPFLAGS) $(ALL_C) $(ISA) $(CFLAGS) -c -o $@ $<

$(BUILD)/api/openapi.o: api/openapi.json

$(BUILD)/%.o: %.cc
	@mkdir -p $(@D)
	$(call say,CXX,$<)
	$(Q)$(CXX) $(CPPFLAGS) $(ALL_CXX) $(CXXFLAGS) -c -o $@ $<

$(BUILD)/attnd: $(BUILD)/server/main.o $(SERVER_OBJ) $(API_OBJ) $(ENGINE_OBJ)
	$(call say,LD,$@)
	$(Q)$(CC) $(LINK) $(LDFLAGS) -o $@ $^ $(MHD_LIBS) $(API_LIBS) $(CURL_LIBS) $(ENGINE_LIBS)

$(BUILD)/attn: $(BUILD)/api/client/attn.o $(CLIENT_OBJ) $(API_OBJ) $(ENGINE_OBJ)
	$(call say,LD,$@)
	$(Q)$(CC) $(LINK) $(LDFLAGS) -o $@ $^ $(CURL_LIBS) $(API_LIBS) $(ENGINE_LIBS)

$(BUILD)/tests/http/load: $(BUILD)/tests/http/load.o $(CLIENT_OBJ) $(API_OBJ) $(ENGINE_OBJ)
	$(call say,LD,$@)
	$(Q)$(CC) $(LINK) $(LDFLAGS) -o $@ $^ $(CURL_LIBS) $(API_LIBS) $(ENGINE_LIBS)

BENCH_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/bench/bench*.c))
$(BUILD)/bench: $(BENCH_OBJ) $(ENGINE_OBJ)
	$(call say,LD,$@)
	$(Q)$(CC) $(LINK) $(LDFLAGS) -o $@ $^ $(ENGINE_LIBS)

$(BUILD)/tests/unit/%_test: $(BUILD)/tests/unit/%_test.o $(BUILD)/tests/unit/program.o $(API_OBJ) $(CLIENT_OBJ) $(SERVER_OBJ) $(ENGINE_OBJ)
	$(call say,LD,$@)
	$(Q)$(CC) $(LINK) $(LDFLAGS) -o $@ $^ -lcmocka $(MHD_LIBS) $(CURL_LIBS) $(API_LIBS) $(ENGINE_LIBS)

$(BUILD)/tests/unit/engine_pool_memory_test: LDFLAGS += -Wl,--wrap=malloc

.PHONY: bench
bench: $(BUILD)/bench ## measure the engine beside the machine's ceilings, one thread and two
	$(BUILD)/bench --threads 1,2 --csv $(BUILD)/bench.csv --svg $(BUILD)/bench.svg $(ARGS)

.PHONY: unit
unit: $(UNIT_TESTS) ## run the unit tests alone
	@tests/unit/run.py $(UNIT_TESTS)

.PHONY: caps
caps: $(UNIT_TESTS) ## run the unit tests on fewer instructions: avx512, avx2, portable
	@tests/caps.py $(UNIT_TESTS)

# BUILD=. or BUILD=server would take the sources with it.
sources_in = $(filter $(abspath $(1))/%,$(abspath Makefile $(wildcard */*.[ch] docker/* tests/* tests/*/*)))

.PHONY: clean
clean: ## remove everything that was built, in BUILD (default build)
	$(if $(call sources_in,$(BUILD)),$(error BUILD=$(BUILD) holds sources; nothing is removed))
	$(call say,RM,$(BUILD))
	$(Q)rm -rf $(BUILD)

# ---- from nothing to an answer -------------------------------------------------------------

# What the daemon, the client, the benchmark and the tests need; Debian's names.
DEPS := gcc g++ make pkg-config libdnnl-dev libmicrohttpd-dev libjansson-dev \
        libcurl4-openssl-dev zlib1g-dev libcmocka-dev curl python3 ca-certificates
# A target that installs first starts a second make: what is installed decides what is found.
# Its lines begin with +, so that the jobs of make -j are its own.
AGAIN = $(MAKE) --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))

.PHONY: deps
deps: ## install the Debian packages that are needed; does nothing when they are there
	@tests/install_packages.sh $(DEPS)

.PHONY: run
run: deps ## build, serve the bundled model, ask it one question, go on serving; LISTEN=:0 for any port
	+@$(AGAIN) $(BUILD)/attnd $(BUILD)/attn
	@BUILD=$(BUILD) exec tests/demo serve

.PHONY: demo
demo: deps ## the same, but stop after the answer
	+@$(AGAIN) $(BUILD)/attnd $(BUILD)/attn
	@BUILD=$(BUILD) exec tests/demo

# ---- tests ---------------------------------------------------------------------------------

.PHONY: test
test: deps ## install what is needed, build, run the unit tests and the HTTP tests
	+@$(AGAIN) all $(UNIT_TESTS)
	@tests/run.py "unit=$(MAKE) --no-print-directory unit" "http=$(MAKE) --no-print-directory http"

.PHONY: http
http: $(HTTP_TESTS) ## run the HTTP tests alone; ARGS="golden oip" picks suites
	@BUILD=$(BUILD) python3 tests/http/run.py $(ARGS)

# Standard error of the sanitizers goes where the tests' does; the first finding ends a program.
# (No detect_stack_use_after_return: gcc does not align its fake frames for vectors of 64 bytes.)
ASAN_ENV := ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 \
            LSAN_OPTIONS=suppressions=$(CURDIR)/tests/leak.supp:print_suppressions=0 \
            UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
TSAN_ENV := TSAN_OPTIONS=suppressions=$(CURDIR)/tests/thread.supp:halt_on_error=1

.PHONY: sanitize sanitize-address sanitize-thread
sanitize: sanitize-address sanitize-thread ## unit and HTTP tests under ASan and UBSan, then under TSan

sanitize-address:
	+@$(AGAIN) BUILD=build/asan SAN=address,undefined sanitized-programs
	@$(ASAN_ENV) BUILD=build/asan tests/run.py \
	    "unit=$(MAKE) --no-print-directory BUILD=build/asan SAN=address,undefined unit" \
	    "http=python3 tests/http/run.py --core $(ARGS)"

# The loader's address layout is fixed (setarch -R): TSan cannot map its shadow under every other.
sanitize-thread:
	+@$(AGAIN) BUILD=build/tsan SAN=thread sanitized-programs
	@$(TSAN_ENV) BUILD=build/tsan setarch -R tests/run.py \
	    "unit=$(MAKE) --no-print-directory BUILD=build/tsan SAN=thread unit" \
	    "http=python3 tests/http/run.py --core $(ARGS)"

.PHONY: sanitized-programs
sanitized-programs: $(HTTP_TESTS) $(UNIT_TESTS)

# By clang, whose check of pointers finds fault with NULL + 0. Inputs that were worth keeping stay
# in build/fuzz/corpus, one that breaks something is written to build/fuzz and named.
FUZZ_SECONDS ?= 60
FUZZERS      := request documents

.PHONY: fuzz fuzzers
fuzz: deps ## feed the parsers with damaged input, FUZZ_SECONDS=60 each
	@tests/install_packages.sh clang libclang-rt-dev
	+@$(AGAIN) BUILD=build/fuzz CC=clang CXX=clang++ SAN=address,undefined,fuzzer-no-link \
	    CFLAGS=-fno-sanitize=pointer-overflow fuzzers
	@python3 tests/fuzz/seeds.py build/fuzz/corpus
	@cd build/fuzz && for fuzzer in $(FUZZERS); do \
	    echo "fuzz: $$fuzzer, $(FUZZ_SECONDS) s"; \
	    UBSAN_OPTIONS=halt_on_error=1 ./fuzz_$$fuzzer -max_total_time=$(FUZZ_SECONDS) \
	        -timeout=10 -rss_limit_mb=4096 -max_len=65536 -print_final_stats=1 -verbosity=0 \
	        corpus/$$fuzzer || exit 1; \
	done

fuzzers: $(FUZZERS:%=$(BUILD)/fuzz_%)
.SECONDARY: $(FUZZERS:%=$(BUILD)/tests/fuzz/fuzz_%.o)
$(BUILD)/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(API_OBJ) $(ENGINE_OBJ)
	$(call say,LD,$@)
	$(Q)$(CC) $(LINK) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ $(API_LIBS) $(ENGINE_LIBS)

$(BUILD)/failing.so: tests/torture/failing.c
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(STD) -D_GNU_SOURCE -O2 $(WARN) -fPIC -shared -fno-builtin -o $@ $<

.PHONY: torture
torture: $(BUILD)/attnd $(BUILD)/failing.so ## every allocation fails in turn, at start and on each route; ARGS="--quick"
	@BUILD=$(BUILD) python3 tests/torture/torture.py $(BUILD)/failing.so $(ARGS)

.PHONY: test-proxies
test-proxies: deps ## do refusals arrive behind nginx and HAProxy, and at curl, node and requests?
	@tests/install_packages.sh nginx haproxy nodejs python3-requests
	+@$(AGAIN) $(BUILD)/attnd $(BUILD)/attn
	@BUILD=$(BUILD) python3 tests/proxies/run.py $(ARGS)

SOAK_SECONDS ?= 600

.PHONY: soak
soak: $(BUILD)/attnd ## mixed work for SOAK_SECONDS=600: does anything grow or stall?
	@BUILD=$(BUILD) python3 tests/soak.py $(SOAK_SECONDS)

.PHONY: lint
lint: ## layers, symbols' names, static analysis, format
	@tests/lint.sh

.PHONY: goldens
goldens: ## make the golden tensors again with TensorFlow, into build/golden, and compare
	tests/golden/make_goldens.sh $(BUILD)

# ---- delivery ------------------------------------------------------------------------------

PREFIX ?= /usr/local
IMAGE  ?= attnd:latest

.PHONY: image
# The OCI format has no HEALTHCHECK; podman and buildah drop it unless told otherwise.
image: ## build the container image IMAGE with docker, podman or buildah, whichever is there
	@for tool in docker podman buildah; do \
	    command -v $$tool >/dev/null || continue; \
	    case $$tool in docker) format=;; *) format='--format docker';; esac; \
	    exec $$tool build $$format --build-arg REVISION=$(REVISION) -t $(IMAGE) .; \
	done; echo "make image needs docker, podman or buildah" >&2; exit 1

.PHONY: install
install: $(BUILD)/attnd $(BUILD)/attn ## install attnd and attn under PREFIX (default /usr/local)
	install -D -m 755 $(BUILD)/attnd $(DESTDIR)$(PREFIX)/bin/attnd
	install -D -m 755 $(BUILD)/attn $(DESTDIR)$(PREFIX)/bin/attn

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# ---- beside others: peers, servers and clients from PyPI (tests/bench/README.md) -------------

VENV_BENCH       := $(BUILD)/venv-bench
VENV_CONFORMANCE := $(BUILD)/venv-conformance

$(BUILD)/kernels: $(BUILD)/tests/bench/kernels.o $(ENGINE_OBJ)
	$(call say,LD,$@)
	$(Q)$(CC) $(LINK) $(LDFLAGS) -o $@ $^ $(ENGINE_LIBS)

$(BUILD)/engine_turns: $(BUILD)/tests/bench/engine_turns.o $(ENGINE_OBJ)
	$(call say,LD,$@)
	$(Q)$(CC) $(LINK) $(LDFLAGS) -o $@ $^ $(ENGINE_LIBS)

$(BUILD)/json_tensor: $(BUILD)/tests/bench/json_tensor.o
	$(call say,LD,$@)
	$(Q)$(CC) $(LINK) $(LDFLAGS) -o $@ $^ $(JANSSON_LIBS)

$(BUILD)/heap_count.so: tests/bench/heap_count.c
	@mkdir -p $(@D)
	$(call say,LD,$@)
	$(Q)$(CC) $(STD) -D_GNU_SOURCE -O2 $(WARN) -fPIC -shared -fno-builtin -o $@ $<

$(VENV_BENCH)/.installed: tests/bench/install.sh tests/bench/requirements.txt
	tests/bench/install.sh $(VENV_BENCH)

.PHONY: bench-peers bench-servers bench-json conformance conformance-clients conformance-layer configurations
bench-peers: $(BUILD)/engine_turns $(VENV_BENCH)/.installed ## the layer beside PyTorch, TensorFlow, ONNX Runtime, OpenVINO
	$(VENV_BENCH)/bin/python tests/bench/peers.py --engine $< --out $(BUILD)/bench-peers $(ARGS)

bench-servers: $(BUILD)/attnd $(BUILD)/engine_turns $(BUILD)/heap_count.so $(VENV_BENCH)/.installed ## the service beside Triton, mosec, FastAPI
	$(VENV_BENCH)/bin/python tests/bench/servers.py --attnd $< --engine $(BUILD)/engine_turns --heap-count $(BUILD)/heap_count.so --out $(BUILD)/bench-servers $(ARGS)

bench-json: $(BUILD)/attnd $(BUILD)/json_tensor $(VENV_BENCH)/.installed ## a large tensor as JSON and binary, beside jansson
	$(VENV_BENCH)/bin/python tests/bench/json_tensor.py --attnd $< --jansson $(BUILD)/json_tensor --out $(BUILD)/bench-json $(ARGS)

conformance: conformance-clients conformance-layer ## all of it from PyPI: the clients that people have, and the real layer

conformance-clients: $(BUILD)/attnd ## the clients that people have against the daemon; ARGS="-k kserve"
	tests/conformance/install.sh $(VENV_CONFORMANCE)
	BUILD_DIR=$(BUILD) $(VENV_CONFORMANCE)/bin/python -m pytest -c tests/conformance/pytest.ini tests/conformance $(ARGS)

configurations: $(BUILD)/attnd ## random configurations of the real layer, in every spelling, against the daemon
	tests/golden/install.sh $(BUILD)/venv-goldens
	$(BUILD)/venv-goldens/bin/python tests/conformance/configurations.py $(BUILD)/attnd $(ARGS)

CALLS ?= 400
SEED  ?= 1
conformance-layer: $(BUILD)/attnd ## the real layer beside the daemon: README's lines, then CALLS=400 random calls of SEED=1
	tests/golden/install.sh $(BUILD)/venv-goldens
	BUILD=$(BUILD) $(BUILD)/venv-goldens/bin/python -m pytest -c tests/conformance/pytest.ini tests/conformance/own_layer.py
	BUILD=$(BUILD) $(BUILD)/venv-goldens/bin/python tests/conformance/differential.py --calls $(CALLS) --seed $(SEED) $(if $(ONLY),--only $(ONLY))

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
