"""GPU kernels, one operation a module: Triton on a GPU, plain torch (``reference``) elsewhere.

A module is imported where its operation is needed: ``from ctfast.kernels.epilogue import epilogue``. This one loads
nothing.
"""
