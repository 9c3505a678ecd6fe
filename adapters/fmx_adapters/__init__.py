"""The model formats that come with fmx, one subpackage each, registered under the entry-point group ``fmx.adapters``.

Importing a subpackage imports no framework: that happens when a source is opened.
"""
