"""Loading from the Hugging Face hub without one: a process of its own, a cache as on disk."""

import os
import subprocess
import sys

from support import ROOT


def load_from_hub(names, hub_folder, **environment):
    """Load from the hub with its settings, which are read at import.

    Returns what each source, or its mistake, is; then the errors and the seconds it all took.
    """
    code = f"""
import time
from data import DataError, load_source
import datasets, huggingface_hub
start = time.perf_counter()
for name in {names!r}:
    try:
        source = load_source(name, image_size=224)
        print(source.train.classes, source.train.labels, source.test.images.sum())
    except DataError as error:
        print(error)
print(time.perf_counter() - start)
"""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=inherited | {"HF_HOME": str(hub_folder)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    *printed, seconds = done.stdout.splitlines()
    return printed, done.stderr, float(seconds)


def cache_as_downloaded(hub_id, tables, hub_folder):
    """Put the splits of a data set where a download puts them."""
    import datasets

    owner, name = hub_id.split("/")
    for split, table in tables.items():
        table.to_parquet(hub_folder / name / f"{split}-00000.parquet")
    builder = datasets.load_dataset_builder(
        str(hub_folder / name), cache_dir=str(hub_folder / "work")
    )
    builder.download_and_prepare(
        str(hub_folder / "datasets" / f"{owner}___{name}" / "default" / "0.0.0" / "1234")
    )
