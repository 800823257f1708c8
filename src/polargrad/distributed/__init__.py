"""Executors: how a function of whole matrices is mapped over parameters, wherever they are."""

from polargrad.distributed.local import LocalExecutor, executor_for

__all__ = ["LocalExecutor", "executor_for"]
