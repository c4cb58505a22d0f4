"""YAML files: configurations and definitions of tasks."""

from pathlib import Path

import yaml

from ntktune.errors import UserError, not_there


def load_yaml(path: str | Path) -> dict:
    """Read one YAML file; raise UserError if it cannot be read or holds no keys and values."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if hasattr(yaml, "CSafeLoader"):  # far faster, and each job on a cluster reads all
            content = yaml.load(text, Loader=yaml.CSafeLoader)
        else:
            content = yaml.safe_load(text)
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
