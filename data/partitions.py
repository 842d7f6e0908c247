"""Partitions of a data set among clients, by flwr-datasets' partitioners."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .image_set import DataError, ImageSet

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

PARTITIONS = ("iid", "dirichlet", "dirichlet-equal", "pathological", "natural")
MIN_EXAMPLES = 2  # one to train on and one to test with
REMEDIES = {
    "dirichlet": "raise alpha, or lower num-clients",
    "dirichlet-equal": "raise alpha",
    "pathological": "lower num-clients or classes-per-client",
}


def partition(
    images: ImageSet,
    kind: str,
    num_clients: int,
    *,
    alpha: float = 0.5,
    classes_per_client: int = 2,
    seed: int = 0,
) -> list[np.ndarray]:
    """Divide a data set among clients.

    Parameters
    ----------
    images : ImageSet
        What is divided.
    kind : str
        ``iid``: equal parts at random. ``dirichlet``: each class is divided by shares drawn from
        a Dirichlet distribution. ``dirichlet-equal``: parts of one size (plus or minus one); each
        client's images are drawn by class chances of its own from a Dirichlet distribution, until
        a class is used up. ``pathological``: each client gets some of the classes only,
        client i the i-th and others at random; a class may fall to no client. ``natural``: each
        client gets the images of one owner, in the order of the owners' names; with fewer
        clients than owners, the first ones.
    num_clients : int
        Number of clients.
    alpha : float
        Concentration of the Dirichlet distribution: the smaller, the more uneven.
    classes_per_client : int
        Number of classes of each client in the pathological partition.
    seed : int
        The same seed gives the same partition.

    Returns
    -------
    list[np.ndarray]
        For each client the sorted positions of its images, at least two; no image has two
        clients.

    Raises
    ------
    DataError
        If the request cannot be met; the message says what to change.

    References
    ----------
    Hsu et al., "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification", 2019 (Dirichlet). Acar et al., "Federated Learning Based on Dynamic
    Regularization", 2021 (equal parts). Li et al., "Federated Learning on Non-IID Data Silos: An
    Experimental Study", 2022 (pathological).
    """
    from datasets import Dataset
    from flwr_datasets.partitioner import IidPartitioner

    if num_clients < 1:
        raise DataError(f"num-clients: {num_clients} must be 1 or more.")
    match kind:
        case "iid":
            partitioner = IidPartitioner(num_clients)
        case "dirichlet":
            partitioner = _dirichlet(num_clients, alpha, seed)
        case "dirichlet-equal":
            partitioner = _dirichlet_equal(len(images), num_clients, alpha, seed)
        case "pathological":
            partitioner = _pathological(images.labels, num_clients, classes_per_client, seed)
        case "natural":
            partitioner = _natural(images.owners, num_clients)
        case _:
            raise DataError(f"partition: '{kind}' is not one of {', '.join(PARTITIONS)}.")

    if num_clients * MIN_EXAMPLES > len(images):
        most = len(images) // MIN_EXAMPLES
        raise DataError(
            f"num-clients: {num_clients} clients need {MIN_EXAMPLES} images each and there are "
            f"{len(images)}; {f'lower num-clients to {most} or less' if most else 'add images'}."
        )

    # The partitioners cut runs of rows, so the rows come in random order.
    order = np.random.default_rng(seed).permutation(len(images))
    # Numbered without gaps: for equal parts the labels must be 0 to the number of classes.
    labels = np.unique(images.labels, return_inverse=True)[1]
    columns = {"index": order, "label": labels[order]}
    if images.owners is not None:
        columns["owner"] = np.asarray(images.owners)[order]
    partitioner.dataset = Dataset.from_dict(columns)
    parts = _parts(partitioner, num_clients)
    if min(map(len, parts), default=0) < MIN_EXAMPLES:
        raise DataError(
            f"partition: {kind} cannot give each of {num_clients} clients {MIN_EXAMPLES} images "
            f"or more; {REMEDIES[kind]}."
        )
    if unused := set(images.labels) - set(images.labels[np.concatenate(parts)]):
        names = ", ".join(images.classes[label] for label in sorted(unused))
        warnings.warn(f"no client has images of the class {names}.", stacklevel=2)
    return parts


def partition_test(
    test: ImageSet, train: ImageSet, kind: str, num_clients: int, **options: Any
) -> list[np.ndarray]:
    """Divide a test set as `partition` divides the training set it belongs to.

    A client gets images of the same owner, the same classes, or by the same class chances.

    Parameters
    ----------
    test, train : ImageSet
        What is divided, and the training set.
    kind : str
        Any of `PARTITIONS` but ``dirichlet``, where the shares of two sets are drawn apart.
    num_clients : int
    **options
        Further arguments of `partition`, the same as for the training set.

    Returns
    -------
    list[np.ndarray]
        For each client the sorted positions of its test images, at least one.

    Raises
    ------
    DataError
        If the request cannot be met; the message says what to change.
    """
    if kind == "natural":
        return _parts_of_owners(test, train, num_clients)
    if kind == "dirichlet":
        raise DataError(
            "client-test: central needs a partition that divides two sets alike, which dirichlet "
            "does not; set partition to dirichlet-equal, or client-test to split."
        )
    if kind != "iid" and {*test.labels} != {*train.labels}:
        raise DataError(
            "client-test: central needs test images of the classes that are trained on, no more "
            "and no fewer; set client-test to split."
        )
    return partition(test, kind, num_clients, **options)


def _parts_of_owners(test: ImageSet, train: ImageSet, num_clients: int) -> list[np.ndarray]:
    owners = np.asarray(test.owners or ())
    names = sorted({*(train.owners or ())})[:num_clients]
    parts = [np.flatnonzero(owners == name) for name in names]
    for name, part in zip(names, parts, strict=True):
        if not len(part):
            raise DataError(
                f"client-test: central finds no test images of client '{name}'; set client-test "
                "to split."
            )
    return parts


def _parts(partitioner: Partitioner, num_clients: int) -> list[np.ndarray]:
    """Return each client's sorted positions, or nothing if the partitioner gives up."""
    # They warn of every repeated attempt, and draw progress bars.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            return [
                np.sort(np.asarray(partitioner.load_partition(client)["index"]))
                for client in range(num_clients)
            ]
        except ValueError:
            return []


