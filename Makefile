# Leather defects with Vision Transformers. `make help` explains the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
NOTEBOOKS := 1.0.download-datasets 2.0-EDA-Leather-Defect-dataset 3.0-EDA-MVTec-dataset 4.0.model-training \
  5.0.inspect-your-leather
SHELL := /bin/bash
TORCH ?= default
CPU_INDEX := https://download.pytorch.org/whl/cpu
ON_ALL_CORES := -n logical --maxprocesses 4 --dist loadfile

KNOWN := PYTHON TORCH NOTEBOOKS PICTURES NORMALS MASK MM_PER_PIXEL CLASSIFIER THRESHOLD RULES OUTPUT WEIGHTS BENCHMARK
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
$(if $(filter-out $(KNOWN),$(GIVEN)),$(error unknown: $(filter-out $(KNOWN),$(GIVEN)); the variables are $(KNOWN)))

.DEFAULT_GOAL := help
.PHONY: help setup demo notebooks test fuzz lint links docs lab tensorboard sample inspect baselines benchmark strip clean chaos audit test-lowest

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(if $(filter cpu,$(TORCH)),$(BIN)/python -m pip install --quiet torch torchvision --index-url $(CPU_INDEX))
	$(BIN)/python -m pip install --quiet '.[full]'
	touch $@

$(BIN)/.installed-dev: requirements-dev.txt $(BIN)/.installed
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

setup: $(BIN)/.installed ## Make .venv and install all (6 GB, minutes); TORCH=cpu takes the small PyTorch for processors

demo: $(BIN)/.installed ## Run the five notebooks on the built-in sample; reports/sample, reports/notebooks
	@mkdir -p reports/notebooks
	@for notebook in $(NOTEBOOKS); do \
	  echo "== $$notebook"; \
	  LEATHER_SOURCE=sample $(BIN)/jupyter nbconvert --log-level=WARN --to notebook --execute \
	    --KernelManager.transport=ipc \
	    --NotebookExporter.preprocessors=nbconvert.preprocessors.CoalesceStreamsPreprocessor \
	    --CoalesceStreamsPreprocessor.enabled=True --output-dir reports/notebooks "$$notebook.ipynb" || exit 1; \
	done
	@echo "Executed notebooks: reports/notebooks/   Reports: reports/sample/"

notebooks: $(BIN)/.installed-dev ## NOTEBOOKS=names: run notebooks on the real data, outputs in place (4.0: 50 minutes on two cores)
	$(BIN)/python -m tools.run_notebooks $(addsuffix .ipynb,$(NOTEBOOKS))

test: $(BIN)/.installed-dev ## Lint, unit tests, and the five notebooks in a tiny mode
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest $(ON_ALL_CORES)

fuzz: $(BIN)/.installed-dev ## Try 100,000 damaged inputs, hours; goes on where it was stopped, findings in work/fuzz
	$(BIN)/python -m tests.fuzz

lint: $(BIN)/.installed-dev ## Only the linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

links: $(BIN)/.installed-dev ## Do the external links of the pages answer? Says so without a network
	$(BIN)/python -m tests.links

docs: $(BIN)/.installed-dev ## API pages from the docstrings, in docs/api (without what needs Ray)
	$(BIN)/python -m pdoc src '!src.inspection.scale' '!src.inspection.stored' --docformat google --no-show-source --output-directory docs/api

lab: $(BIN)/.installed ## Open JupyterLab
	$(BIN)/jupyter lab

tensorboard: $(BIN)/.installed ## Watch the trainings in logs/
	$(BIN)/tensorboard --logdir logs

sample: $(BIN)/.installed ## Only make the built-in sample data
	$(BIN)/python -m src.data.download --source sample

inspect: $(BIN)/.installed ## PICTURES=folder: find defects on your own photographs; docs/inspect.md names the other variables
	$(BIN)/python -m src.inspection "$(PICTURES)" $(if $(NORMALS),--normals "$(NORMALS)") $(if $(MASK),--mask "$(MASK)") \
	  $(if $(MM_PER_PIXEL),--mm-per-pixel $(MM_PER_PIXEL)) $(if $(CLASSIFIER),--classifier "$(CLASSIFIER)") \
	  $(if $(THRESHOLD),--threshold $(THRESHOLD)) $(if $(RULES),--rules "$(RULES)") $(if $(OUTPUT),--output "$(OUTPUT)") \
	  $(if $(WEIGHTS),--weights "$(WEIGHTS)")

baselines: $(BIN)/.installed ## Fill the table of baselines, 25 minutes on two cores (needs the six-class set and 2.0)
	$(BIN)/python -m benchmarks.baselines

benchmark: $(BIN)/.installed ## Measure speed (WEIGHTS=file of DINOv2 ViT-S/14; needs MVTec AD leather), minutes
	$(BIN)/python -m benchmarks.speed --weights "$(WEIGHTS)" $(BENCHMARK)

chaos: $(BIN)/.installed-dev ## Kill sample, download, training, baselines and inspection 100 times (an hour; goes on when called again)
	$(BIN)/python -m tools.chaos

audit: $(BIN)/.installed-dev ## Look for known vulnerabilities of what is installed (needs pypi.org)
	@$(BIN)/python -c 'import requests; requests.get("https://pypi.org/pypi/pip/json", timeout=10).raise_for_status()' \
	  2>/dev/null || { echo "make audit: the list of vulnerabilities at pypi.org cannot be reached; NOTHING WAS CHECKED"; exit 2; }
	$(BIN)/python -m pip_audit --skip-editable --progress-spinner off

$(LOWEST)/.installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(LOWEST)
	sed -E 's/ *#.*//; s/>=/==/' requirements.txt > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet -r $(LOWEST)/lowest.txt -r requirements-dev.txt
	touch $@

test-lowest: $(LOWEST)/.installed ## The tests with the lowest versions that requirements.txt allows (.venv-lowest, 6 GB)
	$(LOWEST)/bin/python -m pytest $(ON_ALL_CORES)

strip: $(BIN)/.installed-dev ## Take the outputs out of the notebooks
	$(BIN)/nbstripout *.ipynb

clean: ## Remove the sample's data, models, logs and reports (real runs and .venv stay)
	rm -rf data/sample reports/sample reports/notebooks logs/sample models/sample.pth models/sample.training.pt
