"""Results on disk: whole or not at all."""

import json
import math
from pathlib import Path
from typing import Any

from bsam.files import written_whole


def write_json(path: Path, content: Any) -> None:
    """Write JSON to a file atomically: what stood there before stays until all is written.

    JSON has no numbers that are not finite; they become the strings "inf", "-inf" and "nan".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary, temporary.open("w") as file:
        json.dump(_without_infinities(content), file, indent=1, allow_nan=False)
        file.write("\n")


def _without_infinities(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_infinities(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_infinities(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content
