# `make demo` and `make test` need only Python and make; they create the virtual environment.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo demo-sweep test test-fast test-all lint bench bench-rewrites large power foreign foreign-models floor reliability fuzz digits tasks int8 nncf clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,dev]'
	touch $@

demo: .venv/ready
	$(BIN)/deploytool export shufflenet_g3 --trt
	$(BIN)/deploytool report artifacts/shufflenet_g3 --open

demo-sweep: .venv/ready # two models × two exporters × two targets; shared stages are made once
	$(BIN)/deploytool sweep --models mobilenet_v1_cifar,shufflenet_g3 --exporters torchscript,dynamo \
		--targets rtx40,orin --quick --out artifacts/demo-sweep
	$(BIN)/deploytool report artifacts/demo-sweep --open

test: .venv/ready
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not sweep'

test-fast: .venv/ready # unit tests: no export, no server, no browser
	$(BIN)/pytest -n 2 -m 'not sweep and not integration'

test-all: .venv/ready
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/bench: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

bench: .venv/bench nncf
	$(BIN)/python tests/bench/toolchain.py
	$(BIN)/python -m tests.bench.peers --compile --out tests/bench/peers.md
	$(BIN)/python -m tests.bench.int8 --out tests/bench/peers-int8.md
	$(BIN)/python -m tests.bench.gpu --out tests/bench/gpu.md

bench-rewrites: .venv/ready
	$(BIN)/python tests/bench/rewrites.py

power: .venv/ready
	$(BIN)/python -m tests.power.faults
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.power.clean # so that its two threads do not spin while waiting
	$(BIN)/python -m tests.power.blame

foreign: .venv/ready
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.foreign.sweep --page docs/foreign.md

floor: .venv/ready # releases of ONNX Runtime, each in an environment of its own; FLOOR names them: FLOOR='1.20.1 1.22.1'
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.floor.measure --page docs/runtimes.md $(FLOOR)

# An environment of its own, which sees the packages of .venv and adds to them; nothing in .venv is changed.
artifacts/foreign-models/env: .venv/ready tests/foreign/graphs/requirements.txt
	$(BIN)/python -m venv artifacts/foreign-models/env
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(artifacts/foreign-models/env/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/venv.pth"
	artifacts/foreign-models/env/bin/pip install --quiet --disable-pip-version-check --no-deps \
		-r tests/foreign/graphs/requirements.txt
	touch $@

foreign-models: artifacts/foreign-models/env
	nice artifacts/foreign-models/env/bin/python -m tests.foreign.graphs.sweep --page docs/foreign-models.md $(GRAPHS)

# RUNS, FAULTS, SERVICE and FLEET pass options to the campaigns, such as FAULTS='--kills 50 --errors 100'.
reliability: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.runs $(RUNS)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.faults $(FAULTS)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.service $(SERVICE)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.full
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.litter
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.sweeps kills
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.fleet $(FLEET)

fuzz: .venv/ready # FUZZ passes options, such as FUZZ='--graphs 100 --seed 3 --state DIR' (DIR: results, for resuming)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run $(FUZZ)

large: .venv/ready # 20 GB of memory and of disk; LARGE passes options, such as LARGE='--layers 4 --limit 40000000'
	$(BIN)/python -m tests.bench.large $(LARGE)

digits: .venv/ready
	$(BIN)/python tests/bench/digits.py

# A detector and a segmenter, trained in minutes, whose files are judged by mAP and mIoU on 300 pictures.
TASKS := artifacts/tasks
JUDGED := --input 3x128x160 --mean 0 --std 1 --fit letterbox --max-drop 2pt
DETECTION := --data $(TASKS)/detection/images --labels $(TASKS)/detection/annotations.json --task detect --metric map
SEGMENTATION := --data $(TASKS)/segmentation/images --labels $(TASKS)/segmentation/masks --task segment --metric miou

tasks: .venv/ready
	$(BIN)/python -m tests.tasks.scenes --out $(TASKS)
	$(BIN)/python -m tests.tasks.train detector --out $(TASKS)/detector.pth
	$(BIN)/python -m tests.tasks.train segmenter --out $(TASKS)/segmenter.pth
	$(BIN)/deploytool export tests/tasks/detector.py:detector --weights $(TASKS)/detector.pth \
		$(JUDGED) $(DETECTION) --out $(TASKS)/detector
	$(BIN)/deploytool export tests/tasks/detector.py:heads --weights $(TASKS)/detector.pth \
		$(JUDGED) $(DETECTION) --decode nms=0.5 --out $(TASKS)/heads
	$(BIN)/deploytool export tests/tasks/segmenter.py:segmenter --weights $(TASKS)/segmenter.pth \
		$(JUDGED) $(SEGMENTATION) --out $(TASKS)/segmenter

# nncf, a peer of INT8, in an environment of its own, which sees the packages of .venv; nothing in .venv is changed.
nncf: artifacts/nncf/ready
artifacts/nncf/ready: .venv/ready
	$(BIN)/python -m venv artifacts/nncf
	$(BIN)/python -c 'import sys; print(*[path for path in sys.path if path.endswith("site-packages")], sep="\n")' \
		> "$$(artifacts/nncf/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/venv.pth"
	artifacts/nncf/bin/pip install --quiet --disable-pip-version-check nncf
	touch $@

# What INT8 costs trained models, beside other quantisers.
int8: nncf
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m tests.int8.accuracy --out artifacts/int8 --page tests/int8/accuracy.md

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
