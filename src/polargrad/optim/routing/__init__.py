"""Routing: which parameter is which matrix, and which rule steps it."""

from polargrad.optim.routing.explain import Explanation, explain
from polargrad.optim.routing.groups import param_groups
from polargrad.optim.routing.roles import Assignment, assign

__all__ = ["Assignment", "Explanation", "assign", "explain", "param_groups"]
