"""The ground floor: tensors, parameters, batches, per-example gradients, features, losses.

Nothing here knows of curvature, models or trust; every floor above builds on these modules and
imports them by name (``from trustml.core.batches import as_data``).
"""
