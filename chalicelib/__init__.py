"""The integration system: see `README.md` for a map of what is where."""

import gc
import os

if os.environ.get("AWS_LAMBDA_FUNCTION_NAME"):
    # Nearly all that a cold start loads stays, so looking for garbage in between costs a tenth of it for nothing.
    gc.disable()  # until `wiring.loaded()`
