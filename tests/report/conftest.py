import pytest

from neftune.records import StudyResult
from neftune.report.evidence import Evidence, gather
from tests.synthetic import make_study

SMALL = {"train": 8, "heldout": 12, "test": 16}


@pytest.fixture(scope="session")
def study() -> StudyResult:
    return make_study(sizes=SMALL)


@pytest.fixture(scope="session")
def evidence(study: StudyResult) -> Evidence:
    return gather(study)
