# make setup once, then make demo. Needs Python 3.11 or 3.12, Java 17 or 21, and the network for setup.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
UV ?= uv
BIN := .venv/bin
STAMPS := .venv/stamps

.PHONY: setup demo check unit test faults hostile away bench bench-quick lock clean
.DELETE_ON_ERROR:

setup: $(STAMPS)/jars
	@echo "Suibus is set up. Next: make demo · Suibus 已就绪，下一步：make demo"

$(STAMPS)/packages: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	  || { echo "Suibus needs Python 3.11 or 3.12; '$(PYTHON)' is not. Install one, or: make setup PYTHON=/path/to/python3.11"; \
	       echo "Suibus 需要 Python 3.11 或 3.12。请安装，或执行：make setup PYTHON=/path/to/python3.11"; exit 1; }
	@command -v java >/dev/null || { test -n "$$JAVA_HOME" && test -x "$$JAVA_HOME/bin/java"; } \
	  || { echo "Suibus needs Java 17 or 21, and none was found. Debian: apt-get install openjdk-17-jre-headless; or set JAVA_HOME."; \
	       echo "Suibus 需要 Java 17 或 21，未找到。Debian：apt-get install openjdk-17-jre-headless；或设置 JAVA_HOME。"; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/jars: $(STAMPS)/packages infra/jvm/jars.py infra/jvm/jars.lock infra/jvm/spark.py
	$(BIN)/python -m infra.jvm.jars
	$(BIN)/python -m infra.jvm.spark
	@touch $@

demo: setup
	$(BIN)/suibus demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What needs neither a broker nor Spark: under 20 s on 2 cores.
unit: setup
	$(BIN)/pytest -n 2 --dist worksteal tests/unit tests/properties/test_codec.py

# Two at a time, each with a broker and a Spark of its own; a file's tests stay together, the long ones come first.
test: check
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# What `make test` runs a short version of, in full.
# Kill the bus at work, and look for what was lost, doubled or altered.
KILLS ?= 200
faults: setup
	$(BIN)/python -m tests.faults.kill --kills $(KILLS) $(if $(SEED),--seed $(SEED))

# Records of hostile and broken bytes through Spark, each held against a reader in plain Python.
CASES ?= 10000
hostile: setup
	CASES=$(CASES) SEED=$(or $(SEED),4) $(BIN)/pytest tests/faults/test_hostile.py

# Rows published while the bus is away: memory and disk that they take, and their order once it is back.
ROWS ?= 1000000
away: setup
	FAULTS_ROWS=$(ROWS) $(BIN)/pytest tests/faults/test_away.py

# Measure Suibus beside what one would pick instead, on the same data in the same run: build/bench.json and pictures.
bench: $(STAMPS)/bench
	$(BIN)/python -m tests.benchmarks

bench-quick: $(STAMPS)/bench
	$(BIN)/python -m tests.benchmarks --quick

$(STAMPS)/bench: requirements-bench.lock | setup
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --require-hashes -r requirements-bench.lock
	@touch $@

# Pin again after a change of pyproject.toml or of the jars' coordinates.
LOCK = $(UV) pip compile pyproject.toml --python-version 3.11 --python-platform x86_64-unknown-linux-gnu --generate-hashes \
  --allow-unsafe --no-emit-index-url --custom-compile-command "make lock" --quiet
lock:
	$(LOCK) --extra city --extra fast --extra parquet --extra postgres --extra dev -o requirements.lock
	$(LOCK) --extra city --extra fast --extra parquet --extra postgres --extra dev --extra bench -o requirements-bench.lock
	$(MAKE) $(STAMPS)/packages
	$(BIN)/python -m infra.jvm.jars --lock

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
