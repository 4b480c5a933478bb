# make demo          a first run that needs no data: write synthetic images, split, train, evaluate, export, predict
# make test          lint, and every test except the slow ones;  make test-slow  the slow ones too
# make soak          new random cases: properties, hostile files, kills, sanitizers (about an hour)
# make check-photos  the numbers of the README on the real photographs
PYTHON ?= python3
PY = .venv/bin/python
STAMP = .venv/.installed
SUPPORTED = -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'
DEMO = datasets/demo
RUN = output/demo

.PHONY: demo test test-slow soak lint check-photos clean
.DELETE_ON_ERROR:

demo: $(STAMP) $(DEMO)/split.json
	$(PY) -m paddle_attn train -c demo --resume
	$(PY) -m paddle_attn eval -c demo --weights $(RUN)/best.pdparams
	$(PY) -m paddle_attn export -c demo --weights $(RUN)/best.pdparams --out inference/demo
	$(PY) -m paddle_attn predict --model inference/demo --topk 3 $(foreach c,arrow heart ring star,$(DEMO)/eval/$(c)/synthetic_0001.png) --csv $(RUN)/predictions.csv
	@echo
	@echo "Made: $(DEMO)/    the synthetic images, train/ and eval/, and split.json"
	@echo "      $(RUN)/      best.pdparams, last.pdparams, history.csv, curves.png,"
	@echo "                        metrics.json, confusion.png, eval_predictions.csv,"
	@echo "                        predictions.csv, vdl/"
	@echo "      inference/demo/   inference.json, inference.pdiparams, inference.yml"
	@echo "Watch the curves with: .venv/bin/visualdl --logdir output --language en"

$(DEMO)/split.json: | $(STAMP)
	$(PY) -m paddle_attn split --source demo --out $(DEMO)

test: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -c "from paddle_attn import ops; ops.available('simam')"  # compiles the operators, before two processes do
	$(PY) -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(STAMP)
	$(PY) -m pytest

# tests use fixed cases; here Hypothesis and the seed draw new ones. A failure reports the case or the seed that repeats it
soak: SEED := $(shell date +%s)
soak: $(STAMP)
	$(PY) -m pytest -m hypothesis --hypothesis-profile=random
	$(PY) tests/soak/hostile.py --seed $(SEED) --out output
	$(PY) tests/soak/kills.py --seed $(SEED)
	$(PY) tests/soak/sanitizers.py

lint: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# PHOTOS is a .zip, a .tar.gz or a folder, with one folder per class
PHOTOS ?= ../shared/data/Images.zip
check-photos: $(STAMP)
	$(PY) tests/check_photos.py $(PHOTOS)

# a .venv that does not run any more, or is of another Python, is made again, although its stamp exists
ifneq ($(shell $(PY) $(SUPPORTED) >/dev/null 2>&1 && echo yes),yes)
.PHONY: $(STAMP)
endif

# the stamp is written last, so an interrupted installation starts again; a changed setup.py installs again
$(STAMP): setup.py
	@$(PY) $(SUPPORTED) >/dev/null 2>&1 && $(PY) -m pip --version >/dev/null 2>&1 || \
	if $(PYTHON) $(SUPPORTED) >/dev/null 2>&1; then $(PYTHON) -m venv --clear .venv; else \
		echo "error: expected Python 3.10, 3.11 or 3.12, found $$($(PYTHON) --version 2>&1): pass PYTHON=python3.12" >&2; \
		exit 2; \
	fi
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[cpu,dev,onnx,web]"
	touch $(STAMP)

clean:
	rm -rf .venv build paddle_attn.egg-info
