"""Data sets of the Hugging Face hub, also where the hub cannot be reached."""

from __future__ import annotations

import contextlib
from typing import Any

from .image_set import DataError

TIMEOUT = 5.0  # seconds


def load_hub_splits(hub_id: str, remedy: str) -> Any:
    """Return a data set's splits: what an earlier run downloaded, else from the network.

    Parameters
    ----------
    hub_id : str
        Owner and name.
    remedy : str
        What a user without network can set `data-dir` to.

    Returns
    -------
    datasets.DatasetDict

    Raises
    ------
    DataError
        If it was never downloaded and the hub cannot be reached.
    """
    from datasets import load_dataset
    from datasets.packaged_modules.cache.cache import Cache
    from huggingface_hub import HfApi

    name = hub_id.split("/")[1]
    with contextlib.suppress(ValueError):  # It was never downloaded.
        return Cache(dataset_name=name, repo_id=hub_id, version="auto", hash="auto").as_dataset()
    try:
        # load_dataset alone would try an unreachable hub for half a minute.
        HfApi().dataset_info(hub_id, timeout=TIMEOUT)
        return load_dataset(hub_id)
    except Exception as error:  # Whatever the hub's library and its HTTP client raise.
        raise DataError(
            f"dataset: {hub_id} cannot be loaded from the Hugging Face hub "
            f"({type(error).__name__}); connect this machine to the network, set data-dir to "
            f'{remedy}, or choose dataset "digits".'
        ) from None
