"""Executors: how a function of whole matrices is mapped over parameters, wherever they are."""

from polargrad.distributed.gram import GramExecutor, GramSource, goes_by_gram
from polargrad.distributed.local import LocalExecutor, Source
from polargrad.distributed.placement import check_layout, is_distributed, local_part
from polargrad.distributed.schedule import Output, SharedSource
from polargrad.distributed.shared import SharedExecutor
from polargrad.distributed.sharing import Sharing

__all__ = [
    "GramExecutor",
    "GramSource",
    "LocalExecutor",
    "Output",
    "SharedExecutor",
    "SharedSource",
    "Sharing",
    "Source",
    "check_layout",
    "goes_by_gram",
    "is_distributed",
    "local_part",
]
