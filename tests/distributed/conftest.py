"""Runs cases in processes: many of them in one launch."""

import pytest
import ranks


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns a function that runs (function, arguments) cases and returns their results by case.

    Functions are those of a module. Each result is a list, one for each process.
    """

    def together(count, cases, module="shared_cases", **options):
        folder = tmp_path_factory.mktemp("ranks")
        given = [(module, function, arguments) for function, arguments in cases]
        results = ranks.launch(count, given, folder, **options)
        for of_rank in results:
            for result in of_rank or ():
                assert not isinstance(result, str) or "Traceback" not in result, result
        return [[of_rank[i] for of_rank in results] for i in range(len(cases))]

    return together
