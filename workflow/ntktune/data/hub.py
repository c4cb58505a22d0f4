"""The Hugging Face hub: data sets and models at a pinned revision.

Only formats that hold data are fetched (parquet, JSON, CSV; safetensors): nothing
that would have to be run or unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ntktune.device import is_out_of_memory
from ntktune.errors import UserError, one_line
from ntktune.store.files import file_sha256

if TYPE_CHECKING:
    from huggingface_hub import RepoFile, RepoFolder

MODEL_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
)


TOO_MANY_REQUESTS = 429


class HubUnavailableError(Exception):
    """The hub, or a repository or revision on it, cannot be reached; one line says why."""


def _in_trouble(error: Exception) -> bool:
    """Return whether an error of the hub's client says that the hub is there, but in trouble."""
    status = getattr(getattr(error, "response", None), "status_code", None) or 0
    return status == TOO_MANY_REQUESTS or status >= 500 or type(error).__name__ == "ReadTimeout"


def resolved_commit(repository: str, revision: str, kind: str) -> str:
    """Return the commit that a revision of a repository (model, dataset) stands for.

    Raises
    ------
    HubUnavailableError
        The hub cannot be reached or does not know the repository or revision.
    UserError
        It is in trouble: to go on without it would give other data for an outage of seconds.
    """
    from huggingface_hub import HfApi

    try:
        return HfApi().repo_info(repository, revision=revision, repo_type=kind, timeout=30).sha
    # the hub's client raises its own, its transport's and Python's errors alike
    except Exception as error:
        told = f"{repository} at {revision} cannot be had from the hub: {one_line(error)}"
        raise (
            UserError(f"{told}; try again") if _in_trouble(error) else HubUnavailableError(told)
        ) from None


def hub_files(
    repository: str,
    config: str | None,
    revision: str,
    files: dict[str, str | list[str]] | None,
    splits: dict[str, list[str]],
) -> tuple[dict[str, dict[str, Path]], str]:
    """Download the files that hold the splits of a data set on the hub.

    Parameters
    ----------
    repository, config, revision
        As the hub calls them.
    files
        Paths inside the repository by split, where its own layout does not tell them.
    splits
        The data set's splits that form each of ours, in order.

    Returns
    -------
    files : dict
        By split of ours: path inside the repository to path here.
    commit : str
        What the revision stands for.

    Raises
    ------
    HubUnavailableError
        The data set cannot be had.
    UserError
        It has no split of that name; or the hub, which has it, is in trouble, or sent something
        that is not what it states.
    """
    import datasets
    from huggingface_hub import constants

    datasets.disable_progress_bars()
    offline = constants.HF_HUB_OFFLINE
    # offline, an earlier download may still be in the local cache
    commit = revision if offline else resolved_commit(repository, revision, "dataset")
    try:
        found = _data_files(repository, config, commit, files)
        missing = [name for names in splits.values() for name in names if name not in found]
        if missing:
            raise UserError(
                f"{repository} has no split {missing[0]!r}; it has {', '.join(found)}; "
                "correct `splits`"
            )
        named = {
            ours: [path for name in theirs for path in found[name]]
            for ours, theirs in splits.items()
        }
        wanted = sorted({path for paths in named.values() for path in paths})
        folder = _fetched(repository, commit, wanted)
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        told = f"{repository} at {revision} cannot be loaded: {one_line(error)}"
        raise (HubUnavailableError(told) if offline else UserError(f"{told}; try again")) from None
    return {ours: {path: folder / path for path in paths} for ours, paths in named.items()}, commit


def _data_files(
    repository: str, config: str | None, commit: str, files: dict | None
) -> dict[str, list[str]]:
    """Return the paths inside a repository of each of a data set's splits.

    The library reads the layout (names of files and folders, or the card); of the rows it reads
    nothing: it takes words such as "null" for missing values.
    """
    import datasets
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        folder = _fetched(repository, commit, [])
        builder = datasets.load_dataset_builder(str(folder), config, data_files=files)
        start = f"{folder}/"
    else:
        builder = datasets.load_dataset_builder(
            repository, config, revision=commit, data_files=files
        )
        start = f"hf://datasets/{repository}@{commit}/"
    found = builder.config.data_files or {}
    return {str(name): [p.removeprefix(start) for p in paths] for name, paths in found.items()}


def _fetched(repository: str, commit: str, names: list[str]) -> Path:
    """Return the folder of a data set's files, downloaded and compared with its checksums."""
    from huggingface_hub import HfApi, constants, snapshot_download

    names = ["README.md", *names]  # the card tells the layout to an offline run
    folder = snapshot_download(
        repository, repo_type="dataset", revision=commit, allow_patterns=list(map(escape, names))
    )
    if not constants.HF_HUB_OFFLINE:
        there = HfApi().get_paths_info(repository, names, revision=commit, repo_type="dataset")
        _check_download(Path(folder), there, f"the data set {repository}")
    return Path(folder)


def download_model(
    repository: str, revision: str, files: Sequence[str] = MODEL_FILES
) -> tuple[Path, str]:
    """Download a model's configuration, tokenizer and safetensors weights; return folder, commit.

    With ``files`` only those whose names match one of these patterns.

    Raises
    ------
    UserError
        The hub cannot be reached, or what came is not what the hub says it has.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        commit = resolved_commit(repository, revision, "model")
        folder = Path(
            snapshot_download(
                repository,
                revision=commit,
                allow_patterns=list(files),
                ignore_patterns=["*/*"],  # other formats' copies lie in folders
            )
        )
        there = list(HfApi().list_repo_tree(repository, revision=commit, repo_type="model"))
    except UserError as error:
        raise UserError(f"the model {error}") from None
    except HubUnavailableError as error:
        raise UserError(
            f"the model {error}; check the name, the revision and the network"
        ) from None
    except Exception as error:
        raise UserError(f"the model {repository} at {revision}: {one_line(error)}") from None
    _check_download(folder, there, f"the model {repository} at {revision}")
    return folder, commit


def _check_download(folder: Path, there: Iterable[RepoFile | RepoFolder], what: str) -> None:
    """Compare downloaded files with the hub's checksums, which its client does not.

    Raises
    ------
    UserError
        One differs; it is removed, so that the next call downloads it again.
    """
    for entry in there:
        file = folder / entry.path
        if not file.is_file():
            continue
        if entry.lfs:
            stated, found = entry.lfs.sha256, file_sha256(file)
        else:  # git's name of a file: SHA-1 of its length and content
            content = file.read_bytes()
            blob = b"blob %d\0" % len(content) + content
            stated = entry.blob_id
            found = hashlib.sha1(blob, usedforsecurity=False).hexdigest()
        if found != stated:
            file.resolve().unlink()
            file.unlink(missing_ok=True)  # a link into the cache
            raise UserError(
                f"{what}: {entry.path} came with the checksum {found}, but the hub states "
                f"{stated}; it was removed: run the same command again to download it anew"
            )
