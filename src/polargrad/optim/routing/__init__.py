"""Routing: which parameter is which matrix, and which rule steps it."""

from polargrad.optim.routing.explain import Explanation, explain
from polargrad.optim.routing.groups import param_groups
from polargrad.optim.routing.policies import POLICIES, Policy
from polargrad.optim.routing.roles import ROLES, Assignment, assign

__all__ = [
    "POLICIES",
    "ROLES",
    "Assignment",
    "Explanation",
    "Policy",
    "assign",
    "explain",
    "param_groups",
]
