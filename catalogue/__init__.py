"""The catalogue: one YAML file per integration type, checked by ``schema.json`` and compiled to ``supabase/seed.sql``.

``python -m catalogue`` compiles. Nothing of this package is deployed: the database holds what it makes.
"""
