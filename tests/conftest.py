"""Plugins that the whole suite uses."""

pytest_plugins = ["pytester"]
