# Leather defects with Vision Transformers. `make help` explains the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NOTEBOOKS := 1.0.download-datasets 2.0-EDA-Leather-Defect-dataset 3.0-EDA-MVTec-dataset 4.0.model-training
SHELL := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint lab tensorboard sample baselines benchmark strip clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet '.[full]'
	touch $@

$(BIN)/.installed-dev: requirements-dev.txt $(BIN)/.installed
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

setup: $(BIN)/.installed ## Make .venv and install the package with all extras (about 6 GB, minutes)

demo: $(BIN)/.installed ## Run the four notebooks on the built-in sample; reports/sample, reports/notebooks
	@mkdir -p reports/notebooks
	@for notebook in $(NOTEBOOKS); do \
	  echo "== $$notebook"; \
	  LEATHER_SOURCE=sample $(BIN)/jupyter nbconvert --log-level=WARN --to notebook --execute \
	    --KernelManager.transport=ipc \
	    --NotebookExporter.preprocessors=nbconvert.preprocessors.CoalesceStreamsPreprocessor \
	    --CoalesceStreamsPreprocessor.enabled=True --output-dir reports/notebooks "$$notebook.ipynb" || exit 1; \
	done
	@echo "Executed notebooks: reports/notebooks/   Reports: reports/sample/"

test: $(BIN)/.installed-dev ## Lint, unit tests, and the four notebooks in a tiny mode
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

lint: $(BIN)/.installed-dev ## Only the linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lab: $(BIN)/.installed ## Open JupyterLab
	$(BIN)/jupyter lab

tensorboard: $(BIN)/.installed ## Watch the trainings in logs/
	$(BIN)/tensorboard --logdir logs

sample: $(BIN)/.installed ## Only make the built-in sample data
	$(BIN)/python -m src.data.download --source sample

baselines: $(BIN)/.installed ## Fill the table of baselines, 25 minutes on two cores (needs the six-class set and 2.0)
	$(BIN)/python -m benchmarks.baselines

benchmark: $(BIN)/.installed ## Measure speed (WEIGHTS=file of DINOv2 ViT-S/14; needs MVTec AD leather), minutes
	$(BIN)/python -m benchmarks.speed --weights "$(WEIGHTS)" $(BENCHMARK)

strip: $(BIN)/.installed-dev ## Take the outputs out of the notebooks
	$(BIN)/nbstripout *.ipynb

clean: ## Remove the sample's data, models, logs and reports (real runs and .venv stay)
	rm -rf data/sample reports/sample reports/notebooks logs/sample models/sample.pth models/sample.training.pt
