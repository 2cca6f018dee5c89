"""Read a Weights & Biases run that was written offline, without a server."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

BLOCK, HEADER = 32768, 7
FULL, LAST = 1, 4


def read_run(run_dir: str | Path, timeout: float = 60.0) -> dict[str, Any]:
    """History, summary, config, metrics, alerts, artifacts and tables of the run in `run.settings.sync_dir`.

    `run.finish()` returns before the file is flushed, so this waits for the record of the run's exit.
    """
    found = _wait_for_records(next(Path(run_dir).glob("*.wandb")), timeout)
    run: dict[str, Any] = {"history": [], "summary": {}, "config": {}, "metrics": [], "alerts": [], "artifacts": []}
    run["tables"] = {}
    for record in found:
        _READERS.get(record.WhichOneof("record_type"), lambda run, record: None)(run, record)
    return run


def _wait_for_records(file: Path, timeout: float) -> list[Any]:
    end = time.monotonic() + timeout
    while True:
        found = list(_records(file))
        if any(record.HasField("exit") for record in found) or time.monotonic() > end:
            return found
        time.sleep(0.02)


def _records(file: Path) -> Iterator[Any]:
    """The whole records of a file: a 7-byte header, then LevelDB's log of chunks in blocks of 32 KiB.

    The end of a file that is being written may lie within a chunk.
    """
    content, position, part = file.read_bytes(), HEADER, b""
    while position + HEADER <= len(content):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        _crc, size, kind = struct.unpack_from("<IHB", content, position)
        if position + HEADER + size > len(content):
            return
        part, position = part + content[position + HEADER : position + HEADER + size], position + HEADER + size
        if kind in (FULL, LAST):
            yield pb.Record.FromString(part)
            part = b""


def _merge(tree: dict[str, Any], items: Any) -> None:
    """`{"a/b": Image}` arrives as the nested key `["a/b", "path"]`, and so on."""
    for item in items:
        *parents, leaf = list(item.nested_key) or [item.key]
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = json.loads(item.value_json)


def _history(run: dict[str, Any], record: Any) -> None:
    run["history"].append({})
    _merge(run["history"][-1], record.history.item)


def _artifact(run: dict[str, Any], record: Any) -> None:
    entries = record.artifact.manifest.contents
    files = {entry.path: Path(entry.local_path) for entry in entries if entry.local_path}
    run["artifacts"].append((record.artifact.name, record.artifact.type, files))
    for name, path in files.items():  # pictures in cells exist only here
        if name.endswith(".table.json"):
            run["tables"].setdefault(name.removesuffix(".table.json"), []).append(json.loads(path.read_text()))


_READERS = {
    "history": _history,
    "artifact": _artifact,
    "summary": lambda run, record: _merge(run["summary"], record.summary.update),
    "run": lambda run, record: _merge(run["config"], record.run.config.update),
    "config": lambda run, record: _merge(run["config"], record.config.update),
    "metric": lambda run, record: run["metrics"].append(
        (record.metric.name or record.metric.glob_name, record.metric.step_metric)
    ),
    "alert": lambda run, record: run["alerts"].append((record.alert.level, record.alert.title, record.alert.text)),
}
