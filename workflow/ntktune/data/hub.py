"""The Hugging Face hub: pinned data sets and models, in no format that is run or unpickled."""

from collections.abc import Sequence
from glob import escape
from pathlib import Path

from ntktune.errors import UserError, one_line
from ntktune.network.device import is_out_of_memory
from ntktune.network.loading import reading

# what a tokenizer may consist of
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model"),
)
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", *TOKENIZER_FILES)


class UnavailableError(UserError):
    """A source is not available now; the message is the reason, one line."""


def resolved_commit(repository: str, revision: str, kind: str) -> str:
    """Return the commit that a revision of a repository (model, dataset) stands for.

    Raises UnavailableError if the hub cannot be reached or does not know the repository or
    revision; UserError if the hub is in trouble: an outage of seconds must not give other data.
    """
    from huggingface_hub import HfApi

    try:
        return HfApi().repo_info(repository, revision=revision, repo_type=kind, timeout=30).sha
    # the hub's client raises its own, its transport's and Python's errors alike
    except Exception as error:
        told = f"{'the model ' * (kind == 'model')}{repository} at {revision}"
        told = f"{told} cannot be fetched from the hub: {one_line(error)}"
        status = getattr(getattr(error, "response", None), "status_code", None) or 0
        # too slow, too many requests, or an error of its own
        if type(error).__name__ == "ReadTimeout" or status == 429 or status >= 500:
            raise UserError(f"{told}; try again") from None
        raise UnavailableError(told) from None


def hub_files(source: dict, splits: dict[str, list[str]]) -> tuple[dict[str, dict], str]:
    """Download the files of a data set's splits; return them by split, and the revision's commit.

    ``source`` is a task's ``hub`` source; ``splits`` has the data set's splits that form each of
    ours. A split's files are path inside the repository → path here. Raises UnavailableError if the
    data set is not available; UserError if it lacks a split, or the hub, which has it, is in
    trouble or sent something that is not what it states.
    """
    import datasets
    from huggingface_hub import constants

    datasets.disable_progress_bars()
    offline, repository, revision = constants.HF_HUB_OFFLINE, source["id"], source["revision"]
    # offline, an earlier download may still be in the local cache
    commit = revision if offline else resolved_commit(repository, revision, "dataset")
    what = f"the data set {repository}"
    try:
        # The library reads the layout (names of files and folders, or the card, which an offline
        # run needs), not the rows: it takes words such as "null" for missing values.
        card = ["README.md"]
        where = str(_download(repository, commit, "dataset", card, what)) if offline else repository
        pinned = {"data_files": source["files"], "revision": None if offline else commit}
        builder = datasets.load_dataset_builder(where, source["config"], **pinned)
        start = f"{where}/" if offline else f"hf://datasets/{repository}@{commit}/"
        found = {str(name): paths for name, paths in (builder.config.data_files or {}).items()}
        if missing := [name for names in splits.values() for name in names if name not in found]:
            raise UserError(
                f"{repository} has no split {missing[0]!r}; it has {', '.join(found)}; "
                "correct `splits`"
            )
        named = {
            ours: [path.removeprefix(start) for name in theirs for path in found[name]]
            for ours, theirs in splits.items()
        }
        wanted = sorted({escape(path) for paths in named.values() for path in paths})
        folder = _download(repository, commit, "dataset", card + wanted, what)
    except Exception as error:
        if isinstance(error, UserError) or is_out_of_memory(error):
            raise
        told = f"{repository} at {revision} cannot be loaded: {one_line(error)}"
        raise (UnavailableError(told) if offline else UserError(f"{told}; try again")) from None
    return {ours: {path: folder / path for path in paths} for ours, paths in named.items()}, commit


def download_model(
    repository: str, revision: str, files: Sequence[str] = MODEL_FILES
) -> tuple[Path, str]:
    """Download a model's files that match one of some patterns; return their folder, the commit.

    Raises UserError if the hub cannot be reached, or what came is not what the hub says it has.
    """
    what = f"the model {repository} at {revision}"
    try:
        commit = resolved_commit(repository, revision, "model")
    except UnavailableError as error:
        raise UserError(f"{error}; check the name, the revision and the network") from None
    with reading(what):
        return _download(repository, commit, "model", files, what), commit


def _download(repository: str, commit: str, kind: str, names: Sequence[str], what: str) -> Path:
    """Return the folder of a repository's files, downloaded and compared with its checksums."""
    from huggingface_hub import HfApi, constants, snapshot_download

    here = {"repo_type": kind, "revision": commit}
    # of a model, other formats' copies lie in folders
    wanted = {"allow_patterns": list(names), "ignore_patterns": ["*/*"] * (kind == "model")}
    folder = snapshot_download(repository, **here, **wanted)
    if not constants.HF_HUB_OFFLINE:  # the hub's client does not compare by itself
        for wrong in HfApi().verify_repo_checksums(repository, **here).mismatches:
            file = Path(folder, wrong["path"])
            file.resolve().unlink()
            file.unlink(missing_ok=True)  # a link into the cache
            raise UserError(
                f"{what}: {wrong['path']} came with the checksum {wrong['actual']}, but the hub "
                f"states {wrong['expected']}; it was removed: run the same command again to "
                "download it anew"
            )
    return Path(folder)
