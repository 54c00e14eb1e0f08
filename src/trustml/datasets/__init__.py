"""Real data that ships with scikit-learn, shifts and corruptions of it, tables from files.

Nothing here downloads, but for ``fetch_openml`` and loaders that are told to: ``download=True``.
"""

from trustml.datasets._adult import load_adult
from trustml.datasets._compas import load_compas
from trustml.datasets._corruptions import CORRUPTIONS, Corruption, corrupt
from trustml.datasets._datasheet import Datasheet
from trustml.datasets._examples import Example, Split, diabetes_risk, digits
from trustml.datasets._foreign import foreign_images
from trustml.datasets._german_credit import load_german_credit
from trustml.datasets._tables import Table, fetch_openml, load_table

__all__ = [
    "CORRUPTIONS",
    "Corruption",
    "Datasheet",
    "Example",
    "Split",
    "Table",
    "corrupt",
    "diabetes_risk",
    "digits",
    "fetch_openml",
    "foreign_images",
    "load_adult",
    "load_compas",
    "load_german_credit",
    "load_table",
]
