"""Per-class sums of features give the statistics of any set of classes."""

import numpy as np
import pytest

from erase.errors import UserError
from erase.metrics.fid import distance, statistics
from erase.reference import read_reference, reference_of, write_reference

LABELS = np.repeat([0, 3, 281], [40, 30, 1])


@pytest.fixture(scope="module")
def features():
    draws = np.random.default_rng(0).normal(size=(len(LABELS), 6))
    return (draws * [1, 2, 0.1, 1, 1, 5] + 10 + LABELS[:, None] % 7).astype(np.float32)


@pytest.mark.parametrize("classes", [[0], [3], [0, 3], [3, 281], [0, 3, 281], [0, 3, 5]])
def test_statistics_of_classes_are_those_of_their_features(features, tmp_path, classes):
    write_reference(reference_of(features, LABELS), tmp_path)
    found = read_reference(tmp_path).statistics(classes)
    wanted = statistics(features[np.isin(LABELS, classes)])
    np.testing.assert_allclose(found["mu"], wanted["mu"], rtol=1e-6)
    np.testing.assert_allclose(found["sigma"], np.cov(features[np.isin(LABELS, classes)].astype(float).T), rtol=1e-9)
    assert found["mu"].dtype == wanted["mu"].dtype
    assert distance(found, wanted) == pytest.approx(0, abs=1e-4)
    other = statistics(features[:20])
    assert distance(other, found) == pytest.approx(distance(other, wanted), rel=1e-5)


def test_one_image_or_a_pack_without_them_is_refused(features, tmp_path):
    with pytest.raises(UserError, match="at least 2 images, not 1"):
        reference_of(features, LABELS).statistics([281])
    with pytest.raises(UserError, match=r"reference\.safetensors"):
        read_reference(tmp_path)