def _check_alpha(alpha: float) -> float:
    if not 0 < alpha < math.inf:
        raise DataError(f"alpha: {alpha} must be above 0 and finite.")
    return float(alpha)


def _dirichlet(num_clients: int, alpha: float, seed: int) -> Partitioner:
    from flwr_datasets.partitioner import DirichletPartitioner

    # self_balancing would be no Dirichlet partition: which classes a client can get would depend
    # on their order, as a client with its share of images is shut out from the later ones.
    return DirichletPartitioner(
        num_clients,
        "label",
        _check_alpha(alpha),
        min_partition_size=MIN_EXAMPLES,
        self_balancing=False,
        shuffle=False,
        seed=seed,
    )


def _dirichlet_equal(num_images: int, num_clients: int, alpha: float, seed: int) -> Partitioner:
    from flwr_datasets.partitioner import InnerDirichletPartitioner

    # The class chances are drawn before anything else: the same for two sets of one seed.
    sizes = np.full(num_clients, num_images // num_clients)
    sizes[: num_images % num_clients] += 1
    return InnerDirichletPartitioner(sizes, "label", _check_alpha(alpha), shuffle=False, seed=seed)


def _pathological(
    labels: np.ndarray, num_clients: int, classes_per_client: int, seed: int
) -> Partitioner:
    from flwr_datasets.partitioner import PathologicalPartitioner

    num_classes = len(np.unique(labels))
    if not 1 <= classes_per_client <= num_classes:
        raise DataError(
            f"classes-per-client: {classes_per_client} must be 1 to {num_classes}, the number of "
            "classes with images."
        )
    return PathologicalPartitioner(
        num_clients,
        "label",
        classes_per_client,
        class_assignment_mode="first-deterministic",
        shuffle=False,
        seed=seed,
    )


def _natural(owners: Sequence[str] | None, num_clients: int) -> Partitioner:
    from flwr_datasets.partitioner import NaturalIdPartitioner

    if owners is None:
        raise DataError(
            'partition: natural needs images that name their owner, as dataset "femnist" has '
            'them, and "folder" in client/class folders; choose another partition.'
        )
    counts = Counter(owners)
    if num_clients > len(counts):
        raise DataError(
            f"num-clients: {num_clients} is more than the {len(counts)} owners in the data; lower "
            f"num-clients to {len(counts)} or less."
        )
    for owner in sorted(counts)[:num_clients]:
        if counts[owner] < MIN_EXAMPLES:
            raise DataError(
                f"partition: natural gives client '{owner}' {counts[owner]} image, and a client "
                f"needs {MIN_EXAMPLES} or more; add images to it, or remove it from the data."
            )
    return NaturalIdPartitioner("owner")
