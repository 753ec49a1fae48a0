"""The scikit-learn face: a transformer, a classifier and a regressor with flat parameters."""

try:
    import sklearn  # noqa: F401
    from sklearn.utils.validation import validate_data  # noqa: F401
except ImportError as error:
    raise ModuleNotFoundError(
        "Expected the package `scikit-learn`, 1.6 or newer, to be installed. "
        'Run `pip install "keras-sda[sklearn]"`.',
        name="sklearn",
    ) from error

from sda.estimators.classifier import SdAClassifier
from sda.estimators.regressor import SdARegressor
from sda.estimators.transformer import SdATransformer

__all__ = ["SdAClassifier", "SdARegressor", "SdATransformer"]
