# `make serve` and `make test` need Python 3.11 or newer; they set up everything else in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: serve test docs test-scale serve-ray test-docker bench soak fuzz audit wheel env-train env-jax env-torch prepare models model-A model-B model-C compare lint format lock clean

serve: $(VENV)/.serve ## Run the service on http://127.0.0.1:8000
	-$(BIN)/agegender fetch-detector
	$(BIN)/agegender serve

test: $(VENV)/.dev ## Run the tests; those of the training job too where `make env-train` was run
	$(BIN)/python -m pytest

# Without --quiet, which would make MkDocs forget the warnings that --strict turns into errors.
docs: $(VENV)/.dev ## Build the documentation: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

test-docker: $(VENV)/.dev ## Build the images and test them, where a Docker engine answers
	@if docker info > /dev/null 2>&1; then \
	  AGEGENDER_TEST_DOCKER=1 $(BIN)/python -m pytest tests/docker; \
	else \
	  echo 'No Docker engine answers here (docker info): the tests of the images were skipped.'; \
	fi

# Ray takes much room: it has an environment of its own. Its warnings are its own, too.
test-scale: ## Test what runs on Ray, on a cluster of two nodes on this machine
	$(MAKE) VENV=$(VENV)-scale $(VENV)-scale/.scale $(VENV)-scale/moto/.installed
	timeout 300 $(VENV)-scale/bin/python -m pytest -W ignore tests/scale

serve-ray: ## Run the service on Ray Serve on http://127.0.0.1:8000: see docs/scale.md
	$(MAKE) VENV=$(VENV)-scale $(VENV)-scale/.scale
	-$(VENV)-scale/bin/agegender fetch-detector
	RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=agegender.scale.serving:proxy_middlewares \
	  $(VENV)-scale/bin/serve run agegender.scale.serving:app

bench: $(VENV)/.dev ## Measure speed and memory: see benchmarks/README.md
	$(BIN)/python -m benchmarks

soak: $(VENV)/.dev ## Watch the service's memory over 50,000 requests, good and bad
	$(BIN)/python -m benchmarks soak

fuzz: $(VENV)/.fuzz ## Fuzz the decoder with Atheris: 100,000 inputs, or as many as 10 minutes allow
	$(BIN)/python fuzz/fuzz_decode.py -runs=100000 -max_total_time=600

# --strict: a package that the database does not know is an error, or an incomplete mirror would pass.
audit: $(VENV)/audit/.installed ## Check the pinned packages against the database of known vulnerabilities
	@$(VENV)/audit/bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off --timeout 10 \
	  $(patsubst %,-r requirements/%.txt,serve build dev train jax torch scale) > $(VENV)/audit/report 2>&1; \
	result=$$?; \
	if grep -q 'could not be audited\|requests.exceptions' $(VENV)/audit/report; then \
	  echo 'The database of known vulnerabilities cannot be reached from here: no package was audited.'; \
	else \
	  cat $(VENV)/audit/report; exit $$result; \
	fi

env-train: $(VENV)/.train ## Install what training needs, TensorFlow above all

env-jax: $(VENV)/.jax ## Install JAX too, for training over several processes

env-torch: $(VENV)/.torch ## Install PyTorch too, some 5 GB, for training twice as fast on a CPU

# Make a model by its recipe, from the archives or folders named here. A run that was stopped goes on. IMAGENET=FILE
# where the weights cannot be downloaded, YUNET=FILE where YuNet cannot. A and B also need RECOGNIZER=w600k_mbf.onnx.
UTKFACE ?= data/UTKFace.tar.gz
FAIRFACE ?= data/fairface.tar.gz
IMAGENET ?= imagenet
TRAIN := $(BIN)/python -m training
FACES := --utkface $(UTKFACE) $(FAIRFACE:%=--fairface %)
MAKE_MODEL := $(TRAIN) make --imagenet $(IMAGENET) $(if $(RECOGNIZER),--recognizer $(RECOGNIZER))

models: model-A model-B model-C ## Make the models anew: UTKFACE=... FAIRFACE="... ..." RECOGNIZER=...

