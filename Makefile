# The front door. Every target makes its own environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-postgresql check format bench bench-dimse bench-scale bench-store bench-web peers ohif pictures models fuzz soak clean

install: $(STAMP)

# torch is asked for first and by its exact version: a plain `torch` would bring gigabytes of CUDA.
# hnswlib is compiled here; without NO_NATIVE its wheel would only run on this very processor.
$(STAMP): setup.cfg pyproject.toml etc/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch -c etc/constraints.txt
	HNSWLIB_NO_NATIVE=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check -c etc/constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/dicomnode demo --picture build/demo.png

# A module's tests stay in one process: they share its node. JOBS=0 runs all in this one.
JOBS ?= 2
test: install
	$(BIN)/python -m pytest tests -n $(JOBS) --dist loadscope

# The tests of nodes again, each archive on PostgreSQL (DATABASE=pgvector: with the index in the database too), but for those
# that choose their databases themselves and run on each in `make test`.
DATABASE ?= postgresql
TESTS ?= tests/integration tests/acceptance
test-postgresql: install
	DICOMNODE_TEST_DATABASE=$(DATABASE) $(BIN)/python -m pytest $(TESTS) -n $(JOBS) --dist loadscope

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Each writes its tables into docs/performance.md, with the machine and the versions; INTO=PATH for another document.
INTO ?= docs/performance.md
bench: install
	$(BIN)/python -m benchmarks --into $(INTO)
	$(MAKE) bench-scale

# Queries and retrieval against Orthanc, DCMTK's dcmqrscp and pynetdicom's qrscp, as far as they are installed.
bench-dimse: install
	$(BIN)/python -m benchmarks dimse --into $(INTO)

# Questions from a viewer, pages, pictures and DICOMweb, against Orthanc with its plugin where that is installed.
bench-web: install
	$(BIN)/python -m benchmarks web --into $(INTO)

# C-STORE against Orthanc, DCMTK's storescp and dcmqrscp, and pynetdicom's storescp, as far as they are installed.
bench-store: install
	$(BIN)/python -m benchmarks store --into $(INTO)

# Starting, asking and keeping at 10 thousand to 3 million regions: long, gigabytes of disk. REGIONS=100000 for less.
REGIONS ?= 3000000
bench-scale: install
	$(BIN)/python -m benchmarks scale --regions $(REGIONS) --into $(INTO) --plot docs/pictures/growth.png

# What npm installs is for tests alone; without it they are skipped.
peers:
	cd tests/integration/interop/dcmjs && npm ci
	cd tests/integration/interop/viewers && npm ci
	$(PYTHON) -m tests.ohif.fetch

# OHIF on http://127.0.0.1:3000, beside a node of etc/ohif/dicomnode.toml. docs/viewers.md.
ohif: install
	$(PYTHON) -m tests.ohif.fetch
	$(BIN)/python -m tests.ohif.serve

# The pictures of docs/viewers.md, by the test that does what they show.
pictures: install
	$(PYTHON) -m tests.ohif.fetch
	$(BIN)/python -m pytest tests/acceptance/test_ohif.py
	$(BIN)/python -m tests.ohif.pictures

# The shipped weights again, from the open films; a run that was stopped goes on. Two hours on two cores are enough.
DATA ?= ../shared/data/cxr
models: install
	$(BIN)/dicomnode train all --data $(DATA) --out build/models --resume
	$(BIN)/dicomnode evaluate films $(DATA) --split dev_val --model build/models --html build/models/report.html

# Mutated objects and messages against a node with workers; SEED=2 for others, OBJECTS for fewer.
OBJECTS ?= 10000
SEED ?= 1
fuzz: install
	$(BIN)/python -m tests.fuzz --objects $(OBJECTS) --seed $(SEED)

# kill -9 again and again under load, and an oracle after each restart; DATABASE=postgresql for the other one.
KILLS ?= 200
DATABASE ?= sqlite
soak: install
	$(BIN)/python -m tests.faults --kills $(KILLS) --seed $(SEED) --database $(DATABASE)
	SOAK=1 $(BIN)/python -m pytest tests/faults/test_pressure.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
