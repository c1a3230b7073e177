"""Each kernel's twin in plain torch: the same signature, float32 inside. What the CPU runs, and tests compare with."""
