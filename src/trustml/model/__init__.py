"""One face over torch modules, scikit-learn estimators, transformers models and callables."""

from trustml.model.face import Model
from trustml.model.observation import Observation
from trustml.model.precomputed import precomputed
from trustml.model.wrapping import as_model, wrap

__all__ = ["Model", "Observation", "as_model", "precomputed", "wrap"]
