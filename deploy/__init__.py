"""Deploying the system to AWS: what `chalice deploy` leaves out is done before and after it. `docs/operations.md`."""
