# make setup once, then make demo. Needs Python 3.11 or 3.12, Java 17 or 21, and the network for setup.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
UV ?= uv
BIN := .venv/bin
STAMPS := .venv/stamps

.PHONY: setup help demo check unit test faults hostile away bench bench-quick lock clean
.DELETE_ON_ERROR:

setup: $(STAMPS)/jars ## Install everything. 安装。
	@echo "Suibus is set up. Next: make demo · Suibus 已就绪，下一步：make demo"

help: ## List the targets. 列出全部目标。
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

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

$(STAMPS)/jars: $(STAMPS)/packages infra/jvm/jars.py infra/jvm/jars.lock infra/jvm/spark.py infra/operate/make_class_archives.py
	$(BIN)/python -m infra.jvm.jars
	$(BIN)/python -m infra.operate.make_class_archives
	@touch $@

demo: setup ## Run the demo with real registers. 用真实名录演示。
	$(BIN)/suibus demo

check: setup ## Check style, types and imports. 检查代码风格、类型和引用关系。
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup ## Run the tests that need no broker and no Spark, in 30 s. 运行无需消息代理和 Spark 的测试。
	$(BIN)/pytest -n 2 --dist worksteal tests/unit tests/properties/test_codec.py

# Two processes, each with its own broker and Spark; the tests of one file run in one process, in the order given (long files first).
test: check ## Run all checks and tests. 运行全部检查和测试。
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# The three targets that follow run in full what `make test` runs in short.
KILLS ?= 200
faults: setup ## Kill the bus KILLS times; look for lost, doubled or altered rows. 多次强制结束总线，检查丢失、重复或改变的行。
	$(BIN)/python -m tests.faults.kill --kills $(KILLS) $(if $(SEED),--seed $(SEED))

CASES ?= 10000
hostile: setup ## Send CASES broken records; compare each with a plain Python reader. 发送损坏的记录，逐条与 Python 读取结果比较。
	CASES=$(CASES) SEED=$(or $(SEED),4) $(BIN)/pytest tests/faults/test_hostile.py

ROWS ?= 1000000
away: setup ## Publish ROWS rows while the bus is unreachable; check memory, disk and order. 总线连不上时发布，检查内存、磁盘和顺序。
	FAULTS_ROWS=$(ROWS) $(BIN)/pytest tests/faults/test_away.py

bench: $(STAMPS)/bench ## Compare Suibus with the usual alternatives: build/bench.json and pictures. 与通常的做法对比性能。
	$(BIN)/python -m tests.benchmarks

bench-quick: $(STAMPS)/bench ## The same with less data, in six minutes. 同上，数据较少，约六分钟。
	$(BIN)/python -m tests.benchmarks --quick

$(STAMPS)/bench: requirements-bench.lock | setup
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --require-hashes -r requirements-bench.lock
	@touch $@

# Run it after a change of pyproject.toml or of the jars' coordinates.
LOCK = $(UV) pip compile pyproject.toml --python-version 3.11 --python-platform x86_64-unknown-linux-gnu --generate-hashes \
  --allow-unsafe --no-emit-index-url --custom-compile-command "make lock" --quiet
lock: ## Pin the versions and hashes of wheels and jars anew. 重新锁定 wheel 与 jar 的版本和散列。
	$(LOCK) --extra city --extra fast --extra parquet --extra postgres --extra dev -o requirements.lock
	$(LOCK) --extra city --extra fast --extra parquet --extra postgres --extra dev --extra bench -o requirements-bench.lock
	$(MAKE) $(STAMPS)/packages
	$(BIN)/python -m infra.jvm.jars --lock

clean: ## Remove the virtual environment and everything built. 删除虚拟环境和全部生成的文件。
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
