"""Real data that ships with scikit-learn, shifts and corruptions of it, tables from files.

Nothing here downloads, but for ``fetch_openml``.
"""

from trustml.datasets._corruptions import CORRUPTIONS, Corruption, corrupt
from trustml.datasets._examples import Example, Split, diabetes_risk, digits
from trustml.datasets._foreign import foreign_images
from trustml.datasets._tables import Table, fetch_openml, load_table

__all__ = [
    "CORRUPTIONS",
    "Corruption",
    "Example",
    "Split",
    "Table",
    "corrupt",
    "diabetes_risk",
    "digits",
    "fetch_openml",
    "foreign_images",
    "load_table",
]
