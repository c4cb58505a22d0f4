"""YAML files: configurations and definitions of tasks."""

from pathlib import Path
from typing import Any

import yaml

from ntktune.errors import UserError, not_there


def load_yaml(path: str | Path) -> dict:
    """Read one YAML file; raise UserError if it cannot be read or holds no keys and values."""
    path = Path(path)
    try:
        content = _parsed_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise not_there(path, "correct the path") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        if "mapping values are not allowed" in told:
            told += "; quote a value that holds ': '"
        raise UserError(f"{path} is not valid YAML: {told}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values, not {type(content).__name__}")
    return content


def _check_keys(root: yaml.Node | None) -> None:
    """Raise YAMLError if a key stands twice in one place: YAML would silently take the last."""
    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        if node in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(node)  # an alias leads to a node again
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
            continue
        lines = {}
        for key, value in node.value:
            todo.append(value)
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines and not key.tag.endswith(":merge"):
                raise yaml.YAMLError(
                    f"the key {key.value!r} stands in line {lines[name]} and again in line "
                    f"{line}; give it once, with all that belongs to it"
                )
            lines[name] = line


def _parsed_yaml(text: str) -> Any:
    """Do what yaml.safe_load does, in C where PyYAML has it: each job on a cluster reads all."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        node = loader.get_single_node()
        _check_keys(node)
        return loader.construct_document(node) if node else None
    finally:
        loader.dispose()
