"""What a run leaves behind: its folder and settings, records as JSONL, provenance, figures."""

from polargrad.records.extras import require
from polargrad.records.files import write_atomically
from polargrad.records.json_files import read_json, write_json
from polargrad.records.jsonl import RecordWriter, read_records, rewind_records
from polargrad.records.lock import exclusive
from polargrad.records.provenance import provenance
from polargrad.records.run_folder import RunFolder

__all__ = [
    "RecordWriter",
    "RunFolder",
    "exclusive",
    "provenance",
    "read_json",
    "read_records",
    "require",
    "rewind_records",
    "write_atomically",
    "write_json",
]