prepare: $(VENV)/.train
	$(if $(YUNET),,$(BIN)/agegender fetch-detector)
	$(TRAIN) prepare $(FACES) $(if $(YUNET),--yunet $(YUNET))

model-A model-B model-C: prepare
	$(MAKE_MODEL) $(@:model-%=%)

model-A: runs/A_before/age_gender_A.keras
model-B: runs/B_before/age_gender_B.keras

# The A and B that these go on from.
runs/A_before/age_gender_A.keras runs/B_before/age_gender_B.keras:
	mkdir -p $(@D)
	git show 94a15dc:models/$(@F) > $@

model-C: runs/C_first/age_gender_C_first.keras

runs/C_first/age_gender_C_first.keras: | prepare
	$(MAKE_MODEL) C_first --models $(@D)

compare: $(VENV)/.train ## Measure the models and a package with weights of its own on the test images
	$(TRAIN) compare $(FACES)

wheel: $(VENV)/.serve ## Build the wheel and the source distribution, with the models that are served: dist/
	$(BIN)/python -m hatchling build

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/typos
	$(BIN)/mypy
	# Less strict: the types of NumPy and OpenCV are too narrow for tests, Keras has none, and what these codes find fails
	# a test anyway.
	$(BIN)/mypy --no-warn-unused-ignores $(patsubst %,--disable-error-code=%,arg-type attr-defined comparison-overlap \
	  index misc no-any-return override union-attr) --exclude '^tests/(training/|.+/conftest.py$$)' tests

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: name one, as in `make PYTHON=python3.13 serve`.' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: requirements/serve.txt requirements/build.txt pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements/serve.txt
	$(PIP) --require-hashes -r requirements/build.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.serve
	$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/.train: requirements/train.txt $(VENV)/.serve
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 14))' || \
	  { echo 'Training needs Python 3.11 to 3.13: TensorFlow wants an h5py that has no wheel for 3.14.' >&2; exit 1; }
	$(PIP) --require-hashes -r requirements/train.txt
	@touch $@

$(VENV)/.jax $(VENV)/.torch: $(VENV)/.%: requirements/%.txt $(VENV)/.train
	$(PIP) --require-hashes -r $<
	@touch $@

$(VENV)/.scale: requirements/scale.txt $(VENV)/.dev
	$(PIP) --require-hashes -r requirements/scale.txt
	@touch $@

$(VENV)/.fuzz: requirements/fuzz.txt $(VENV)/.dev
	$(PIP) --require-hashes -r requirements/fuzz.txt
	@touch $@

# pip-audit, and moto, which stands in for S3, ask for other versions of packages than ours.
$(VENV)/%/.installed: requirements/%.txt | $(BIN)/python
	$(BIN)/python -m venv --clear $(VENV)/$*
	$(VENV)/$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# Needs uv. Pinned versions stay unless UPGRADE=--upgrade; no file records where packages come from.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-header --no-annotate $(UPGRADE)

lock:
	$(LOCK) pyproject.toml -o requirements/serve.txt
	$(LOCK) pyproject.toml --extra dev -c requirements/serve.txt -o requirements/dev.txt
	$(LOCK) pyproject.toml --extra train -c requirements/dev.txt -o requirements/train.txt
	$(LOCK) pyproject.toml --extra scale -c requirements/dev.txt -o requirements/scale.txt
	echo 'hatchling>=1.27' | $(LOCK) - -c requirements/train.txt -o requirements/build.txt
	echo 'atheris>=3,<3.1' | $(LOCK) - -o requirements/fuzz.txt
	echo 'jax>=0.7' | $(LOCK) - -c requirements/train.txt -o requirements/jax.txt
	echo 'torch>=2.8' | $(LOCK) - -c requirements/train.txt -o requirements/torch.txt
	echo 'pip-audit>=2.9' | $(LOCK) - -o requirements/audit.txt
	printf 'flask\nflask-cors\nmoto[s3]>=5\n' | $(LOCK) - -o requirements/moto.txt

clean:
	rm -rf $(VENV) $(VENV)-scale site dist
