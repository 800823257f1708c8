"""Executors: how a function of whole matrices is mapped over parameters, wherever they are."""

from polargrad.distributed.local import LocalExecutor, Source, executor_for

__all__ = ["LocalExecutor", "Source", "executor_for"]
